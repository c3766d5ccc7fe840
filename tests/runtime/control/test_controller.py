"""The latency controller against simulated devices: everything it promises, without a clock."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrt.runtime import BudgetError
from adaptrt.runtime.control.controller import LatencyController
from adaptrt.runtime.control.device_model import DeviceModel, Finding
from adaptrt.runtime.control.response_curve import ResponseCurve

SHARES = tuple(0.3 + 0.08 * step for step in range(10))
CURVE = ResponseCurve(SHARES, tuple(1 + 9 * share for share in SHARES))


def play(controller, slowdown, *, seed=0, scatter=0.04, work=1.0, gap=0.02, offset=0.0, slope=1.0, scale=1.0):
    """Run through a trace: shares asked for, times."""
    generator, now, shares, times = np.random.default_rng(seed), 0.0, [], []
    for slow in slowdown:
        now += gap
        choice = controller.choose(now, scale)
        done = choice.fraction * work * math.exp(generator.normal(0, 0.01))
        took = (offset + slope * CURVE.at(done)) * slow * math.exp(generator.normal(0, scatter)) * scale
        now += took / 1e3
        controller.observe(now, choice, done, took, scale)
        shares.append(choice.fraction)
        times.append(took)
    return np.array(shares), np.array(times)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scatter=st.floats(0.005, 0.1),
    slope=st.floats(0.6, 1.6),
    offset=st.floats(0, 2),
    work=st.floats(0.8, 1.2),
)
def test_a_profile_that_is_wrong_is_corrected(seed, scatter, slope, offset, work):
    target = 0.75 * (offset + slope * CURVE.at(CURVE.full * work))
    controller = LatencyController(target, CURVE)
    shares, times = play(controller, np.ones(700), seed=seed, scatter=scatter, slope=slope, offset=offset, work=work)
    later = slice(100, None)
    assert (times[later] > target).mean() <= 0.065  # 600 calls: 0.0425 is aimed at, two deviations of chance above
    assert np.quantile(times[later], 0.95) > 0.9 * target or shares[later].mean() > 0.97 * CURVE.full


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_back_at_the_target_soon_after_a_step(factor):
    slowdown = np.ones(600) * (1.0 if factor > 1 else 2.0)
    slowdown[300:] *= factor
    controller = LatencyController(8.0, CURVE)
    _, times = play(controller, slowdown)
    for settled in (times[320:340], times[340:]):
        assert 0.8 * 8 < np.median(settled) < 8
    assert (times[320:] > 8).mean() < 0.08


def test_one_spike_changes_nothing_and_three_slow_calls_do():
    def shares_with(slow_calls):
        slowdown = np.ones(200)
        slowdown[150 : 150 + slow_calls] = 3
        controller = LatencyController(8.0, CURVE)
        shares, _ = play(controller, slowdown, scatter=0.0)
        return shares

    usual = shares_with(0)
    assert np.abs(shares_with(1) - usual).max() < 0.05
    assert shares_with(4)[153] < usual[153] - 0.2


def test_it_does_not_oscillate():
    shares, _ = play(LatencyController(8.0, CURVE), np.ones(1000), scatter=0.05)
    assert shares[200:].std() < 0.02
    moves = np.diff(shares[200:])
    assert (moves == 0).mean() > 0.5


def test_a_smaller_change_than_outliers_show_is_found_and_chance_is_not():
    generator, found = np.random.default_rng(0), []
    device = DeviceModel(10.0, 0.04)
    for call in range(6000):
        slow = 1.0 if call < 3000 else 0.88
        found.append(device.observe(7.0, 7.0 * slow * math.exp(generator.normal(0, 0.04))))
    steps = [call for call, finding in enumerate(found) if finding is Finding.STEP]
    assert any(3000 <= call < 3012 for call in steps)
    assert len(steps) <= 3


def test_frequent_outliers_in_a_row_are_no_step():
    def steps(odd):
        generator, device = np.random.default_rng(3), DeviceModel(10.0, 0.04)
        held_up = generator.random(3000) < 1 / 7
        took = 7.0 * np.exp(generator.normal(0, 0.04, 3000)) * np.where(held_up, 1.6, 1.0)
        return sum(device.observe(7.0, one, odd) is Finding.STEP for one in took.tolist())

    assert steps(1 / 7) <= 4 < steps(0.0)


def test_scatter_is_learned_anew_after_a_step():
    """A second process makes calls slower and holds every seventh up; it comes and goes."""
    on = np.arange(1600) // 200 % 2 == 1
    held_up = on & (np.random.default_rng(1).random(1600) < 1 / 7)
    shares, times = play(LatencyController(9.0, CURVE), np.where(on, 1.25, 1.0) * np.where(held_up, 1.5, 1.0))
    late = (times > 9.0).reshape(8, 200)
    assert late[1::2, 20:].mean() <= 0.06 and late[2::2, 20:].mean() <= 0.06  # 0.05 and what chance adds
    assert late[1::2, 20:80].mean() <= 0.08
    gone = shares.reshape(8, 200)[2::2]
    assert gone[:, 30:60].mean() > 0.9 * gone[:, 100:].mean()  # what held calls up is soon forgotten, too


def test_its_own_choice_is_not_taken_for_drift():
    """Going from cheap to dear changes the time fivefold; the device is as before."""
    controller = LatencyController(100.0, CURVE)
    play(controller, np.ones(200), scatter=0.02)  # everything runs
    before = controller._device.predict(CURVE.at(0.4))
    assert before == pytest.approx(CURVE.at(0.4), rel=0.05)


def test_calls_after_a_pause_are_slower_and_are_run_cheaper():
    controller, now = LatencyController(8.0, CURVE), 0.0
    first, warm, over = [], [], []
    for call in range(600):
        now += 5.0 if call % 20 == 0 else 0.02
        choice = controller.choose(now)
        cold = {0: 1.8, 1: 1.4, 2: 1.1}.get(call % 20, 1.0)
        took = CURVE.at(choice.fraction) * cold
        now += took / 1e3
        controller.observe(now, choice, choice.fraction, took)
        (first if call % 20 == 0 else warm).append(choice.fraction)
        over.append(took > 8.0)
    assert np.mean(first[5:]) < np.mean(warm[100:]) - 0.15
    assert np.mean(over[100:]) < 0.05


def test_a_batch_of_other_size_keeps_what_was_learned():
    controller = LatencyController(8.0, CURVE)
    play(controller, np.full(200, 1.2))
    single, double = controller.choose(controller._ended), controller.choose(controller._ended, scale=2.0)
    assert single.reachable and single.fraction > CURVE.cheapest + 0.1
    assert not double.reachable and double.fraction == CURVE.cheapest
    assert double.expected == pytest.approx(2 * 1.2 * CURVE.at(CURVE.cheapest), rel=0.05)


@pytest.mark.parametrize(
    ("now", "done", "took"),
    [
        (5.0, 0.5, math.nan),
        (5.0, 0.5, math.inf),
        (5.0, 0.5, -3.0),
        (5.0, 0.5, 0.0),
        (5.0, math.nan, 5.0),
        (-1e9, 0.5, 5.0),
        (5.0, 0.0, 5.0),
    ],
)
def test_measurements_that_cannot_be_are_left_out(now, done, took):
    controller, same = LatencyController(8.0, CURVE), LatencyController(8.0, CURVE)
    for one in (controller, same):
        play(one, np.ones(100))
    choice = controller.choose(4.9)
    controller.observe(now, choice, done, took)
    same.choose(4.9)
    assert controller._device.__dict__ == same._device.__dict__
    assert 0.3 <= controller.choose(6.0).fraction <= CURVE.full


@pytest.mark.parametrize(
    ("done", "took"),
    [(1.5e154, 5.0), (1e300, 5.0), (1e-300, 5.0), (0.5, 1.5e154), (0.5, 1e300), (0.5, 1e-300), (1e300, 1e300)],
)
def test_numbers_of_other_orders_are_left_out(done, took):
    """Their squares are no numbers: what they would do to the model is an error in the middle of a call, or worse."""
    controller, same = LatencyController(8.0, CURVE), LatencyController(8.0, CURVE)
    ended = sum(play(one, np.ones(100))[1].sum() / 1e3 for one in (controller, same)) / 2 + 100 * 0.02
    for _ in range(20):
        choice = controller.choose(ended + 0.01)
        assert choice.cold is None, "a call after a pause teaches the device model nothing anyway"
        controller.observe(ended + 0.02, choice, done, took)
        ended += 0.02
    assert controller._device.__dict__ == same._device.__dict__
    assert controller._workload.__dict__ == same._workload.__dict__


def test_a_process_that_was_stopped_for_a_minute_goes_on_as_before():
    controller = LatencyController(8.0, CURVE)
    shares, _ = play(controller, np.ones(200))
    choice = controller.choose(10.0)
    controller.observe(70.0, choice, choice.fraction, 60_000.0)
    for call in range(4):  # the first calls after a pause may be slow
        choice = controller.choose(70.1 + call * 0.02)
        controller.observe(70.11 + call * 0.02, choice, choice.fraction, CURVE.at(choice.fraction))
    assert controller.choose(70.3).fraction == pytest.approx(shares[-50:].mean(), abs=0.1)


@settings(max_examples=50, deadline=None)
@given(
    calls=st.lists(
        st.tuples(
            st.floats(allow_nan=True, allow_infinity=True),
            st.floats(allow_nan=True, allow_infinity=True),
            st.floats(allow_nan=True, allow_infinity=True),
        ),
        max_size=60,
    )
)
def test_whatever_it_is_told_its_choice_is_one(calls):
    controller = LatencyController(8.0, CURVE)
    for now, done, took in calls:
        choice = controller.choose(now)
        assert CURVE.cheapest <= choice.fraction <= CURVE.full and math.isfinite(choice.expected)
        controller.observe(now, choice, done, took)
    assert CURVE.cheapest <= controller.choose(0.0).fraction <= CURVE.full


def test_targets_out_of_reach_and_generous_ones():
    tight, generous = LatencyController(1.0, CURVE), LatencyController(100.0, CURVE)
    assert tight.choose(0.0).fraction == CURVE.cheapest and not tight.choose(0.0).reachable
    shares, _ = play(generous, np.ones(50))
    assert shares[-1] == CURVE.full and generous.choose(2.0).reachable


def test_the_percentile_is_the_one_asked_for():
    missed = {}
    for percentile in (0.6, 0.9, 0.99):
        controller = LatencyController(8.0, CURVE, percentile=percentile)
        _, times = play(controller, np.ones(3000), scatter=0.08)
        missed[percentile] = (times[200:] > 8).mean()
    assert missed[0.6] == pytest.approx(0.34, abs=0.06)
    assert missed[0.9] == pytest.approx(0.085, abs=0.02)
    assert missed[0.99] <= 0.012


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf])
def test_targets_that_are_none(target):
    with pytest.raises(BudgetError, match="expected a finite number above 0"):
        LatencyController(target, CURVE)


@pytest.mark.parametrize("percentile", [0.4, 1.0, math.nan])
def test_percentiles_that_are_none(percentile):
    with pytest.raises(BudgetError, match=r"expected 0\.5 to 0\.999"):
        LatencyController(8.0, CURVE, percentile=percentile)


@pytest.mark.parametrize("period", [100, 200])
def test_steps_that_come_again_and_again_are_made_up_for(period):
    slowdown = np.where(np.arange(3000) % period < period // 2, 1.0, 1.5)
    controller = LatencyController(8.0, CURVE, noise=0.05)
    _, times = play(controller, slowdown, scatter=0.05)
    assert (times[300:] > 8.0).mean() <= 0.055  # all calls, those right after a step as well


def test_calls_of_a_dear_kind_do_not_hold_back_the_others():
    controller, now, shares = LatencyController(8.0, CURVE, noise=0.02), 0.0, {1.0: [], 1.6: []}
    for scale in (1.0, 1.6) * 100:
        now += 0.02
        choice = controller.choose(now, scale)
        controller.observe(now, choice, choice.fraction, CURVE.at(choice.fraction) * scale, scale)
        shares[scale].append(choice.fraction)
    alone, _ = play(LatencyController(8.0, CURVE, noise=0.02), np.ones(100), scatter=0.0)
    assert np.mean(shares[1.0][20:]) > 0.95 * alone[20:].mean()
    assert np.mean(shares[1.6][20:]) < 0.8 * np.mean(shares[1.0][20:])


def test_more_kinds_of_calls_than_are_told_apart():
    controller = LatencyController(8.0, CURVE)
    for number in range(500):
        choice = controller.choose(number * 0.01, 1 + number / 500)
        assert CURVE.cheapest <= choice.fraction <= CURVE.full
    assert len(controller._last) <= 64


def test_threads_that_get_their_turn_late_are_no_clock_set_back():
    controller, now, colds = LatencyController(8.0, CURVE, cold=(2.0, 1.5, 1.2)), 0.0, []
    for _ in range(50):
        first, second = controller.choose(now), controller.choose(now - 5e-6)
        colds.append((first.cold, second.cold))
        now += 0.008
        controller.observe(now, first, first.fraction, CURVE.at(first.fraction))
        controller.observe(now - 5e-6, second, second.fraction, CURVE.at(second.fraction))
    assert set(colds[5:]) == {(None, None)}
    before = controller.choose(now).fraction
    for _ in range(10):  # slower calls are learned from, though they are told in another order
        late = controller.choose(now)
        now += 0.03
        controller.observe(now, late, late.fraction, 2 * CURVE.at(late.fraction))
        controller.observe(now - 1e-3, late, late.fraction, 2 * CURVE.at(late.fraction))
    assert controller.choose(now).fraction < 0.8 * before
