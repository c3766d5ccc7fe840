"""Budgets of energy and power on a device in simulation, and how the energy of a call is found out."""

from __future__ import annotations

import numpy as np
import pytest

from adaptrt.runtime import Budget, BudgetError
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.device.call_energy import CallEnergy
from adaptrt.runtime.device.device_budgets import DeviceBudgets
from adaptrt.runtime.device.profile import DeviceKey, Profile, ProfilePoint
from adaptrt.runtime.plan import Planner
from adaptrt.runtime.telemetry import EnergyCounter, Reading, Telemetry
from tests.runtime.conftest import TINY

IDLE_W, BUSY_W = 3.0, 10.0


def profile_of(planner: Planner, watts: float | None = BUSY_W) -> Profile:
    cheapest, full = planner.shares
    points = []
    for share in np.linspace(cheapest, full, 9).tolist():
        took = 2 + 20 * share
        points.append(ProfilePoint(share, share, 0.9, took, took * 1.1, 60, None if watts is None else took * watts))
    return Profile(DeviceKey("b", "e", "d", None, 1, 1, 2, None), points, 0.03, [1.0, 1.0, 1.0], 3.0)


class SimulatedApp:
    """Calls every ``period`` seconds; the device draws some watts while a call runs and fewer between."""

    def __init__(self, *, period: float, busy_w: float = BUSY_W, seed: int = 0) -> None:
        self.planner = Planner(read_bundle(TINY))
        self.budgets = DeviceBudgets(self.planner)
        self.budgets.use(profile_of(self.planner))
        self.budgets.measure_energy(self)  # type: ignore[arg-type]
        self.now, self.spent_mj, self.busy_w, self.period = 0.0, 0.0, busy_w, period
        self._marks: dict[float, float] = {}
        self._noise = np.random.default_rng(seed)

    def begin(self, now: float) -> None:
        self._marks[now] = self.spent_mj

    def millijoules(self, start: float, end: float) -> float:
        assert end == self.now
        return self.spent_mj - self._marks[start]

    def call(self, budget: Budget, *, own: bool = False):
        begun = self.now
        ticket = self.budgets.begin(budget, 1, self.now, for_call=own, profiler=None)  # type: ignore[arg-type]
        done = ticket.plan.point.macs_fraction
        took = (2 + 20 * done) * 1e-3 * float(np.exp(self._noise.normal(0, 0.03)))
        self.now += took
        self.spent_mj += took * self.busy_w * 1e3
        spent = self.budgets.end(ticket, done, took * 1e3, self.now)
        pause = max(self.period - (self.now - begun), 0.0)
        self.now += pause
        self.spent_mj += pause * IDLE_W * 1e3
        return ticket, spent


@pytest.mark.parametrize("busy_w", [7.0, 10.0, 14.0])
def test_energy_of_calls_is_held_though_the_profile_is_wrong(busy_w):
    app = SimulatedApp(period=0.03, busy_w=busy_w)
    cheapest, full = app.planner.shares
    target = (2 + 20 * (0.4 * cheapest + 0.6 * full)) * 10.0
    spent = [app.call(Budget.energy(target, percentile=0.9))[1] for _ in range(400)]
    assert np.mean(np.array(spent[100:]) > target) < 0.13
    assert np.median(spent[100:]) > 0.75 * target or busy_w == 7.0


def test_average_power_is_held_pauses_included():
    app = SimulatedApp(period=0.03)
    full = app.planner.shares[1]
    unlimited = (2 + 20 * full) / 30 * (BUSY_W - IDLE_W) + IDLE_W
    for watts in (unlimited - 1.0, unlimited - 2.0):
        begun, before = app.now, app.spent_mj
        for _ in range(400):
            ticket, spent = app.call(Budget.power(watts))
        assert spent > 0
        drawn = (app.spent_mj - before) / (app.now - begun) / 1e3
        assert drawn <= watts * 1.03 and (drawn > watts * 0.9 or ticket.plan.point.macs_fraction < 0.5)
        app.budgets.reset()


def test_a_call_with_its_own_budget_goes_by_the_profile():
    app = SimulatedApp(period=0.03)
    cheapest, full = app.planner.shares
    generous, _ = app.call(Budget.energy(1e6), own=True)
    tight, _ = app.call(Budget.energy(1e-3), own=True)
    assert generous.plan.point.macs_fraction == pytest.approx(full) and generous.plan.point.reachable
    assert not tight.plan.point.reachable and "mJ" in tight.plan.message
    assert app.call(Budget.power(BUSY_W + 0.1), own=True)[0].plan.point.macs_fraction == pytest.approx(full)
    assert not app.call(Budget.power(BUSY_W - 0.1), own=True)[0].plan.point.reachable
    assert cheapest < full


@pytest.mark.parametrize("other", [Budget.power(5.0), Budget.energy(60.0), Budget.latency(9.0)])
def test_calls_with_their_own_budget_teach_the_model_s_nothing(other):
    """Neither its controller nor the pauses that its power budget goes by."""
    apps = [SimulatedApp(period=0.03, seed=3) for _ in range(2)]
    budget = Budget.power(6.0)
    for app in apps:
        for _ in range(60):
            app.call(budget)
    before, interval = apps[0].budgets._last, apps[0].budgets._interval
    for _ in range(20):
        apps[0].call(other, own=True)
    assert apps[0].budgets._last is before and apps[0].budgets._interval == interval
    assert apps[0].budgets._controller.__dict__.keys() == apps[1].budgets._controller.__dict__.keys()
    one, same = (app.budgets._controller for app in apps)
    assert one._device.__dict__ == same._device.__dict__ and one._margin.__dict__ == same._margin.__dict__


def test_a_call_with_its_own_power_budget_just_before_does_not_shrink_the_next_call_s_share():
    """The pauses between the app's calls are what a power budget goes by; a call in between begins no pause."""
    app, budget = SimulatedApp(period=0.03, seed=3), Budget.power(6.0)
    for _ in range(100):
        usual, _ = app.call(budget)
    intervals = [app.budgets._interval]
    for _ in range(30):
        app.call(budget)
        ticket = app.budgets.begin(Budget.power(5.0), 1, app.now - 1e-4, for_call=True, profiler=None)
        app._marks[ticket.begun] = app.spent_mj
        app.budgets.end(ticket, 0.5, 2.0, app.now)
        intervals.append(app.budgets._interval)
    assert intervals == pytest.approx([0.03] * len(intervals), rel=0.05)
    after, _ = app.call(budget)
    assert after.plan.point.macs_fraction == pytest.approx(usual.plan.point.macs_fraction, abs=0.1)


def test_own_budgets_of_power_go_by_the_profile_s_watts():
    app = SimulatedApp(period=0.0, busy_w=2 * BUSY_W)
    full = app.planner.shares[1]
    for _ in range(20):
        ticket, _ = app.call(Budget.power(BUSY_W + 0.1), own=True)
    assert ticket.plan.point.macs_fraction == pytest.approx(full) and ticket.plan.point.reachable


def play_own(app, budget, calls, factor, pause=0.0):
    """Calls with their own latency budget on a device that takes ``factor`` times what was profiled."""
    tickets, times = [], []
    for _ in range(calls):
        ticket = app.budgets.begin(budget, 1, app.now, for_call=True, profiler=None)
        done = ticket.plan.point.macs_fraction
        took = (2 + 20 * done) * factor * float(np.exp(app._noise.normal(0, 0.03)))
        app.now += took / 1e3
        app.budgets.end(ticket, done, took, app.now)
        app.now += pause
        tickets.append(ticket), times.append(took)
    return tickets, np.array(times)


@pytest.mark.parametrize("pause", [0.0, 1.0])
def test_a_profile_that_is_plainly_wrong_is_noticed_by_calls_with_their_own_budget(pause):
    app = SimulatedApp(period=0.0)
    cheapest, full = app.planner.shares
    target = 2 + 20 * full  # with what was profiled everything fits
    tickets, times = play_own(app, Budget.latency(target), 20, 1.0, pause)
    assert (times <= target * 1.1).all() and all(ticket.plan.point.reachable for ticket in tickets)
    tickets, times = play_own(app, Budget.latency(target), 40, 2.0, pause)
    assert (times[:3] > target).all() and (times[6:] <= target).mean() >= 0.9
    assert tickets[-1].expected == pytest.approx(np.median(times[10:]), rel=0.15)
    tickets, _ = play_own(app, Budget.latency(target), 20, 9.0, pause)  # even the cheapest point is out of reach
    assert not tickets[-1].plan.point.reachable and "expected to take up to" in tickets[-1].plan.message
    tickets, _ = play_own(app, Budget.latency(target), 60, 1.0, pause)
    assert tickets[-1].plan.point.reachable
    assert tickets[-1].plan.point.macs_fraction > cheapest + 0.7 * (full - cheapest)


def test_first_calls_after_a_pause_are_no_slower_device():
    app = SimulatedApp(period=0.0)
    profile = app.budgets._profile
    app.budgets.use(Profile(profile.key, profile.points, profile.noise, [2.5, 1.8, 1.4], profile.seconds))
    budget = Budget.latency(2 + 20 * app.planner.shares[1])
    for _ in range(30):
        tickets = []
        for cold in (2.5, 1.8, 1.4, 1.0, 1.0, 1.0):
            tickets += play_own(app, budget, 1, cold)[0]
        app.now += 1.0
        assert tickets[0].plan.point.macs_fraction < tickets[-1].plan.point.macs_fraction
        assert tickets[-1].expected == pytest.approx(2 + 20 * tickets[-1].plan.point.macs_fraction, rel=0.1)


@pytest.mark.parametrize("own", [True, False])
def test_what_is_expected_is_of_what_runs(own):
    """A budget that buys nothing better runs a cheaper point, and is expected to take that one's time."""
    app = SimulatedApp(period=0.0)
    cheapest, full = app.planner.shares
    real = app.planner.for_fraction
    app.planner.for_fraction = lambda fraction, budget, **about: real(  # type: ignore[method-assign]
        min(fraction, cheapest + 0.2 * (full - cheapest)), budget, **about
    )
    for _ in range(40):
        ticket, _ = app.call(Budget.latency(2 + 18 * full), own=own)
    ran = ticket.plan.point.macs_fraction
    assert ran < cheapest + 0.25 * (full - cheapest)
    assert ticket.expected == pytest.approx(2 + 20 * ran, rel=0.1)


class _Sensors:
    """A reader for ``Telemetry`` whose device draws 5 W."""

    name, notes = "simulated", ("a note",)

    def __init__(self, *, counter: bool = True, total: bool = True) -> None:
        self.counter, self.total = counter, total

    def read(self, time_s: float) -> Reading:
        return Reading(
            time_s,
            power_w={} if self.counter else {"all": 5.0},
            energy={"all": EnergyCounter(5.0 * time_s)} if self.counter else {},
            total=("all",) if self.total else (),
            total_power_w=None if self.counter or not self.total else 5.0,
        )

    def close(self) -> None:
        pass


def test_a_counter_gives_the_energy_of_a_call_exactly():
    meter = CallEnergy(Telemetry([_Sensors()], interval_s=0.0), 0.0, 1e-5)
    meter.begin(1.0)
    assert meter.millijoules(1.0, 1.010) == pytest.approx(50.0)


def test_power_that_is_read_now_and_then_gives_it_by_its_mean():
    telemetry = Telemetry([_Sensors(counter=False)], interval_s=0.0)
    from time import perf_counter

    try:
        meter = CallEnergy(telemetry, perf_counter(), 1.0)
        begun = perf_counter()
        meter.begin(begun)
        ended = begun + 0.02
        assert meter.millijoules(begun, ended) == pytest.approx(100.0, rel=0.05)
    finally:
        telemetry.close()


def test_no_sensor_no_energy():
    with pytest.raises(BudgetError, match=r"no sensor of this device .*a note.*use Budget\.latency") as caught:
        CallEnergy(Telemetry([_Sensors(total=False)], interval_s=0.0), 0.0, 1e-5)
    assert "\n" not in str(caught.value)


def batches_of_eight(cold, *, spike=None):
    """The device takes exactly eight times what one sample takes; gives the factor learned, and shares run."""
    planner = Planner(read_bundle(TINY))
    budgets, now, shares = DeviceBudgets(planner), 0.0, []
    profile = profile_of(planner)
    budgets.use(Profile(profile.key, profile.points, profile.noise, list(cold), profile.seconds))
    cheapest, full = planner.shares
    budget = Budget.latency(8 * (2 + 20 * (cheapest + full) / 2))
    for number in range(60):
        now += 0.02
        ticket = budgets.begin(budget, 8, now, for_call=False, profiler=None)
        done = ticket.plan.point.macs_fraction
        took = 8 * (2 + 20 * done) * (cold[number] if number < len(cold) else 1.0) * (10 if number == spike else 1)
        now += took / 1e3
        budgets.end(ticket, done, took, now)
        shares.append(done)
    return ticket.scale / 8, shares


@pytest.mark.parametrize("spike", [None, 0, 7])
def test_what_a_batch_size_takes_is_learned_past_first_calls_and_spikes(spike):
    factor, _ = batches_of_eight((1.8, 1.3, 1.1), spike=spike)
    assert factor == pytest.approx(1.0, abs=0.05)


def test_points_that_snap_are_not_taken_for_easier_inputs():
    app = SimulatedApp(period=0.03)
    real, steps = app.planner.for_fraction, np.linspace(*app.planner.shares, 4)

    def snapped(fraction, budget, **about):
        return real(float(steps[steps <= fraction + 1e-9].max()), budget, **about)

    app.planner.for_fraction = snapped  # type: ignore[method-assign]
    target = 2 + 20 * float(steps[1] + steps[2]) / 2
    ran = [app.call(Budget.latency(target))[0].plan.point.macs_fraction for _ in range(400)][100:]
    assert np.mean(np.abs(np.diff(ran)) > 1e-6) < 0.05
