"""Budgets in milliseconds, millijoules and watts, from profile to controller, for one model and all of its threads.

The model's own budget has one controller, which all calls without a budget of their own share and teach. A
call with its own budget is answered from the profile and teaches that controller nothing; but whether the profile
still is what the device does, which a quota or another process may have changed, is followed beside it by a device
model of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from statistics import NormalDist, median
from typing import NamedTuple

from adaptrt.runtime.control.budget import Budget
from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS, ENERGY, POWER, TIME, Meter
from adaptrt.runtime.control.controller import Choice, LatencyController
from adaptrt.runtime.control.device_model import DeviceModel
from adaptrt.runtime.control.response_curve import ResponseCurve
from adaptrt.runtime.device.call_energy import CallEnergy
from adaptrt.runtime.device.profile import Profile
from adaptrt.runtime.plan import Plan, Planner

Profiler = Callable[[int, bool], Profile]
"""Gives the profile for calls of so many samples, with energy or without: from the cache, or measured now."""

_FACTOR_CALLS = 16
"""Calls of a batch size without a profile that its factor is learned from; later ones are the device's."""
_FACTOR_LIMITS = (0.2, 5.0)
_MEDIAN = 0.5
_INTERVAL_MEMORY = 0.8
_IDLE_AFTER_S = 0.25
_LONGEST_INTERVAL_S = 5.0
"""A pause of the app is no reason to spend what was saved meanwhile at once."""


class Ticket(NamedTuple):
    """One call under a budget that depends on the device.

    Attributes:
        plan: What to run.
        meter: Of the budget.
        expected: Milliseconds, or millijoules, that half of such calls stay under.
        choice: The controller's, to be observed; None for a call with its own budget.
        batch: Samples.
        scale: What the batch takes over the profiled one, as assumed.
        controller: Whose choice it is.
        begun: Seconds.
        cold: How much longer such a call takes than steady ones, as it comes after a pause; of own budgets.
    """

    plan: Plan
    meter: Meter
    expected: float
    choice: Choice | None
    batch: int
    scale: float
    controller: LatencyController | None
    begun: float
    cold: float = 1.0


class DeviceBudgets:
    """Budgets of one model that depend on its device; any number of threads may use it.

    Args:
        planner: Makes plans from shares of work.
    """

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._lock = threading.Lock()
        self._profiling = threading.Lock()
        self._profile: Profile | None = None
        self._curves: dict[Meter, ResponseCurve] = {}
        self._controller: LatencyController | None = None
        self._profiled: dict[Meter, DeviceModel] = {}  # what the device makes of the profile, by calls with own budgets
        self._factors: dict[tuple[Meter, int], list[float]] = {}  # what calls of a batch size took, each
        self._energy: CallEnergy | None = None
        self._interval: float | None = None
        self._ended: float | None = None
        self._since_idle = 0
        self._last: tuple[Ticket, float] | None = None  # of a power budget: its energy is known when the next begins

    @property
    def energy(self) -> CallEnergy | None:
        """What tells the energy of calls; None as long as no budget needs it."""
        return self._energy

    def measure_energy(self, energy: CallEnergy) -> None:
        """Budgets of energy and power go by this from now on."""
        with self._lock:
            if self._energy is None:
                self._energy = energy

    def afresh(self) -> DeviceBudgets:
        """Another one with the same profile, that knows nothing else: locks may be held by threads that are gone."""
        other = DeviceBudgets(self._planner)
        if self._profile is not None:
            other.use(self._profile)
        return other

    def prepare(self, meter: Meter, batch: int, profiler: Profiler) -> Profile:
        """Have the profile for budgets of a meter, as the first call would.

        Raises:
            BudgetError: The bundle has no curve.
            BackendError: The engine failed while it was profiled.
        """
        return self._ready(meter, batch, profiler)[0]

    def use(self, profile: Profile) -> None:
        """Work with this profile from now on; the controller starts anew with it."""
        curves = {TIME: profile.curve()}
        if profile.has_energy:
            curves[ENERGY] = curves[POWER] = profile.energy_curve()
        with self._lock:
            self._profile, self._curves = profile, curves
            self._factors.clear()
            self._profiled = {meter: DeviceModel(one.at(one.full), profile.noise) for meter, one in curves.items()}
            self._start_anew()

    def reset(self) -> None:
        """The model's own budget was changed: its controller starts anew."""
        with self._lock:
            self._start_anew()

    def _start_anew(self) -> None:
        self._controller, self._interval, self._last = None, None, None

    def begin(self, budget: Budget, batch: int, now: float, *, for_call: bool, profiler: Profiler) -> Ticket:
        """Choose what a call runs.

        Args:
            budget: One that depends on the device.
            batch: Samples, at least one.
            now: Seconds, monotonic.
            for_call: Whether the budget is the call's own, not the model's.
            profiler: Asked once, by the first call that needs a profile.

        Raises:
            BudgetError: The bundle has no curve.
            BackendError: The engine failed while it was profiled.
        """
        meter, amount = _metered(budget)
        profile, curve = self._ready(meter, batch, profiler)
        if self._energy is not None and meter.sensor:
            self._energy.begin(now)
        scale = self._scale(profile, meter, batch)
        if for_call:
            return self._from_profile(budget, profile, curve, batch, scale, now)
        with self._lock:
            target = amount if meter.per_call else self._energy_for(amount, curve, scale, now)
            controller = self._controller
            if controller is None:
                controller = self._controller = LatencyController(
                    target,
                    curve,
                    percentile=budget.percentile or _MEDIAN,
                    noise=profile.noise,
                    cold=tuple(profile.cold) if meter is TIME else (),
                    limits=self._planner.shares,
                )
            controller.target = target
            choice = controller.choose(now, scale)
        plan = self._plan(budget, choice.fraction, choice.upper, choice.reachable)
        # Where nothing is interpolated, or more work is no better, less runs than was asked for: no easier input.
        run = plan.point.macs_fraction
        expected = choice.expected * curve.at(run) / curve.at(choice.fraction)
        choice = choice._replace(fraction=run, expected=expected)
        return Ticket(plan, meter, choice.expected, choice, batch, scale, controller, now)

    def end(self, ticket: Ticket, done: float, milliseconds: float, now: float) -> float | None:
        """Take in what a call took, and the share of work it did; its millijoules, where the budget needs them."""
        energy = self._energy
        spent = None
        self._ended, self._since_idle = now, self._since_idle + 1
        if ticket.meter.sensor and energy is not None:
            spent = energy.millijoules(ticket.begun, now)
        if ticket.choice is None:
            self._compare(ticket, done, spent if ticket.meter.sensor else milliseconds)
            return spent
        with self._lock:
            if ticket.meter.per_call:
                self._observe(ticket, done, spent if ticket.meter.sensor else milliseconds, now)
            else:
                self._last = ticket, done
        return spent

    def _compare(self, ticket: Ticket, done: float, measured: float | None) -> None:
        """Learn from a call with its own budget what the device makes of the profile now."""
        curve = self._curves[ticket.meter]
        if measured is None or not curve.can_be(done, measured / ticket.scale):
            return
        if not ticket.meter.per_call:
            return  # the profile's own watts are what such a call goes by
        with self._lock:
            if not self._learn_factor(ticket, measured):
                self._profiled[ticket.meter].observe(curve.at(done), measured / ticket.scale / ticket.cold)

    def _observe(self, ticket: Ticket, done: float, measured: float | None, now: float) -> None:
        if measured is None or ticket.choice is None or ticket.controller is None:
            return
        if self._learn_factor(ticket, measured):
            ticket.controller.passed(now, ticket.choice)
        else:
            ticket.controller.observe(now, ticket.choice, done, measured, ticket.scale)

    def _energy_for(self, watts: float, curve: ResponseCurve, scale: float, now: float) -> float:
        """Millijoules that a call may take for so many watts on average, pauses between calls included."""
        last, self._last = self._last, None
        if last is not None:
            ticket, done = last
            interval = now - ticket.begun
            if 0 < interval <= _LONGEST_INTERVAL_S:
                known = interval if self._interval is None else self._interval
                self._interval = _INTERVAL_MEMORY * known + (1 - _INTERVAL_MEMORY) * interval
                spent = None if self._energy is None else self._energy.millijoules(ticket.begun, now)
                self._observe(ticket, done, spent, now)
        if self._interval is None:
            return curve.at(curve.full) * scale  # the first call: nothing is known of the pauses
        return max(watts * self._interval * 1e3, 1e-6)

    def _ready(self, meter: Meter, batch: int, profiler: Profiler) -> tuple[Profile, ResponseCurve]:
        if meter not in self._curves:
            with self._profiling:  # other threads wait for the first one's
                if meter not in self._curves:
                    self.use(profiler(batch, meter.sensor))
        assert self._profile is not None
        return self._profile, self._curves[meter]

    def _scale(self, profile: Profile, meter: Meter, batch: int) -> float:
        """Work grows with the batch; a factor per batch size makes up for what does not."""
        return batch / profile.key.batch * self._factor(meter, batch)

    def _learn_factor(self, ticket: Ticket, measured: float) -> bool:
        """Learn what a batch size without a profile takes; whether the call was used up by that."""
        assert self._profile is not None
        if ticket.batch == self._profile.key.batch or not 0 < measured < float("inf"):
            return False
        seen = self._factors.setdefault((ticket.meter, ticket.batch), [])
        if len(seen) >= _FACTOR_CALLS:
            return False
        low, high = _FACTOR_LIMITS
        assumed = ticket.scale * self._profile.key.batch / ticket.batch
        seen.append(assumed * min(max(measured / ticket.expected, low), high))
        return True

    def _factor(self, meter: Meter, batch: int) -> float:
        """The median, which a single slow call does not move."""
        seen = self._factors.get((meter, batch))
        return median(seen) if seen else 1.0

    def _from_profile(
        self, budget: Budget, profile: Profile, curve: ResponseCurve, batch: int, scale: float, now: float
    ) -> Ticket:
        meter, amount = _metered(budget)
        with self._lock:
            device = self._profiled[meter]
            margin = NormalDist(1.0, max(profile.noise, device.noise)).inv_cdf(budget.percentile or _MEDIAN)
            cold = self._cold_factor(profile, now) if meter is TIME else 1.0
            allowed = amount / (margin * scale * cold)
            if not meter.per_call:  # as if called back to back
                allowed = profile.energy_for(amount)
            cheapest, full = self._planner.shares
            fraction = min(max(curve.fraction_for(device.profiled_for(allowed)), cheapest), full)
            upper = device.predict(curve.at(fraction)) * scale * cold * margin
            reachable = allowed >= device.predict(curve.at(cheapest))
            plan = self._plan(budget, fraction, upper, reachable)
            expected = device.predict(curve.at(plan.point.macs_fraction)) * scale * cold
        return Ticket(plan, meter, expected, None, batch, scale, None, now, cold)

    def _cold_factor(self, profile: Profile, now: float) -> float:
        """What the profile says of the first calls after a pause."""
        if self._ended is None or now - self._ended > _IDLE_AFTER_S:
            self._since_idle = 0
        return profile.cold[self._since_idle] if self._since_idle < len(profile.cold) else 1.0

    def _plan(self, budget: Budget, fraction: float, upper: float, reachable: bool) -> Plan:
        message = None
        if not reachable:
            unit = _metered(budget)[0].unit
            message = (
                f"got a budget of {budget}, but the cheapest calibrated point is expected to take up to "
                f"{upper:.4g} {unit} now; ran that one"
            )
        return self._planner.for_fraction(fraction, budget, reachable=reachable, message=message)


def _metered(budget: Budget) -> tuple[Meter, float]:
    """The meter of a budget that depends on the device, and its value in milliseconds, millijoules or watts."""
    kind = BUDGET_KINDS[budget.kind]
    return kind.meter, budget.value * kind.factor
