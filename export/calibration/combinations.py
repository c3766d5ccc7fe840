"""The search over knob combinations: chains that each follow one rule, and sampled points that beat them all.

Chains, as far as a bundle has the knobs for them:

- ``price``: one price for everything, exits at that price.
- ``acm``, ``tokens``, ``exits``: one family alone, the others off.
- ``exits by share``: exits alone, by MSDNet's rule.
- ``hard``: the same work for every input.

A pass over calibration data records what every stage says, so any number of exit thresholds is judged
per pass. What is left to search is the plane of the two prices; passes there are sampled around the
``price`` chain, the best there is if the families' scales are right. Sampled points stay in the curve
only where they are on the frontier and better than every chain by more than noise explains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from adaptrt.export.calibration.evaluations import Evaluations
from adaptrt.export.calibration.exit_thresholds import NEXT_TO_NOTHING, Floats, PriceRule, ShareRule, never_rising
from adaptrt.export.calibration.frontier import mark_frontier, spread_prices
from adaptrt.export.calibration.hard_budget import CAPACITY_KNOB, KEEP_KNOB, SoftLine, hard_chain
from adaptrt.export.calibration.stage_records import Knobs, Outcome, StageRecords
from adaptrt.export.errors import CalibrationError
from adaptrt.runtime.bundle.schema import (
    PRICE_KNOB,
    SNAPPING_SETTING,
    THRESHOLDS_KNOB,
    TOKEN_PRICE_KNOB,
    Bundle,
)

COMMON, ACM, TOKENS, EXITS, SHARES, HARD = "price", "acm", "tokens", "exits", "exits by share", "hard"
"""Settings of the chains."""

CALIBRATED = frozenset({PRICE_KNOB, TOKEN_PRICE_KNOB, THRESHOLDS_KNOB, CAPACITY_KNOB, KEEP_KNOB})
"""What the knobs of our families are called; others are the network's own, see ``own_knobs``."""
_SEED = 0
_FARTHEST = 8.0
"""Sampled prices are up to this factor away from the common one."""
_EXIT_PRICES = 16
"""Exit prices tried per pass."""
_WIDEST_LEAP = 1.5
"""Neighbouring points of one pass are at most this many times further apart in work than evenly spread ones."""
_HALVINGS = 24
_LEAST_GAIN = 1e-3
"""A sampled point has to be better than every chain by this much, however certain it is."""


@dataclass(frozen=True)
class Point:
    """A combination, measured on calibration data.

    Attributes:
        setting: The chain it belongs to, or ``sample`` with a number.
        passed: Knobs of the pass it was judged from.
        thresholds: Exit thresholds; None: nobody leaves early.
        outcome: What it costs and gives.
        hard: Whether it costs the same for every input.
    """

    setting: str
    passed: Knobs
    thresholds: Floats | None
    outcome: Outcome
    hard: bool = False

    @property
    def knobs(self) -> Knobs:
        """All that is fed, thresholds included."""
        if self.thresholds is None:
            return dict(self.passed)
        return {**self.passed, THRESHOLDS_KNOB: [float(threshold) for threshold in self.thresholds]}


def search(evaluations: Evaluations, *, points: int) -> list[Point]:
    """Measure every chain of a bundle, then sample with the passes that are left.

    Args:
        evaluations: The bundle's; its limit bounds the passes.
        points: Points per chain at most; fewer where the limit is too small for that.

    Returns:
        Chains one after the other, each from its cheapest knobs to its dearest, then the samples kept.

    Raises:
        CalibrationError: The limit is too small for two points per chain, the bundle has no knobs, or
            its price does not fit its exits.
    """
    families = Families(evaluations)
    chains = families.chains(_affordable(evaluations.model.bundle, evaluations.limit, points))
    soft = [chain for chain in chains if not chain[0].hard]
    return [point for chain in chains for point in chain] + _worth_keeping(families.samples(soft), soft)


def passes_needed(bundle: Bundle, points: int) -> int:
    """Passes over the calibration data that a bundle's chains take at most, sampling not among them."""
    knobs = {knob.name for knob in bundle.knobs}
    prices, exits = len(knobs & {PRICE_KNOB, TOKEN_PRICE_KNOB}), THRESHOLDS_KNOB in knobs
    needed = (0, 1 + exits, 3)[prices] * points or int(exits)
    if knobs & {CAPACITY_KNOB, KEEP_KNOB}:
        needed += (1 + (CAPACITY_KNOB in knobs)) * _hard_points(points)
    return needed


def _hard_points(points: int) -> int:
    """Between hard points whole numbers are interpolated: half as many are enough."""
    return max(2, (points + 1) // 2)


def _affordable(bundle: Bundle, limit: int, points: int) -> int:
    """Points per chain, as many as were asked for and the limit allows."""
    if passes_needed(bundle, 2) > limit:
        raise CalibrationError(
            f"got at most {limit} evaluations, expected at least {passes_needed(bundle, 2)} for the chains of bundle "
            f"{bundle.name!r}; allow more"
        )
    while passes_needed(bundle, points) > limit:
        points -= 1
    return points


class Families:
    """The families of one bundle: their chains, and samples off the chains."""

    def __init__(self, evaluations: Evaluations) -> None:
        self._evaluations, bundle = evaluations, evaluations.model.bundle
        self._bundle = bundle
        self._knobs = {knob.name: knob for knob in bundle.knobs}
        self._price, self._token_price = self._knobs.get(PRICE_KNOB), self._knobs.get(TOKEN_PRICE_KNOB)
        self._exits = self._knobs.get(THRESHOLDS_KNOB)
        if not self._knobs.keys() & CALIBRATED:
            raise CalibrationError(
                f"bundle {bundle.name!r} has none of the knobs {', '.join(sorted(CALIBRATED))}, expected one; "
                "nothing to calibrate"
            )
        if self._exits is not None and self._price is not None and self._price.minimum != 0:
            raise CalibrationError(
                f"got a price from {self._price.minimum:g} on in a bundle with exits, expected one from 0 on, in nats "
                "per share of the dense work; export the model with price scales"
            )
        self._off: Knobs = {} if self._price is None else {PRICE_KNOB: self._price.minimum}
        if self._token_price is not None:
            self._off[TOKEN_PRICE_KNOB] = 0.0
        self._rules: dict[int, PriceRule] = {}

    def chains(self, points: int) -> list[list[Point]]:
        """Every chain that the bundle has knobs for, hard ones last."""
        found = []
        if self._price is not None:
            found.append(self._common(points))
        if self._price is not None and (self._exits is not None or self._token_price is not None):
            found.append(self._alone(ACM if self._has_learners else TOKENS, PRICE_KNOB, points))
        if self._token_price is not None:
            found.append(self._alone(TOKENS, TOKEN_PRICE_KNOB, points))
        if self._exits is not None:
            found += self.exits_alone(points)
        if self._knobs.keys() & {CAPACITY_KNOB, KEEP_KNOB}:
            found += self._hard(_hard_points(points))
        return found

    @property
    def _has_learners(self) -> bool:
        """Whether ``price`` is of ACMs; without them it is of the token selections."""
        decisions = [decision for stage in self._bundle.stages for decision in stage.decisions]
        return not decisions or any(decision.kind == "learners" for decision in decisions)

    def _rule(self, records: StageRecords) -> PriceRule:
        """The price rule of a pass; passes are kept by ``Evaluations``, so their identity tells them apart."""
        assert self._exits is not None
        if id(records) not in self._rules:
            self._rules[id(records)] = PriceRule(records.confidence, records.loss, records.macs_fraction)
        return self._rules[id(records)]

    def _point(self, setting: str, passed: Knobs, thresholds: Floats | None) -> Point:
        outcome = self._evaluations.calibration(passed).outcome(thresholds)
        return Point(setting, passed, thresholds, outcome)

    def _common(self, points: int) -> list[Point]:
        """One price for everything, from the highest down."""
        assert self._price is not None
        self._evaluations.begin("one price for everything")
        exits, highest = self._exits, self._price.maximum

        def at(price: float) -> Point:
            passed: Knobs = {PRICE_KNOB: price}
            if exits is None:
                return self._point(COMMON, passed, None)
            rule = self._rule(self._evaluations.calibration(passed))
            return self._point(
                COMMON, passed, rule.thresholds(math.inf if price == highest else max(price, NEXT_TO_NOTHING))
            )

        bent = self._price.minimum == 0 and len(self._knobs.keys() & {TOKEN_PRICE_KNOB, THRESHOLDS_KNOB}) > 0
        # With exits the chain ends in one point more: nobody leaves.
        points = points if exits is None else max(points - 1, 2)
        prices = spread_prices(lambda price: at(price).outcome.cost, self._price.minimum, highest, points, bent=bent)
        found = [at(price) for price in prices]
        for place in range(1, len(found)):
            before, point = found[place - 1], found[place]
            if before.thresholds is None or point.thresholds is None or point.outcome.cost <= before.outcome.cost:
                continue
            # The passes differ, so that thresholds may rise with the price; work may not.
            lowered = never_rising(np.stack([before.thresholds, point.thresholds]))[-1]
            found[place] = self._point(COMMON, point.passed, lowered)
        return self._with_everything(found[::-1], points)

    def _with_everything(self, chain: list[Point], points: int) -> list[Point]:
        """A chain, and nobody leaving early at its dearest knobs."""
        dearest = chain[-1]
        if self._exits is None or dearest.thresholds is None:
            return chain
        # Above the largest confidence seen nobody seen leaves; that nobody leaves at all is said by infinity.
        found = [chain[-1]]
        highest = self._rule(self._evaluations.calibration(dearest.passed)).highest
        if not (dearest.thresholds == highest).all():
            found.append(self._point(dearest.setting, dearest.passed, highest))
        never = self._point(dearest.setting, dearest.passed, np.full_like(dearest.thresholds, np.inf))
        return [*self.without_gaps([*chain[:-1], *found], points), never]

    def without_gaps(self, chain: list[Point], points: int) -> list[Point]:
        """A chain with more points where work leaps between two of one pass.

        Confidences crowd together, so half-way between two thresholds is seldom half-way in work. Points in
        between cost no pass, and keep the work that the runtime expects of interpolated thresholds true.
        """
        widest = _WIDEST_LEAP * (chain[-1].outcome.cost - chain[0].outcome.cost) / (points - 1)
        found = chain[:1]
        for after in chain[1:]:
            before = found[-1]
            low, high, leap = before.thresholds, after.thresholds, after.outcome.cost - before.outcome.cost
            if low is not None and high is not None and before.passed == after.passed and (low <= high).all():
                steps = math.ceil(leap / widest) if leap > 0 else 1
                for step in range(1, steps):
                    found.append(self._between(before, after, before.outcome.cost + step * leap / steps))
            found.append(after)
        return found

    def _between(self, before: Point, after: Point, cost: float) -> Point:
        """The dearest point not above a cost on the way from one point's thresholds to the other's."""
        assert before.thresholds is not None and after.thresholds is not None
        first, way = before.thresholds.astype(np.float64), after.thresholds.astype(np.float64) - before.thresholds

        def at(share: float) -> Point:
            return self._point(before.setting, before.passed, (first + share * way).astype(np.float32))

        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if at(middle).outcome.cost <= cost else (low, middle)
        return at(low)

    def _alone(self, setting: str, knob: str, points: int) -> list[Point]:
        """One family's price from the highest down, the other one off, nobody leaving early."""
        self._evaluations.begin(f"{setting} alone")

        def fraction(price: float) -> float:
            return self._point(setting, {**self._off, knob: price}, None).outcome.cost

        highest, lowest = self._knobs[knob].maximum, max(self._knobs[knob].minimum, 0.0)
        if knob == PRICE_KNOB:
            lowest = self._knobs[knob].minimum
        prices = spread_prices(fraction, lowest, highest, points, bent=lowest == 0)
        return [self._point(setting, {**self._off, knob: price}, None) for price in reversed(prices)]

    def exits_alone(self, points: int) -> list[list[Point]]:
        """Early exit with everything else running in full, by price and by share; one pass for both."""
        assert self._exits is not None
        self._evaluations.begin("exits alone")
        records = self._evaluations.calibration(self._off)
        rule = self._rule(records)
        by_price = np.unique(rule.chain(rule.spread(max(points - 1, 2))), axis=0)  # ascending: from the cheapest
        by_share = ShareRule(records.confidence, records.quality, records.macs_fraction).chain(points)
        return [
            self._with_everything([self._point(EXITS, self._off, thresholds) for thresholds in by_price], points),
            [self._point(SHARES, self._off, choice.thresholds) for choice in by_share],
        ]

    def _hard(self, points: int) -> list[list[Point]]:
        """The same work for every input, as one price, or that of the one family that can, distributes it."""
        self._evaluations.begin("hard budgets")
        line = None
        if self._price is not None:
            knob, others = self._price, {}
            if self._token_price is not None and not {CAPACITY_KNOB, KEEP_KNOB} <= self._knobs.keys():
                knob, others = (self._price if CAPACITY_KNOB in self._knobs else self._token_price), self._off
            lowest = max(knob.minimum, 0.0) if knob is self._token_price else knob.minimum
            line = SoftLine(lambda price: {**others, knob.name: price}, lowest, knob.maximum, bent=lowest == 0)
        found = [
            Point(HARD, point.knobs, None, point.outcome, hard=True)
            for point in hard_chain(self._evaluations, line, points=points)
        ]
        if self._price is not None or self._exits is not None:
            return [found]
        return [[replace(point, setting=KEEP_KNOB, hard=False) for point in found], found]  # equal work is soft, too

    def samples(self, chains: Sequence[Sequence[Point]]) -> list[Point]:
        """Combinations off the chains: exit prices of their own at every pass, and passes around the common price."""
        if self._price is None:
            return []
        prices = sorted({*_values(chains, COMMON, PRICE_KNOB)})
        passes = {id(self._evaluations.calibration(point.passed)): point.passed for c in chains for point in c}
        sampled = self._sampled_passes(prices)
        self._evaluations.begin("combinations of prices")
        self._evaluations.prepare(sampled)
        for passed in sampled:
            passes.setdefault(id(self._evaluations.calibration(passed)), passed)
        if self._exits is None:
            return [self._point(SNAPPING_SETTING, passed, None) for passed in sampled]
        places = np.linspace(0, len(prices) - 1, min(_EXIT_PRICES, len(prices))).round().astype(int)
        exit_prices = [prices[place] for place in sorted({*places})]
        found = []
        for passed in passes.values():
            rule = self._rule(self._evaluations.calibration(passed))
            found += [self._point(SNAPPING_SETTING, passed, rule.thresholds(price)) for price in exit_prices]
        return found

    def _sampled_passes(self, prices: Sequence[float]) -> list[Knobs]:
        """As many pairs of prices as passes are left, around common prices spread evenly in work."""
        if self._token_price is None or self._price is None:
            return []
        generator, count = np.random.default_rng(_SEED), self._evaluations.left
        found: list[Knobs] = []
        for number in range(count):
            place = (number + generator.random()) / count * (len(prices) - 1)
            common = float(np.interp(place, range(len(prices)), prices))
            factors = np.exp(generator.uniform(-math.log(_FARTHEST), math.log(_FARTHEST), 2))
            pair = [float(np.float32(common * factor)) for factor in factors]
            found.append(
                {
                    PRICE_KNOB: min(max(pair[0], self._price.minimum), self._price.maximum),
                    TOKEN_PRICE_KNOB: min(max(pair[1], 0.0), self._token_price.maximum),
                }
            )
        return found


def _values(chains: Sequence[Sequence[Point]], setting: str, knob: str) -> list[float]:
    """A knob's values along a chain."""
    values = [point.passed[knob] for chain in chains for point in chain if point.setting == setting]
    return [value for value in values if not isinstance(value, list)]


def _worth_keeping(candidates: Sequence[Point], chains: Sequence[Sequence[Point]]) -> list[Point]:
    """Candidates on the frontier of everything that beat every chain by more than noise, cheapest first."""
    everything = [point for chain in chains for point in chain] + list(candidates)
    marks = mark_frontier([point.outcome.cost for point in everything], [point.outcome.quality for point in everything])
    passes = len({id(point.passed) for point in everything})
    # The best of n equally good candidates is about this many standard errors above their mean.
    errors = math.sqrt(2 * math.log(max(passes, 2)))
    best: dict[tuple[float, float], Point] = {}
    for point in (point for point, marked in zip(everything, marks, strict=True) if marked):
        if point.setting == SNAPPING_SETTING and all(_beats(point.outcome, chain, errors) for chain in chains):
            best.setdefault((point.outcome.cost, point.outcome.quality), point)
    ordered = [best[key] for key in sorted(best)]
    return [replace(point, setting=f"{SNAPPING_SETTING} {number}") for number, point in enumerate(ordered, start=1)]


def _beats(own: Outcome, chain: Sequence[Point], errors: float) -> bool:
    """Whether an outcome is better than what a chain gives for the same work, by so many standard errors.

    Samples are compared one by one with the chain's two neighbouring points, and with its best cheaper one.
    """
    ordered = sorted((point.outcome for point in chain), key=lambda outcome: outcome.cost)
    cheaper = [outcome for outcome in ordered if outcome.cost <= own.cost]
    if not cheaper:
        return True  # the chain has nothing for so little work
    rivals = [max(cheaper, key=lambda outcome: outcome.quality).qualities.astype(np.float64)]
    if len(cheaper) < len(ordered):
        below, above = cheaper[-1], ordered[len(cheaper)]
        way = (own.cost - below.cost) / (above.cost - below.cost)
        rivals.append((1 - way) * below.qualities + way * above.qualities)
    for rival in rivals:
        gain = own.qualities - rival
        if not gain.mean() > max(errors * gain.std() / math.sqrt(len(gain)), _LEAST_GAIN):
            return False
    return True
