"""What calibration measured, in forms that answer a budget.

A **chain** is a series of points from the cheapest knobs to the dearest, along which all knobs move
together: between two neighbours the share of work is taken to be linear, and so are the knobs. Floats
are rounded towards the cheaper neighbour and whole numbers down, which costs at most what the line
says where the share is convex in the knobs, as an export chooses its chains of capacities.

Where noise makes the measured share fall on the way to dearer knobs, the upper monotone envelope stands
in for it: the largest share measured at these knobs or cheaper ones. It is never below the line through
the measured points, so the expected share never exceeds the budget, and one point measured too low
cannot make dear knobs look cheap. Only the cheapest measured point is taken at its word: a budget
between it and the envelope runs exactly that point.

**Snaps** are points that are run as they were measured or not at all.

A budget never runs what another point with the same or less work is better than: where more work was measured to be
no better, the chain stays at the cheaper point until something dearer is. A chain with a point of
unknown quality uses the budget up.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np

from adaptrt.runtime.bundle.schema import PRICE_KNOB, CurvePoint, Knob, KnobValue

Canonical = float | tuple[float, ...]
_BELOW_ONE = math.nextafter(1.0, 0.0)
_ROUNDING = 1e-12
"""Half way from 1 to 7 is 4, not 3, though a float may fall short of it by less than this."""


@dataclass(frozen=True)
class OperatingPoint:
    """Knob values, and what calibration lets expect of them.

    Attributes:
        knobs: a value for every knob of the bundle.
        macs_fraction: expected mean share of the dense model's work; NaN where never calibrated.
        quality: expected on held-out data; None where it was not measured.
        reachable: False if the budget is below the cheapest point, which this then is.
    """

    knobs: dict[str, KnobValue]
    macs_fraction: float
    quality: float | None
    reachable: bool = True


@dataclass(frozen=True)
class Node:
    """A calibrated point.

    Attributes:
        knobs: as calibrated, all of the bundle's.
        key: the same for equal knobs: the values that the graph gets, one number where all elements agree.
        fraction: share of the dense work that budgets are solved with.
        quality: held-out, reported.
        merit: what settings are chosen by: the calibrated quality less its standard error against the dearest
            point, minus infinity where unknown. Of two settings that came out alike on some thousand samples, one
            that answers as everything running does is the surer choice.
    """

    knobs: dict[str, KnobValue]
    key: dict[str, Canonical]
    fraction: float
    quality: float | None
    merit: float

    @staticmethod
    def of(point: CurvePoint, knobs: Sequence[Knob]) -> Node:
        """A point of the curve; a knob that it does not name stands at its default."""
        values = {knob.name: point.knobs.get(knob.name, knob.default) for knob in knobs}
        fraction, merit = point.calibration_macs_fraction, point.calibration_quality
        merit = point.quality if merit is None else merit - (point.calibration_error or 0.0)
        return Node(
            values,
            {knob.name: canonical(values[knob.name], knob) for knob in knobs},
            fraction=point.macs_fraction if fraction is None else fraction,
            quality=point.quality,
            merit=-math.inf if merit is None else merit,
        )

    @property
    def standing(self) -> tuple[float, float, float]:
        """By what one of several points with the same knobs is chosen."""
        return self.fraction, self.merit, -math.inf if self.quality is None else self.quality

    def point(self, share: float | None = None, *, reachable: bool = True) -> OperatingPoint:
        """Running exactly this; ``share`` is what is to be expected, None: what was measured."""
        return OperatingPoint(
            copy_knobs(self.knobs), self.fraction if share is None else share, self.quality, reachable
        )


@dataclass(frozen=True)
class Line:
    """From one point of a chain to the next: all that is run between the two lies on it.

    Attributes:
        ends: the cheaper point and the dearer one, each with the share that is to be expected of it.
    """

    ends: tuple[OperatingPoint, OperatingPoint]


@dataclass(frozen=True)
class Solution:
    """An answer to a budget: the best that its points have within it.

    So ``merit`` never falls as the budget grows, whatever the noise. The choice between settings therefore only
    moves to a setting that has just gained, at a larger share, and the share run never falls either.

    Attributes:
        point: what to run.
        merit: of that.
        line: on which it lies; None where it is a measured point as it stands.
    """

    point: OperatingPoint
    merit: float
    line: Line | None = None

    def copy(self) -> Solution:
        """One whose knobs the caller may change."""
        point = self.point
        copied = OperatingPoint(copy_knobs(point.knobs), point.macs_fraction, point.quality)
        return Solution(copied, self.merit, self.line)

    @property
    def rank(self) -> tuple[float, float]:
        """What the best answer has most of: merit, and of equal ones less work; without known merit, more."""
        share = self.point.macs_fraction
        return self.merit, -share if math.isfinite(self.merit) else share


class Calibrated(Protocol):
    """Some of the curve's points."""

    @property
    def cheapest(self) -> Node:
        """The point that does least."""

    @property
    def shares(self) -> Sequence[float]:
        """Every share at which another point comes within the budget, in order."""

    def solve(self, target: float) -> Solution | None:
        """The best whose expected share is at most ``target``; None where there is none."""


class Chain:
    """Points between which everything moves in step.

    Args:
        nodes: from the cheapest knobs to the dearest. Of several with the same knobs the dearest counts, and of
            equally dear ones the best, in whatever order they stand.
        knobs: the bundle's.
    """

    def __init__(self, nodes: Iterable[Node], knobs: Sequence[Knob]) -> None:
        measured: dict[tuple[Canonical, ...], Node] = {}
        for node in nodes:
            key = tuple(node.key.values())
            if key not in measured or node.standing > measured[key].standing:
                measured[key] = node
        self._knobs = knobs
        self._nodes = list(measured.values())
        self.cheapest = cheapest_of(self._nodes)
        self._envelope = list(accumulate((node.fraction for node in self._nodes), max))
        ends = [node.point(share) for node, share in self._measured()]
        self._lines = [Line(pair) for pair in pairwise(ends)]
        start = Solution(self.cheapest.point(), self.cheapest.merit)
        each = [Solution(node.point(share), node.merit) for node, share in self._measured()]
        known = all(math.isfinite(solution.merit) for solution in each)
        self._choose = _better if known else _dearer
        self._best = list(accumulate(each, self._choose, initial=start))

    @property
    def shares(self) -> list[float]:
        """The cheapest point's own, then those expected of the points."""
        return [self.cheapest.fraction, *self._envelope]

    def _measured(self) -> Iterator[tuple[Node, float]]:
        """The nodes, each with the share that is to be expected of it."""
        return zip(self._nodes, self._envelope, strict=True)

    def solve(self, target: float) -> Solution | None:
        """The best of the chain whose expected share is at most ``target``; None: there is none."""
        index = bisect_right(self._envelope, target) - 1
        best = self._best[index + 1]
        if index < 0:
            return best.copy() if best.point.macs_fraction <= target else None
        between = self._interpolated(index, target) if index + 1 < len(self._nodes) else None
        return self._choose(best, between).copy() if between is not None else best.copy()

    def _interpolated(self, index: int, target: float) -> Solution | None:
        """What lies on the way from one node to the next at a share; None where nothing does."""
        below, above = self._nodes[index : index + 2]
        low, high = self._envelope[index : index + 2]
        way = min((target - low) / (high - low), _BELOW_ONE)
        moved = {knob.name: moved for knob in self._knobs if (moved := _between(below, above, way, knob)) is not None}
        if way == 0 or not moved:
            return None
        quality = None
        if below.quality is not None and above.quality is not None:
            quality = below.quality + way * (above.quality - below.quality)
        merit = -math.inf
        if math.isfinite(below.merit) and math.isfinite(above.merit):
            merit = below.merit + way * (above.merit - below.merit)
        return Solution(OperatingPoint(copy_knobs(below.knobs) | moved, target, quality), merit, self._lines[index])


class Snaps:
    """Points that stand alone: the best one within the budget is run as it was measured."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        ordered = sorted(nodes, key=lambda node: (node.fraction, node.merit))
        self.cheapest = cheapest_of(ordered)
        self._fractions = [node.fraction for node in ordered]
        self._best = list(accumulate((Solution(node.point(), node.merit) for node in ordered), _better))

    @property
    def shares(self) -> list[float]:
        """Those of the points."""
        return self._fractions

    def solve(self, target: float) -> Solution | None:
        """The best whose share is at most ``target``; None: there is none."""
        index = bisect_right(self._fractions, target) - 1
        return self._best[index].copy() if index >= 0 else None


def by_price(nodes: Iterable[Node]) -> list[Node]:
    """In falling order of the price, of several at one price the cheaper first."""

    def price(node: Node) -> float:
        value = node.key.get(PRICE_KNOB, 0.0)
        return value if isinstance(value, float) else value[0]

    return sorted(nodes, key=lambda node: (-price(node), node.fraction))


def cheapest_of(nodes: Iterable[Node]) -> Node:
    """The least work; of equals the best."""
    return min(nodes, key=lambda node: (node.fraction, -node.merit))


def canonical(value: KnobValue, knob: Knob) -> Canonical:
    """The value that the graph gets, hashable, and the same whichever way it is written."""
    kind = np.dtype(knob.dtype).type
    if not isinstance(value, list):
        return float(kind(value))
    numbers = tuple(float(kind(number)) for number in value)
    return numbers[0] if len(set(numbers)) == 1 else numbers


def copy_knobs(knobs: Mapping[str, KnobValue]) -> dict[str, KnobValue]:
    """A copy that its owner may change."""
    return {name: value.copy() if isinstance(value, list) else value for name, value in knobs.items()}


def _better(one: Solution, other: Solution) -> Solution:
    """The later of two that are equal in merit and share, which has the dearer knobs."""
    return other if other.rank >= one.rank else one


def _dearer(one: Solution, other: Solution) -> Solution:
    """The later one, which may be worse or better; its merit never falls."""
    return Solution(other.point, max(one.merit, other.merit), other.line)


def _between(below: Node, above: Node, way: float, knob: Knob) -> KnobValue | None:
    """The knob's value so far on the way to the dearer neighbour; None where it is the cheaper one's."""
    near, far = below.knobs[knob.name], above.knobs[knob.name]
    if below.key[knob.name] == above.key[knob.name]:
        return None
    dtype = np.dtype(knob.dtype)
    if not isinstance(near, list) and not isinstance(far, list):
        moved = _move(near, far, way, dtype)
        return None if moved == near else moved
    size = math.prod(knob.shape)
    nears, fars = (value if isinstance(value, list) else [value] * size for value in (near, far))
    values = [_move(start, end, way, dtype) for start, end in zip(nears, fars, strict=True)]
    return None if values == nears else values


def _move(near: float, far: float, way: float, dtype: np.dtype[Any]) -> float:
    """Linear, rounded to what the graph can get: to the side of ``near``, or down for whole numbers.

    ``near`` itself comes back as it was written, and ``far`` never: more would run than the budget.
    Between a threshold and infinity, at which nobody leaves, there is nothing.
    """
    if math.isinf(near) or math.isinf(far):
        return near
    start, end = dtype.type(near), dtype.type(far)
    exact = float(start) + way * (float(end) - float(start))
    if dtype.kind != "f":
        whole = float(math.floor(exact + _ROUNDING))
        return min(whole, far - 1) if far > near else whole
    value = dtype.type(min(max(exact, float(min(start, end))), float(max(start, end))))
    if (float(value) - exact) * (float(end) - float(start)) > 0 or value == end:
        value = np.nextafter(value, start)
    return near if value == start else float(value)
