"""Knobs of a network's own: every entry walked from where everything runs to where least runs, with exits too.

Chains:

- ``together``: all entries the same share of their way.
- ``knobs``: one entry after the other, that next which costs least loss for the work that it saves. A greedy walk, in
  which an entry is measured again only when it comes first (lazy greedy, Minoux 1978).
- ``common``: the knobs of the better walk, samples leaving where going on gains less than the walk's own step does.
- ``exits`` and ``exits by share``: exits alone, as in other bundles.

Nothing is known of such a knob but its two ends: everything runs at its default, least at its other end.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from adaptrt.export.calibration.combinations import CALIBRATED, Families, Point
from adaptrt.export.calibration.evaluations import Evaluations
from adaptrt.export.calibration.exit_thresholds import NEXT_TO_NOTHING, Floats, PriceRule, never_rising
from adaptrt.export.calibration.frontier import spread_prices
from adaptrt.export.calibration.stage_records import Knobs
from adaptrt.export.errors import CalibrationError
from adaptrt.runtime.bundle.schema import THRESHOLDS_KNOB, Bundle, CurvePoint, Knob

TOGETHER, WALK, WITH_EXITS, RULE = "together", "knobs", "common", "rule"
"""Settings of the chains, and of the point that has the network's own thresholds."""


def has_own_knobs(bundle: Bundle) -> bool:
    """Whether a bundle has knobs that no family of ours has."""
    return bool({knob.name for knob in bundle.knobs} - CALIBRATED)


def search_own(evaluations: Evaluations, *, points: int) -> list[Point]:
    """Measure every chain of a bundle that has knobs of its own.

    Args:
        evaluations: The bundle's; its limit bounds the passes.
        points: Points per chain at most, at least 2.

    Raises:
        CalibrationError: A knob's default is neither of its ends, or the knobs change no work.
    """
    entries = _entries(evaluations.model.bundle)
    walk = _Walk(evaluations, entries)
    together = walk.together(min(points, evaluations.limit))
    cost = [point.outcome.cost for point in together]
    has_exits = any(knob.name == THRESHOLDS_KNOB for knob in evaluations.model.bundle.knobs)
    if max(cost) - min(cost) <= 0 and not has_exits:
        names = ", ".join(sorted({entry.knob.name for entry in entries}))
        raise CalibrationError(
            f"got {cost[0]:.4g} of the dense work wherever {names} stand, expected less towards their other ends; let "
            "them say what take leaves out, or how many learners run"
        )
    chains, best = [together], together
    if len(entries) > 1:
        one_by_one = walk.one_by_one(points)
        chains.append(one_by_one)
        best = max(chains, key=_merit)
    if has_exits:
        families = Families(evaluations)
        *finite, never = _with_exits(evaluations, best)
        chains.append([*families.without_gaps(finite, points), never])
        chains += families.exits_alone(points)
    return [point for chain in chains for point in chain]


def rule_point(evaluations: Evaluations, rule: Sequence[float]) -> Point:
    """The network's own thresholds, everything else running in full.

    Args:
        evaluations: Of a bundle with exits.
        rule: One threshold for each stage but the last.
    """
    thresholds = np.asarray(rule, np.float32)
    return Point(RULE, {}, thresholds, evaluations.calibration({}).outcome(thresholds))


def kept_rule(curve: Sequence[CurvePoint]) -> list[float] | None:
    """Thresholds of the ``rule`` point of a curve, if it has one: a bundle calibrated anew keeps it."""
    for point in curve:
        thresholds = point.knobs.get(THRESHOLDS_KNOB)
        if point.setting == RULE and isinstance(thresholds, list):
            return thresholds
    return None


@dataclass(frozen=True)
class _Entry:
    """One number of a knob.

    Attributes:
        knob: It belongs to.
        place: Among the knob's numbers.
        least: Its value where least runs.
    """

    knob: Knob
    place: int
    least: float

    def at(self, way: float) -> float:
        """Its value this share of the way from full to least, as the knob's type holds it."""
        value = self.knob.default + way * (self.least - self.knob.default)
        if np.dtype(self.knob.dtype).kind == "i":
            return float(round(value))
        return float(np.float32(value).clip(self.knob.minimum, self.knob.maximum))


def _entries(bundle: Bundle) -> list[_Entry]:
    found = []
    for knob in bundle.knobs:
        if knob.name == THRESHOLDS_KNOB:
            continue
        if knob.default not in (knob.minimum, knob.maximum):
            raise CalibrationError(
                f"got the knob {knob.name!r} with everything at {knob.default:g}, expected one of its ends, "
                f"{knob.minimum:g} or {knob.maximum:g}; export the network again"
            )
        least = knob.minimum if knob.default == knob.maximum else knob.maximum
        found += [_Entry(knob, place, least) for place in range(math.prod(knob.shape))]
    return found


class _Walk:
    """Ways from everything to least through a bundle's entries."""

    def __init__(self, evaluations: Evaluations, entries: Sequence[_Entry]) -> None:
        self._evaluations, self._entries = evaluations, list(entries)
        self._levels = [0.0, 1.0]

    def together(self, points: int) -> list[Point]:
        """All entries the same share of their way, cheapest first, spread evenly in work."""
        self._evaluations.begin("all knobs together")
        every = range(len(self._entries))

        def fraction(way: float) -> float:
            return self._point(TOGETHER, dict.fromkeys(every, way)).outcome.cost

        self._levels = spread_prices(fraction, 0.0, 1.0, points)
        return _falling([self._point(TOGETHER, dict.fromkeys(every, way)) for way in reversed(self._levels)])

    def one_by_one(self, points: int) -> list[Point]:
        """One entry after the other, cheapest first."""
        self._evaluations.begin("knobs one by one")
        count = max(2, 1 + (points - 1) // len(self._entries))
        places = np.linspace(0, len(self._levels) - 1, min(count, len(self._levels))).round().astype(int)
        levels = [self._levels[place] for place in sorted({*places.tolist()})]
        standing = dict.fromkeys(range(len(self._entries)), 0)

        def point(places_of: dict[int, int]) -> Point:
            return self._point(WALK, {entry: levels[place] for entry, place in places_of.items()})

        chain = [point(standing)]
        waiting = [(-math.inf, entry, -1) for entry in standing]  # the ratio is not known: measured when it comes first
        heapq.heapify(waiting)
        while waiting:
            ratio, entry, measured_at = heapq.heappop(waiting)
            moved = {**standing, entry: standing[entry] + 1}
            if measured_at < len(chain) and self._may(moved, levels):
                ratio = _ratio(chain[-1], point(moved))
                if waiting and ratio > waiting[0][0]:
                    heapq.heappush(waiting, (ratio, entry, len(chain)))
                    continue
            if not self._may(moved, levels):
                break  # no passes are left: the walk ends where it is
            chain.append(point(moved))
            standing = moved
            if standing[entry] + 1 < len(levels):
                heapq.heappush(waiting, (ratio, entry, -1))
        least = self._point(WALK, dict.fromkeys(standing, 1.0)) if self._may_least() else None
        if least is not None and standing != dict.fromkeys(standing, len(levels) - 1):
            chain.append(least)
        return _falling(chain[::-1])

    def _may(self, places: dict[int, int], levels: Sequence[float]) -> bool:
        """Whether a pass costs nothing, or there are passes left."""
        knobs = self._knobs({entry: levels[place] for entry, place in places.items()})
        return self._evaluations.known(knobs) or self._evaluations.left > 0

    def _may_least(self) -> bool:
        return self._evaluations.known(self._knobs(dict.fromkeys(range(len(self._entries)), 1.0)))

    def _knobs(self, ways: dict[int, float]) -> Knobs:
        values: dict[str, list[float]] = {}
        for number, entry in enumerate(self._entries):
            values.setdefault(entry.knob.name, []).append(entry.at(ways[number]))
        return {name: numbers[0] if len(numbers) == 1 else numbers for name, numbers in values.items()}

    def _point(self, setting: str, ways: dict[int, float]) -> Point:
        knobs = self._knobs(ways)
        return Point(setting, knobs, None, self._evaluations.calibration(knobs).outcome())


def _ratio(before: Point, after: Point) -> float:
    """Loss for the work saved; what saves nothing comes last."""
    saved = before.outcome.cost - after.outcome.cost
    return (after.outcome.loss - before.outcome.loss) / saved if saved > 0 else math.inf


def _falling(chain: list[Point]) -> list[Point]:
    """A chain, cheapest first, without points that are dearer than a later one or the same as it."""
    kept: list[Point] = []
    for point in reversed(chain):
        if not kept or (point.outcome.cost < kept[-1].outcome.cost and point.knobs != kept[-1].knobs):
            kept.append(point)
    return kept[::-1]


def _merit(chain: list[Point]) -> float:
    """Mean quality over the range of work, by trapezoids."""
    costs, qualities = [point.outcome.cost for point in chain], [point.outcome.quality for point in chain]
    if costs[-1] <= costs[0]:
        return qualities[-1]
    area = sum((b - a) * (p + q) / 2 for (a, b), (p, q) in zip(pairwise(costs), pairwise(qualities), strict=True))
    return area / (costs[-1] - costs[0])


def _with_exits(evaluations: Evaluations, walk: list[Point]) -> list[Point]:
    """The knobs of a walk with exits at the price of its own steps, cheapest first."""
    found: list[Point] = []
    thresholds: Floats | None = None
    price = NEXT_TO_NOTHING
    dearest = walk[-1]
    for before, point in pairwise([dearest, *reversed(walk)]):
        if point is not dearest or before is not dearest:
            price = max(price, _ratio(before, point))  # along the walk work gets dearer and dearer to save
        records = evaluations.calibration(point.passed)
        rule = PriceRule(records.confidence, records.loss, records.macs_fraction)
        own = rule.thresholds(min(price, rule.maximum))
        thresholds = own if thresholds is None else never_rising(np.stack([thresholds, own]))[-1]
        found.append(Point(WITH_EXITS, point.passed, thresholds, records.outcome(thresholds)))
    records = evaluations.calibration(walk[0].passed)
    rule = PriceRule(records.confidence, records.loss, records.macs_fraction)
    lowest = never_rising(np.stack([found[-1].thresholds, rule.thresholds(math.inf)]))[-1]  # type: ignore[list-item]
    found.append(Point(WITH_EXITS, walk[0].passed, lowest, records.outcome(lowest)))
    never = np.full_like(found[0].thresholds, np.inf)
    full = Point(WITH_EXITS, dearest.passed, never, evaluations.calibration(dearest.passed).outcome(never))
    return _falling([*found[::-1], full])
