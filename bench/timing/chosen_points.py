"""Which operating points of a bundle are worth measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adaptrt.bench.errors import BenchError
from adaptrt.runtime.bundle.bundle_file import Bundle, CurvePoint, Knob, KnobValue
from adaptrt.runtime.bundle.schema import PRICE_KNOB
from adaptrt.runtime.control.budget import Budget
from adaptrt.runtime.control.chains import Canonical, OperatingPoint, canonical
from adaptrt.runtime.control.operating_point import BudgetSolver

HEADLINE_FRACTIONS = (0.5, 0.6)
"""Budgets that are always among the points, where the model can meet them."""

_NEAR_HEADLINE = 0.01


@dataclass(frozen=True)
class Point:
    """An operating point to measure.

    Attributes:
        knobs: Values to feed; a knob that is not named stands at its default.
        macs_fraction: Mean share of the dense MACs on the held-out split; of a point that is not
            calibrated the expected one.
        quality: On the held-out split; of a point that is not calibrated interpolated.
        frontier: Whether no other point of the curve beats it on the calibration data.
        calibrated: Whether it is of the curve; else the runtime solved a budget for it.
    """

    knobs: dict[str, KnobValue]
    macs_fraction: float
    quality: float | None
    frontier: bool
    calibrated: bool


def choose_points(bundle: Bundle, count: int) -> list[Point]:
    """Choose points spread evenly by share of work, cheapest first.

    Of a curve along one price they are calibrated points. Of a curve of several settings they are what
    the runtime solves budgets from the cheapest to the full one to, so that they are what a user gets; points for
    hard budgets are not among them. The cheapest and the one at which everything runs always are, and
    what the runtime runs at 50% and at 60% of the dense work, where no other is within 1% of it.

    Args:
        bundle: Calibrated.
        count: How many, at least 2; fewer where several budgets get the same point.

    Raises:
        BenchError: The bundle has no curve for soft budgets, or ``count`` is below 2.
    """
    if count < 2:
        raise BenchError(f"got {count} points, expected at least 2: the cheapest and everything running")
    soft = [point for point in bundle.curve if not point.hard]
    if not soft:
        raise BenchError(
            f"bundle {bundle.name!r} has no calibrated curve for soft budgets; run `adaptrt calibrate` on it first"
        )
    solving = _Solving(bundle)
    if any(point.setting for point in soft):
        chosen = solving.spread(count)
    else:
        chosen = [of_curve(point, point.knobs) for point in _spread_evenly(soft, _everything(bundle, soft), count)]
    for fraction in HEADLINE_FRACTIONS:
        if all(abs(point.macs_fraction - fraction) > _NEAR_HEADLINE for point in chosen):
            headline = solving.solve(Budget.fraction(fraction))
            if headline is not None and all(headline.knobs != point.knobs for point in chosen):
                chosen.append(headline)
    return sorted(chosen, key=lambda point: point.macs_fraction)


def points_at(bundle: Bundle, budgets: Sequence[Budget]) -> list[Point]:
    """What the runtime runs under these budgets, each point once; budgets out of reach are left out.

    Raises:
        BudgetError: The bundle has no curve for one of them.
    """
    solving, found = _Solving(bundle), list[Point]()
    for budget in budgets:
        point = solving.solve(budget)
        if point is not None and all(point.knobs != other.knobs for other in found):
            found.append(point)
    return found


def of_curve(point: CurvePoint, knobs: Mapping[str, KnobValue]) -> Point:
    """A calibrated point, fed by ``knobs``."""
    return Point(dict(knobs), point.macs_fraction, point.quality, point.frontier, calibrated=True)


class _Solving:
    """Budgets to points: those of the curve with what was measured there, others with what is expected."""

    def __init__(self, bundle: Bundle) -> None:
        self._knobs, self._solver = bundle.knobs, BudgetSolver(bundle)
        self._measured: dict[tuple[Canonical, ...], CurvePoint] = {}
        for point in bundle.curve:
            key = _key(self._knobs, point.knobs)
            if key not in self._measured or point.frontier:
                self._measured[key] = point

    def spread(self, count: int) -> list[Point]:
        """Points at budgets spread evenly from the cheapest point to everything running."""
        cheapest, full = self._solver.solve(Budget.fraction(0.0)), self._solver.solve(Budget.full())
        between = np.linspace(cheapest.macs_fraction, full.macs_fraction, count)[1:-1]
        solved = [cheapest, *(self._solver.solve(Budget.fraction(float(share))) for share in between), full]
        found: list[Point] = []
        for each in solved:
            point = self._point(each)
            if all(point.knobs != other.knobs for other in found):
                found.append(point)
        return found

    def solve(self, budget: Budget) -> Point | None:
        """What runs under a budget; None where it is out of reach."""
        solved = self._solver.solve(budget)
        return self._point(solved) if solved.reachable else None

    def _point(self, solved: OperatingPoint) -> Point:
        fed = _without_defaults(self._knobs, solved.knobs)
        measured = self._measured.get(_key(self._knobs, solved.knobs))
        if measured is not None:
            return of_curve(measured, fed)
        return Point(fed, solved.macs_fraction, solved.quality, frontier=False, calibrated=False)


def _key(knobs: Sequence[Knob], values: Mapping[str, KnobValue]) -> tuple[Canonical, ...]:
    """The same for values that the graph cannot tell apart."""
    return tuple(canonical(values.get(knob.name, knob.default), knob) for knob in knobs)


def _without_defaults(knobs: Sequence[Knob], values: Mapping[str, KnobValue]) -> dict[str, KnobValue]:
    """Without the knobs that stand at their defaults; the price always stays."""
    return {
        knob.name: values[knob.name]
        for knob in knobs
        if knob.name == PRICE_KNOB or canonical(values[knob.name], knob) != canonical(knob.default, knob)
    }


def _everything(bundle: Bundle, curve: Sequence[CurvePoint]) -> CurvePoint:
    """The point at which all knobs are at their defaults, or else the dearest."""
    default = _key(bundle.knobs, {})
    at_default = [point for point in curve if _key(bundle.knobs, point.knobs) == default]
    return max(at_default or curve, key=lambda point: point.macs_fraction)


def _spread_evenly(curve: Sequence[CurvePoint], everything: CurvePoint, count: int) -> list[CurvePoint]:
    left = sorted(curve, key=lambda point: point.macs_fraction)
    if len(left) <= count:
        return left
    cheapest = left[0] if left[0] is not everything else left[1]
    chosen = [cheapest, everything]
    left = [point for point in left if point is not cheapest and point is not everything]
    step = (everything.macs_fraction - cheapest.macs_fraction) / (count - 1)
    for index in range(1, count - 1):
        target = cheapest.macs_fraction + index * step
        nearest = min(left, key=lambda point: abs(point.macs_fraction - target))
        chosen.append(nearest)
        left.remove(nearest)
    return chosen
