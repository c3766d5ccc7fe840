"""From a budget to knob values.

Calibration measured the share of work at a number of prices. The mean share falls as the price rises,
apart from noise, so a budget is met at the lowest price whose share is within it; between two measured
prices both are interpolated linearly. Points that differ in another knob than the price belong to
another *setting*: nothing is interpolated across settings, the best one within the budget is taken.

Where noise makes the measured share rise with the price, the upper monotone envelope stands in for it:
the largest share measured at this price or a higher one. It is never below the line through the
measured points, so the expected share never exceeds the budget, and one point measured too low cannot
make a dear price look cheap. Only the cheapest measured point is taken at its word: a budget between
it and the envelope runs exactly that point.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from adaptrt.runtime.budget import Budget
from adaptrt.runtime.bundle_schema import PRICE_KNOB, Bundle, CurvePoint
from adaptrt.runtime.errors import BudgetError


@dataclass(frozen=True)
class OperatingPoint:
    """Knob values, and what calibration lets expect of them.

    Attributes:
        knobs: a value for every knob of the bundle.
        macs_fraction: expected mean share of the dense model's work; NaN where never calibrated.
        quality: expected on held-out data; None where it was not measured.
        reachable: False if the budget is below the cheapest point, which this then is.
    """

    knobs: dict[str, float]
    macs_fraction: float
    quality: float | None
    reachable: bool = True


@dataclass(frozen=True)
class _Node:
    """A calibrated point.

    ``price`` is the float32 that the graph gets, ``merit`` (the calibrated quality, higher is better,
    minus infinity if unknown) is what settings are chosen by.
    """

    knobs: dict[str, float]
    price: float
    fraction: float
    quality: float | None
    merit: float

    @staticmethod
    def of(point: CurvePoint, defaults: Mapping[str, float]) -> _Node:
        knobs = {**defaults, **point.knobs}
        fraction, merit = point.calibration_macs_fraction, point.calibration_quality
        merit = point.quality if merit is None else merit
        return _Node(
            knobs,
            price=float(np.float32(knobs.get(PRICE_KNOB, 0.0))),
            fraction=point.macs_fraction if fraction is None else fraction,
            quality=point.quality,
            merit=-math.inf if merit is None else merit,
        )

    def point(self, *, reachable: bool = True) -> OperatingPoint:
        return OperatingPoint(dict(self.knobs), self.fraction, self.quality, reachable)


@dataclass(frozen=True)
class _Solution:
    """A setting's answer to a budget.

    ``merit`` is the setting's best within the budget, not the point's own: it never falls as the budget
    grows, whatever the noise. The choice between settings therefore only moves to a setting that has
    just gained, at a larger share, and the share run never falls either.
    """

    point: OperatingPoint
    merit: float


class BudgetSolver:
    """Solves budgets for one bundle; immutable, so any number of threads may ask it.

    The expected share never exceeds a reachable budget, never falls when the budget grows, and at a
    measured point of a monotone curve is that point.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._dense_macs = bundle.dense.macs
        self._name = bundle.name
        defaults = {knob.name: knob.default for knob in bundle.knobs}
        nodes = [_Node.of(point, defaults) for point in bundle.curve]
        settings: dict[tuple[float, ...], list[_Node]] = {}
        for node in nodes:
            others = tuple(value for name, value in sorted(node.knobs.items()) if name != PRICE_KNOB)
            settings.setdefault(others, []).append(node)
        self._settings = [_Setting(members) for members in settings.values()]
        self._full = _everything(nodes, defaults)

    def solve(self, budget: Budget) -> OperatingPoint:
        """The operating point to run under a budget.

        A budget below the cheapest point gives the cheapest, with ``reachable`` False.

        Raises:
            BudgetError: the bundle has no curve, and the budget is not ``Budget.full()``.
        """
        if budget.kind == "full":
            return self._full
        if not self._settings:
            raise BudgetError(
                f"got a budget of {budget}, but bundle {self._name!r} has no calibrated curve; "
                "run `adaptrt calibrate` on it, use Budget.full(), or pass knobs"
            )
        target = budget.value if budget.kind == "fraction" else budget.value / self._dense_macs
        solutions = [found for setting in self._settings if (found := setting.solve(target)) is not None]
        if solutions:
            return max(solutions, key=lambda found: (found.merit, found.point.macs_fraction)).point
        return _cheapest(setting.cheapest for setting in self._settings).point(reachable=False)


class _Setting:
    """The calibrated points that differ in nothing but the price, from the cheapest to the dearest."""

    def __init__(self, nodes: Iterable[_Node]) -> None:
        measured: dict[float, _Node] = {}  # highest price first; of several at one price the dearest
        for node in sorted(nodes, key=lambda node: (-node.price, node.fraction)):
            measured[node.price] = node
        self._nodes = list(measured.values())
        self.cheapest = _cheapest(self._nodes)
        self._envelope = list(accumulate((node.fraction for node in self._nodes), max))
        merits = accumulate((node.merit for node in self._nodes), max, initial=self.cheapest.merit)
        self._best = list(merits)[1:]

    def solve(self, target: float) -> _Solution | None:
        """The point at the lowest price whose expected share is at most ``target``; None: there is none."""
        index = bisect_right(self._envelope, target) - 1
        if index < 0:
            cheapest = self.cheapest
            return _Solution(cheapest.point(), cheapest.merit) if cheapest.fraction <= target else None
        below, low = self._nodes[index], self._envelope[index]
        exact = _Solution(OperatingPoint(dict(below.knobs), low, below.quality), self._best[index])
        if index + 1 == len(self._nodes):
            return exact
        above, high = self._nodes[index + 1], self._envelope[index + 1]
        way = (target - low) / (high - low)
        price = _round_up(below.price + way * (above.price - below.price), above=above.price)
        if price >= below.price:
            return exact
        way = (below.price - price) / (below.price - above.price)
        quality = None
        if below.quality is not None and above.quality is not None:
            quality = below.quality + way * (above.quality - below.quality)
        merit = self._best[index]
        if math.isfinite(below.merit) and math.isfinite(above.merit):
            merit = max(merit, min(below.merit + way * (above.merit - below.merit), above.merit))
        return _Solution(OperatingPoint({**below.knobs, PRICE_KNOB: price}, target, quality), merit)


def _round_up(price: float, *, above: float) -> float:
    """The next float32, and never as low as ``above``: rounded down, more would run than the budget."""
    rounded = np.float32(price)
    if float(rounded) < price or float(rounded) <= above:
        rounded = np.nextafter(max(rounded, np.float32(above)), np.float32(math.inf))
    return float(rounded)


def _cheapest(nodes: Iterable[_Node]) -> _Node:
    return min(nodes, key=lambda node: (node.fraction, -node.merit))


def _everything(nodes: Sequence[_Node], defaults: Mapping[str, float]) -> OperatingPoint:
    """All knobs at their defaults; what to expect there is measured there, or where most was run."""
    if not nodes:
        return OperatingPoint(dict(defaults), math.nan, None)
    at_default = [node for node in nodes if node.knobs == defaults]
    node = max(at_default or nodes, key=lambda node: node.fraction)
    return OperatingPoint(dict(defaults), node.fraction, node.quality)
