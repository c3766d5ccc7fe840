"""One model on this device: what its calls take, what its sensors say, and the budgets that depend on both."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

from adaptrt.runtime.bundle.schema import Bundle
from adaptrt.runtime.control.budget import Budget
from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS
from adaptrt.runtime.device.call_energy import CallEnergy
from adaptrt.runtime.device.device_budgets import DeviceBudgets, Profiler, Ticket
from adaptrt.runtime.device.forked import keep_for_ever
from adaptrt.runtime.device.profile import DeviceKey, Profile
from adaptrt.runtime.device.profile_cache import ProfileCache
from adaptrt.runtime.device.profiling import RunAt, device_key, measure
from adaptrt.runtime.engines import Engines
from adaptrt.runtime.plan import Planner
from adaptrt.runtime.telemetry import Reading, Telemetry
from adaptrt.runtime.warn_once import WarnOnce

if TYPE_CHECKING:
    from adaptrt.runtime.telemetry.metrics import CallMetrics
    from adaptrt.runtime.telemetry.prometheus import MetricsServer

Progress = Callable[[float], None]

_SLOW_SENSORS_S = 0.3e-3
"""What a reading may take of a caller's time; chips behind I2C take milliseconds."""


class ModelOnDevice:
    """Profile, energy, sensors and metrics of one model; any number of threads may use it.

    It does not hold the model, which could not be freed at once then: whoever may have to profile hands in what runs
    a batch.

    Args:
        bundle: that runs.
        planner: of the bundle.
        engines: that run it; they tell the version that a profile holds for.
        threads: that one operator may use.
        warn: says what the user should know.

    Attributes:
        budgets: those that depend on the device.
        sensors: read for results; None until somebody asked for them.
        metrics: of the calls; None until they are served, which takes sensors.
    """

    def __init__(self, bundle: Bundle, planner: Planner, engines: Engines, threads: int | None, warn: WarnOnce) -> None:
        self._bundle, self._planner, self._engines, self._threads = bundle, planner, engines, threads
        self._warn = warn
        self.budgets = DeviceBudgets(planner)
        self.sensors: Telemetry | None = None
        self.metrics: CallMetrics | None = None

    def begin_in_child(self) -> None:
        """The process forked: locks may be held by threads that are gone, sensors be read by them."""
        keep_for_ever(self.sensors, self.budgets)
        self.sensors, self.metrics = None, None
        self.budgets = self.budgets.afresh()

    def find_energy(self, budget: Budget) -> None:
        """Have what tells the energy of calls, if the budget is about it.

        Raises:
            BudgetError: no sensor tells it.
        """
        if BUDGET_KINDS[budget.kind].meter.sensor:
            self._energy()

    def begin(self, budget: Budget, samples: int, run: RunAt, *, for_call: bool) -> Ticket:
        """Choose what a call runs under a budget that depends on the device.

        Args:
            budget: of the call.
            samples: at least one.
            run: runs the call's batch at knob values, for the first call, which may have to profile.
            for_call: whether the budget is the call's own, not the model's.

        Raises:
            BudgetError: the bundle has no curve, or no sensor tells the energy.
            BackendError: an engine failed while it was profiled.
        """
        self.find_energy(budget)  # there already, but in a forked child
        return self.budgets.begin(budget, samples, perf_counter(), for_call=for_call, profiler=self._profiler(run))

    def end(self, ticket: Ticket, done: float, milliseconds: float) -> float | None:
        """Take in what a call took and the share of work it did; gives its millijoules where the budget needs them."""
        return self.budgets.end(ticket, done, milliseconds, perf_counter())

    def prepare(self, budget: Budget, samples: int, run: RunAt, progress: Progress) -> Profile:
        """Have the profile that calls under a budget of the device need, as the first of them would.

        Raises:
            BudgetError: the bundle has no curve.
            BackendError: an engine failed while it was profiled.
        """
        return self.budgets.prepare(BUDGET_KINDS[budget.kind].meter, samples, self._profiler(run, progress))

    def profile(
        self,
        run: RunAt,
        samples: int,
        *,
        seconds: float | None = None,
        energy: bool = False,
        progress: Progress,
        cache: ProfileCache | None = None,
    ) -> Profile:
        """Measure what calls of so many samples take, keep it, and use it from now on.

        Args:
            run: runs a batch of that many at knob values.
            samples: of a call.
            seconds: to measure for, about; None takes three.
            energy: measure millijoules, too.
            progress: told the share that is done.
            cache: where to keep it; None takes the usual one.

        Raises:
            BudgetError: the bundle has no curve, or ``energy`` is asked for and no sensor tells it.
            BackendError: an engine failed.
        """
        profile = measure(
            run,
            self._planner,
            self.key(samples),
            meter=self._energy() if energy else None,
            seconds=seconds,
            progress=progress,
        )
        self._warn((cache or ProfileCache()).store(profile))
        self.budgets.use(profile)
        return profile

    def key(self, samples: int) -> DeviceKey:
        """What a profile of calls of so many samples holds for, measured now."""
        version = self._engines.backends[0].engine_version
        return device_key(self._bundle, version, self._threads, samples, self.sensors)

    def telemetry(self) -> Reading:
        """What the sensors say; they are found at the first call."""
        if self.sensors is None:
            self.sensors = Telemetry.find(own_thread_above_s=_SLOW_SENSORS_S)
            weakref.finalize(self, self.sensors.close).atexit = False  # nothing to lose, and a sensor may hang
        return self.sensors.read(perf_counter())

    def serve_metrics(self, port: int, address: str) -> MetricsServer:
        """Serve the readings, and what calls come to from now on, for Prometheus.

        Raises:
            TelemetryError: adaptrt[telemetry] is not installed, or the port cannot be had.
        """
        from adaptrt.runtime.telemetry.metrics import CallMetrics
        from adaptrt.runtime.telemetry.prometheus import MetricsCollector, MetricsServer

        self.telemetry()
        assert self.sensors is not None
        metrics = self.metrics or CallMetrics()
        server = MetricsServer(MetricsCollector(self.sensors, [metrics.counters(self._bundle.name)]), port, address)
        self.metrics = metrics
        return server

    def _profiler(self, run: RunAt, progress: Progress = lambda _share: None) -> Profiler:
        """Finds the profile for a batch of so many samples, or measures it by running."""

        def profiler(samples: int, energy: bool) -> Profile:
            kept, problem = ProfileCache().load(self.key(samples))
            self._warn(problem)
            if kept is not None and (kept.has_energy or not energy):
                return kept
            return self.profile(run, samples, energy=energy, progress=progress)

        return profiler

    def _energy(self) -> CallEnergy:
        if self.budgets.energy is None:
            telemetry = Telemetry.find(interval_s=0.0)
            telemetry.read(perf_counter())  # the first reading opens files
            begun = perf_counter()
            telemetry.read(begun)
            self.budgets.measure_energy(CallEnergy(telemetry, perf_counter(), perf_counter() - begun))
        energy = self.budgets.energy
        assert energy is not None
        return energy
