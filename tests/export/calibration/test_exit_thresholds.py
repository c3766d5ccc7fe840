"""Thresholds: shares are never exceeded, prices are obeyed, and what is computed is what would be decided."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.isotonic import IsotonicRegression

from adaptrt.export.calibration.exit_thresholds import (
    NEXT_TO_NOTHING,
    PriceRule,
    ShareRule,
    exits_taken,
    never_rising,
    threshold_range,
)
from adaptrt.export.errors import CalibrationError

counts = st.tuples(st.integers(2, 4), st.integers(1, 40))


def made(stages, samples, seed, levels=None):
    """Confidence that tells how likely a sample is right, correctness, loss and cost."""
    generator = np.random.default_rng(seed)
    confidence = generator.random((stages, samples)).astype(np.float32)
    if levels is not None:
        confidence = np.floor(confidence * levels).astype(np.float32) / levels
    correct = generator.random((stages, samples)) < confidence
    loss = np.where(correct, 0.1, 2.0) * generator.random((stages, samples))
    cost = np.cumsum(generator.random((stages, samples)) + 0.05, 0)
    return confidence, correct, loss, cost


records = st.builds(
    lambda size, seed, levels: made(*size, seed, levels),
    counts,
    st.integers(0, 10_000),
    st.one_of(st.none(), st.integers(1, 4)),
)


def mean_at(exits, values):
    return float(values[exits, np.arange(values.shape[1])].mean())


@settings(deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda early: st.tuples(
            arrays.arrays(np.float32, (early + 1, 7), elements=st.sampled_from([np.nan, 0.0, 0.5, 1.0])),
            st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=early, max_size=early),
        )
    )
)
def test_strictly_surer_samples_leave(case):
    confidence, thresholds = case
    expected = [
        next((i for i, limit in enumerate(thresholds) if confidence[i, sample] > limit), len(thresholds))
        for sample in range(7)
    ]
    assert exits_taken(confidence, np.array(thresholds)).tolist() == expected


class TestShares:
    @settings(deadline=None)
    @given(records, st.floats(0.01, 100))
    def test_no_share_is_exceeded(self, case, p):
        confidence, correct, _, cost = case
        rule = ShareRule(confidence, correct, cost)
        exits = exits_taken(confidence, rule.thresholds(p))
        shares, left = rule.shares(p), confidence.shape[1]
        assert shares.sum() == pytest.approx(1) and np.diff(np.log(shares)) == pytest.approx(np.log(p))
        for stage, share in enumerate(shares[:-1]):
            assert (exits == stage).sum() <= left * share / shares[stage:].sum() + 1e-6
            left -= (exits == stage).sum()

    @settings(deadline=None)
    @given(counts, st.integers(0, 10_000), st.floats(0.02, 50))
    def test_shares_are_met_where_confidences_differ(self, size, seed, p):
        confidence, correct, _, cost = made(*size, seed)
        rule = ShareRule(confidence, correct, cost)
        exits = exits_taken(confidence, rule.thresholds(p))
        for stage, share in enumerate(rule.shares(p)[:-1]):
            assert abs((exits == stage).sum() - share * size[1]) < size[0]  # whole samples, carried on

    def test_the_first_exit_is_as_msdnet_walks(self):
        """Their loop, for confidences that differ: the sample that fills the share still leaves there."""
        confidence, correct, _, cost = made(2, 100, 4)
        rule = ShareRule(confidence, correct, cost)
        for p in (0.1, 0.5, 1.0, 2.0):
            surest = np.argsort(-confidence[0])[: int(100 * rule.shares(p)[0])]
            assert sorted(surest) == np.flatnonzero(exits_taken(confidence, rule.thresholds(p)) == 0).tolist()

    @settings(deadline=None, max_examples=30)
    @given(records, st.floats(0, 1))
    def test_a_target_is_kept_and_used(self, case, way):
        confidence, correct, _, cost = case
        rule = ShareRule(confidence, correct, cost)
        first, last = cost[0].mean(), cost[-1].mean()
        target = first + way * (last - first)
        choice = rule.solve(target)
        exits = exits_taken(confidence, choice.thresholds)
        assert choice.cost <= target
        assert choice.cost == pytest.approx(mean_at(exits, cost))
        assert choice.quality == pytest.approx(mean_at(exits, correct))
        assert not any(choice.cost < other.cost <= target for other in rule.grid)

    def test_with_one_early_exit_a_target_is_met_to_the_sample(self):
        confidence, correct, _, _ = made(2, 400, 3)
        cost = np.repeat([[0.25], [1.0]], 400, 1)
        rule = ShareRule(confidence, correct, cost)
        for target in np.linspace(0.25, 1.0, 40):
            assert target - 0.75 / 400 - 1e-9 <= rule.solve(target).cost <= target

    def test_what_the_first_exit_costs_is_the_least(self):
        confidence, correct, _, _ = made(3, 50, 0)
        rule = ShareRule(confidence, correct, np.repeat([[0.25], [0.5], [1.0]], 50, 1))
        with pytest.raises(CalibrationError, match=r"got a target of 0.2 .*, expected at least 0.25"):
            rule.solve(0.2)
        assert rule.solve(0.25).thresholds[0] < confidence[0].min()
        everything = rule.solve(7.0)
        assert everything.cost == 1.0 and everything.thresholds.tolist() == confidence[:-1].max(1).tolist()

    def test_a_chain_goes_from_the_first_exit_to_the_last(self):
        confidence, correct, _, cost = made(3, 300, 1)
        chain = ShareRule(confidence, correct, cost).chain(9)
        costs = [choice.cost for choice in chain]
        assert len(chain) == 9 and costs == sorted(costs)
        assert costs[0] == pytest.approx(cost[0].mean()) and costs[-1] == pytest.approx(cost[-1].mean())
        assert max(np.diff(costs)) < 2 * (costs[-1] - costs[0]) / 8

    def test_levels_are_not_split(self):
        """Patience: confidence is a count."""
        confidence = np.array([[0] * 10, [0] * 6 + [1] * 4, [0, 1, 2, 0, 1, 2, 2, 2, 2, 2]], np.float32)
        correct = np.ones((3, 10), bool)
        cost = np.repeat([[0.3], [0.6], [1.0]], 10, 1)
        rule = ShareRule(confidence, correct, cost)
        for choice in rule.grid:
            assert set(choice.thresholds) <= {threshold_range(confidence)[0][0], 0.0, 1.0}
        assert rule.solve(0.85).cost == pytest.approx(0.84)  # the four that agree leave at the second head

    def test_nan_never_leaves(self):
        confidence, correct, _, cost = made(3, 20, 2)
        confidence[:, :5] = np.nan
        rule = ShareRule(confidence, correct, cost)
        for choice in rule.grid:
            assert (exits_taken(confidence, choice.thresholds)[:5] == 2).all()


class TestPrice:
    @settings(deadline=None)
    @given(records, st.lists(st.floats(0, 20), min_size=2, max_size=8))
    def test_thresholds_fall_from_never_to_always(self, case, prices):
        confidence, _, loss, cost = case
        rule = PriceRule(confidence, loss, cost)
        chain = rule.chain(sorted([0.0, *prices, rule.maximum, rule.maximum + 20]))
        lowest, highest = threshold_range(confidence)
        assert (chain[0] == highest).all() and (chain[-1] == lowest).all()
        assert (exits_taken(confidence, chain[0]) == len(chain[0])).all()
        assert (exits_taken(confidence, chain[-1]) == 0).all()
        assert (np.diff(chain, axis=0) <= 0).all()
        assert (rule.thresholds(rule.maximum) == lowest).all() and rule.maximum > 0
        assert (rule.highest == highest).all()

    @settings(deadline=None)
    @given(counts, st.integers(0, 10_000), st.floats(0.01, 3))
    def test_one_threshold_is_the_best_there_is(self, size, seed, price):
        confidence, _, loss, cost = made(2, size[1], seed)
        rule = PriceRule(confidence, loss, cost)

        def total(threshold):
            exits = exits_taken(confidence, np.array([threshold]))
            return mean_at(exits, loss + price * cost)

        found = total(rule.thresholds(price)[0])
        assert found <= min(total(threshold) for threshold in [-1.0, 1.0, *confidence[0]]) + 1e-9

    @settings(deadline=None)
    @given(st.integers(0, 10_000), st.floats(0.05, 3), st.one_of(st.none(), st.integers(2, 5)))
    def test_it_is_where_the_isotonic_fit_of_the_gain_crosses_zero(self, seed, price, levels):
        confidence, _, loss, cost = made(2, 60, seed, levels)
        rule = PriceRule(confidence, loss, cost)
        threshold = rule.thresholds(price)[0]
        if price >= rule.maximum:
            return
        gain = loss[0] - loss[1] - price * (cost[1] - cost[0])
        fit = IsotonicRegression(increasing=False).fit(confidence[0], gain).predict(confidence[0])
        goes_on = confidence[0] <= threshold
        assert (fit[goes_on] >= -1e-9).all() and (fit[~goes_on] <= 1e-9).all()

    def test_going_on_counts_the_best_later_exit(self):
        """The second exit is no better than the first, the third is: a rule that looked one stage ahead would stop."""
        samples = 100
        confidence = np.stack([np.linspace(0, 1, samples)] * 3).astype(np.float32)
        loss = np.stack([np.full(samples, 2.0), np.full(samples, 2.0), np.zeros(samples)])
        cost = np.repeat([[0.2], [0.4], [0.6]], samples, 1)
        rule = PriceRule(confidence, loss, cost)
        assert rule.thresholds(4.0).tolist() == [1.0, 1.0]  # 2 nats for 0.4 of the work are worth 4 per share
        assert (exits_taken(confidence, rule.thresholds(6.0)) == 0).all()
        assert rule.maximum == pytest.approx(5.0, rel=1e-5)

    def test_a_confidence_of_zero_can_leave(self):
        confidence = np.zeros((2, 5), np.float32)
        rule = PriceRule(confidence, np.ones((2, 5)), np.repeat([[0.5], [1.0]], 5, 1))
        assert (exits_taken(confidence, rule.thresholds(0.5)) == 0).all()
        assert (exits_taken(confidence, rule.thresholds(0.0)) == 1).all()

    def test_levels_of_patience(self):
        confidence = np.array([[0] * 30, [0] * 10 + [1] * 20, [2] * 30], np.float32)
        loss = np.array([[1.0] * 30, [1.0] * 10 + [0.0] * 20, [0.0] * 30])
        cost = np.repeat([[0.2], [0.5], [1.0]], 30, 1)
        rule = PriceRule(confidence, loss, cost)
        assert rule.thresholds(1.0).tolist() == [0.0, 0.0]  # those that agree leave at the second head

    def test_nan_is_never_confident(self):
        confidence, _, loss, cost = made(3, 30, 5)
        confidence[:2, :6] = np.nan
        rule = PriceRule(confidence, loss, cost)
        for price in (0.1, 1.0, rule.maximum):
            assert (exits_taken(confidence, rule.thresholds(price))[:6] == 2).all()
        confidence[:2] = np.nan  # nothing to choose
        rule = PriceRule(confidence, loss, cost)
        assert (exits_taken(confidence, rule.thresholds(1.0)) == 2).all()

    def test_prices_spread_the_work(self):
        hardness, depth = np.linspace(0, 1, 500), np.array([[1.0], [2.0], [4.0]])
        confidence, loss = (1 - hardness / depth).astype(np.float32), hardness**2 / depth
        cost = np.repeat([[0.3], [0.6], [1.0]], 500, 1)
        loss[0, -1] = 30  # one sample that is worth going on for at almost any price
        rule = PriceRule(confidence, loss, cost)
        prices = rule.spread(12)
        work = [mean_at(exits_taken(confidence, own), cost) for own in rule.chain(prices)]
        assert prices[0] == NEXT_TO_NOTHING and prices[-1] == rule.maximum and prices == sorted(prices)
        assert work[0] < cost[-1].mean() and work[-1] == pytest.approx(cost[0].mean())
        assert max(-np.diff(work)) < 0.35 * (work[0] - work[-1])

    def test_next_to_nothing_buys_what_is_free(self):
        """Samples that later exits get wrong more often leave at any price but 0."""
        samples = 50
        confidence = np.stack([np.linspace(0, 1, samples)] * 2).astype(np.float32)
        loss = np.stack([np.full(samples, 0.5), np.where(confidence[0] > 0.6, 0.7, 0.1)])
        rule = PriceRule(confidence, loss, np.repeat([[0.5], [1.0]], samples, 1))
        (threshold,) = rule.thresholds(NEXT_TO_NOTHING)
        assert 0.58 < threshold <= 0.6 and rule.thresholds(0.0) == [1.0]

    def test_prices_ascend(self):
        confidence, _, loss, cost = made(2, 5, 0)
        with pytest.raises(ValueError, match="ascending"):
            PriceRule(confidence, loss, cost).chain([1.0, 0.5])


class TestAnyConfidence:
    """A confidence is any number that grows with certainty: thresholds follow it, whatever its unit."""

    @settings(deadline=None, max_examples=50)
    @given(records, st.floats(0.05, 3), st.sampled_from([(2.35, 0.01), (-700.0, 30.0), (1e30, 1e29), (1e-30, 1e-31)]))
    def test_another_unit_gives_the_same_exits(self, case, price, unit):
        confidence, correct, loss, cost = case
        shift, factor = unit
        other = (shift + factor * confidence.astype(np.float64)).astype(np.float32)
        if any(len(np.unique(a)) != len(np.unique(b)) for a, b in zip(confidence, other, strict=True)):
            return  # float32 tells fewer of them apart there
        for rule in (PriceRule, ShareRule):
            judged = loss if rule is PriceRule else correct
            plain, moved = rule(confidence, judged, cost), rule(other, judged, cost)
            exits = exits_taken(confidence, plain.thresholds(price))
            assert (exits_taken(other, moved.thresholds(price)) == exits).all()

    def test_the_range_is_what_was_seen(self):
        confidence = np.array([[2.25, 2.5, np.nan, np.inf], [np.nan] * 4, [0.0] * 4], np.float32)
        lowest, highest = threshold_range(confidence)
        assert lowest.tolist() == [np.nextafter(np.float32(2.25), np.float32(-1)), 0.0]
        assert highest.tolist() == [2.5, 0.0]


def test_never_rising():
    found = never_rising(np.array([[1.0, 0.9], [0.4, 1.0], [0.6, 0.2]], np.float32))
    assert found.tolist() == np.array([[1.0, 0.9], [0.4, 0.9], [0.4, 0.2]], np.float32).tolist()


@pytest.mark.parametrize("shapes", [[(3, 4), (2, 4)], [(1, 4), (1, 4)], [(3, 0), (3, 0)], [(3,), (3,)]])
def test_records_that_do_not_fit(shapes):
    confidence, other = (np.zeros(shape, np.float32) for shape in shapes)
    with pytest.raises(CalibrationError, match=r"expected \[stages, samples\]"):
        PriceRule(confidence, other, other)
    with pytest.raises(CalibrationError, match=r"expected \[stages, samples\]"):
        ShareRule(confidence, other, other)


def test_shares_at_the_ends():
    confidence, correct, _, cost = made(3, 5, 0)
    rule = ShareRule(confidence, correct, cost)
    assert rule.shares(0).tolist() == [1, 0, 0] and rule.shares(math.inf).tolist() == [0, 0, 1]
