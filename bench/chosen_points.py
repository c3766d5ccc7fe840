"""Which operating points of a bundle are worth measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adaptrt.bench.errors import BenchError
from adaptrt.runtime.budget import Budget
from adaptrt.runtime.bundle import Bundle, CurvePoint
from adaptrt.runtime.operating_point import BudgetSolver

HEADLINE_FRACTION = 0.6
"""The budget that is always among the points, where the model can meet it."""

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

    knobs: dict[str, float]
    macs_fraction: float
    quality: float | None
    frontier: bool
    calibrated: bool


def choose_points(bundle: Bundle, count: int) -> list[Point]:
    """Choose points of the curve spread evenly by share of work, cheapest first.

    The cheapest and the one at which everything runs are among them, and one at 60% of the dense work,
    solved by the runtime where no other is within 1% of it.

    Args:
        bundle: Calibrated.
        count: How many, at least 2; all of a curve that has fewer.

    Raises:
        BenchError: The bundle has no curve, or ``count`` is below 2.
    """
    if count < 2:
        raise BenchError(f"got {count} points, expected at least 2: the cheapest and everything running")
    if not bundle.curve:
        raise BenchError(f"bundle {bundle.name!r} has no calibrated curve; run `adaptrt calibrate` on it first")
    chosen = [
        Point(dict(point.knobs), point.macs_fraction, point.quality, point.frontier, calibrated=True)
        for point in _spread_evenly(bundle.curve, _everything(bundle), count)
    ]
    if all(abs(point.macs_fraction - HEADLINE_FRACTION) > _NEAR_HEADLINE for point in chosen):
        solved = BudgetSolver(bundle).solve(Budget.fraction(HEADLINE_FRACTION))
        if solved.reachable:
            chosen.append(Point(solved.knobs, solved.macs_fraction, solved.quality, frontier=False, calibrated=False))
    return sorted(chosen, key=lambda point: point.macs_fraction)


def _everything(bundle: Bundle) -> CurvePoint:
    """The point at which all knobs are at their defaults, or else the dearest."""
    defaults = {knob.name: knob.default for knob in bundle.knobs}
    at_default = [point for point in bundle.curve if {**defaults, **point.knobs} == defaults]
    return max(at_default or bundle.curve, key=lambda point: point.macs_fraction)


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
