"""Running a loaded bundle under a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from adaptrt.runtime.backends import Backend
from adaptrt.runtime.bundle.schema import MACS_OUTPUT, Bundle, KnobValue
from adaptrt.runtime.control.budget import Budget
from adaptrt.runtime.control.chains import OperatingPoint, copy_knobs
from adaptrt.runtime.decisions import DecisionRecorder
from adaptrt.runtime.device.forked import keep_for_ever
from adaptrt.runtime.device.model_on_device import ModelOnDevice
from adaptrt.runtime.device.profile import Profile
from adaptrt.runtime.device.profile_cache import ProfileCache
from adaptrt.runtime.engines import Engines, Reload
from adaptrt.runtime.errors import InputError, NotShareable
from adaptrt.runtime.inputs import InputContract
from adaptrt.runtime.plan import Plan, Planner
from adaptrt.runtime.result import Result
from adaptrt.runtime.telemetry import Reading
from adaptrt.runtime.warn_once import WarnOnce
from adaptrt.runtime.work_check import SoftBudgetCheck

if TYPE_CHECKING:
    from adaptrt.runtime.preprocessing.preprocessor import Preprocessor
    from adaptrt.runtime.telemetry.prometheus import MetricsServer

Array = np.ndarray[Any, Any]


class AdaptiveModel:
    """A loaded bundle. Any number of threads may use one; make it with ``load``.

    A call sees one budget from beginning to end: its own, or the one that ``budget`` held when it began.

    A process that forks hands its models on: the child loads their engines anew at its first call, as threads and
    device memory are not inherited. Other processes load the bundle themselves: a model can be neither pickled nor
    copied.
    """

    def __init__(
        self,
        bundle: Bundle,
        backends: Sequence[Backend],
        *,
        threads: int | None = None,
        backend_name: str = "given",
        backend_reason: str = "it was given",
        precision: str = "fp32",
        reload: Reload | None = None,
        unsplit: Backend | None = None,
        root: Path | None = None,
    ) -> None:
        self._bundle = bundle
        self._backend_name, self._backend_reason, self._precision = backend_name, backend_reason, precision
        self._contract = InputContract(bundle.inputs, bundle.axes)
        self._planner = Planner(bundle)
        self._plan = self._planner.for_budget(Budget.full())  # replaced whole, never changed
        self._engines = Engines(bundle, backends, reload, self._begin_in_child, unsplit)
        self._batch = self._engines.batch
        self._warn = WarnOnce()
        self._device = ModelOnDevice(bundle, self._planner, self._engines, threads, self._warn)
        self._work = SoftBudgetCheck()
        self._root = root

    def _begin_in_child(self) -> None:
        """The process forked: locks may be held by threads that are gone."""
        self._device.begin_in_child()
        keep_for_ever(self._work)
        self._work = SoftBudgetCheck()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse: an engine lives in one process.

        Raises:
            NotShareable: always.
        """
        raise NotShareable(
            f"got the loaded model {self._bundle.name!r} to pickle or copy, expected its bundle's path; load that in "
            "each process, and let threads share one model"
        )

    @property
    def bundle(self) -> Bundle:
        """What ``bundle.json`` says."""
        return self._bundle

    @cached_property
    def preprocess(self) -> Preprocessor:
        """What makes inputs of texts, pictures and recordings: ``model.run(model.preprocess.text(["..."]))``."""
        from adaptrt.runtime.preprocessing.preprocessor import Preprocessor  # most models are fed arrays

        return Preprocessor(self._bundle, self._root)

    @property
    def backend(self) -> Backend:
        """What executes the first stage."""
        return self._engines.backends[0]

    @property
    def backends(self) -> tuple[Backend, ...]:
        """What executes the stages, in order."""
        return self._engines.backends

    @property
    def answers_by_dense(self) -> bool:
        """Whether the dense model's graph answers where everything runs, in the place of the stages."""
        return self._engines.unsplit is not None

    @property
    def backend_name(self) -> str:
        """Which backend runs the stages, by the name that ``load`` takes."""
        return self._backend_name

    @property
    def backend_reason(self) -> str:
        """Why that one, and with ``load(..., backend="auto")`` why none before it."""
        return self._backend_reason

    @property
    def precision(self) -> str:
        """What it computes in: ``"fp32"``, ``"fp16"``, ``"bf16"``, ``"int8"`` or ``"fp8"``."""
        return self._precision

    @property
    def budget(self) -> Budget:
        """The budget of calls that name none; ``Budget.full()`` at first.

        Raises:
            BudgetError: on setting something that is no ``Budget``, or that the bundle cannot obey.
        """
        return self._plan.budget or Budget.full()

    @budget.setter
    def budget(self, budget: Budget) -> None:
        self._plan = self._plan_for(budget)
        self._device.budgets.reset()
        self._work.reset()

    def _plan_for(self, budget: Budget) -> Plan:
        """The plan under a budget; of one that depends on the device, what stands for it until a call."""
        plan = self._planner.for_budget(budget)
        if plan.physical:
            self._device.find_energy(budget)
        return plan

    def operating_point(self, budget: Budget | None = None) -> OperatingPoint:
        """What a call under ``budget`` (None: the model's own) would run, and what to expect of it.

        Raises:
            BudgetError: as setting ``budget``.
        """
        point = (self._plan if budget is None else self._plan_for(budget)).point
        return OperatingPoint(copy_knobs(point.knobs), point.macs_fraction, point.quality, point.reachable)

    def run(
        self,
        inputs: Mapping[str, Array],
        *,
        budget: Budget | None = None,
        knobs: Mapping[str, KnobValue] | None = None,
        decisions: bool = False,
        deadline_ms: float | None = None,
    ) -> Result:
        """Run a batch.

        A sample leaves at the first stage whose confidence is strictly above the stage's threshold in
        ``exit_thresholds``; the last stage takes the rest. One whose confidence is NaN stays.

        Args:
            inputs: an array for every input of the bundle, exactly of its dtype and shape. The batch
                may be empty.
            budget: for this call; None takes the model's.
            knobs: values to feed instead of obeying a budget, a number or one for each element; those
                not named stand at their defaults.
            decisions: also tell what was computed for each token, in ``Result.decisions``.
            deadline_ms: milliseconds from the call's entry by which the answer must be there: a further stage is
                run only while it is expected to end in time, and what the last head said is returned. The first
                stage always runs. The first call of a batch size with a deadline measures the stages, and is late.

        Raises:
            InputError: an input or knob value is not what the bundle declares, or decisions are asked of
                a bundle that tells none.
            BudgetError: the bundle cannot obey the budget, both a budget and knobs are given, or there is a
                deadline and the bundle has no exits.
            BackendError: an engine failed.
        """
        entry = perf_counter()
        if self._engines.inherited:
            self._engines.ready()
        if knobs is not None:
            plan = self._planner.for_knobs(knobs, budget)
        else:
            plan = self._plan if budget is None else self._plan_for(budget)
        feeds, sizes = self._contract.check(inputs)
        if deadline_ms is not None:
            self._engines.check_deadline(deadline_ms)
        ticket = None
        if plan.physical and plan.budget is not None and 0 not in sizes.values():
            run = partial(_run_at, self, inputs)
            ticket = self._device.begin(plan.budget, self._samples(sizes), run, for_call=budget is not None)
            plan = ticket.plan
        recorder = DecisionRecorder.of(self._bundle, sizes, self._batch or "") if decisions else None
        feeds.update(plan.feeds)
        start = perf_counter()
        deadline = None if deadline_ms is None else self._engines.deadline(entry, float(deadline_ms), feeds, sizes)
        exits: Array | None
        if plan.everything and self._engines.unsplit is not None and recorder is None and deadline is None:
            outputs, exits = self._engines.run_unsplit(feeds, sizes)
        else:
            outputs, exits = self._engines.run(feeds, sizes, plan.thresholds, recorder, deadline)
        latency_ms = (perf_counter() - start) * 1e3
        macs_fraction = outputs.pop(MACS_OUTPUT)
        spent = None
        if ticket is not None:
            spent = self._device.end(ticket, float(macs_fraction.mean()), latency_ms)
        point = plan.point
        message = plan.message
        if plan.checked and deadline_ms is None and macs_fraction.size:
            excess = self._work.observe(point.macs_fraction, macs_fraction)
            if excess is not None:
                self._warn("soft budget exceeded", excess)
                message = message or excess
        device = self._device
        reading = None if device.sensors is None else device.telemetry()
        result = Result(
            outputs,
            macs_fraction,
            latency_ms,
            plan.budget,
            copy_knobs(point.knobs) if plan.lists else point.knobs.copy(),
            point.reachable,
            message,
            exits,
            None if recorder is None else recorder.result(),
            None if ticket is None else ticket.expected,
            None if deadline_ms is None else (perf_counter() - entry) * 1e3 <= deadline_ms,
            spent,
            reading,
        )
        if reading is not None and device.metrics is not None:
            device.metrics.observe(result)
        return result

    def telemetry(self) -> Reading:
        """What the device's sensors say, no older than 50 ms; results carry it, too, from now on.

        A sensor that is absent, fails or may not be read is absent from the reading, never 0. Sensors that are
        slow to answer are read in a thread of their own from their second reading on.
        """
        return self._device.telemetry()

    def serve_metrics(self, port: int = 9464, address: str = "127.0.0.1") -> MetricsServer:
        """Serve the device's readings and what this model's calls come to for Prometheus, at ``/metrics``.

        Args:
            port: 0 takes any that is free; the server's ``port`` says which.
            address: this machine alone unless told otherwise: there is no password.

        Returns:
            The server; ``close`` it, or use it in a ``with`` block.

        Raises:
            TelemetryError: adaptrt[telemetry] is not installed, or the port cannot be had.
        """
        return self._device.serve_metrics(port, address)

    def profile(
        self,
        inputs: Mapping[str, Array],
        *,
        seconds: float | None = None,
        energy: bool = False,
        progress: Callable[[float], None] = lambda _share: None,
        cache: ProfileCache | None = None,
    ) -> Profile:
        """Measure what calls take on this device, keep it for later loads, and use it for budgets of this device.

        Without this the first call under such a budget does it with its own inputs, unless the cache has a
        profile of this bundle, engine, device, power mode, number of threads and batch size.

        Args:
            inputs: a batch like those to come.
            seconds: to measure for, about; pauses come on top. None takes three.
            energy: measure millijoules, too.
            progress: told the share that is done.
            cache: where to keep it; None takes the platform's folder for caches, or ``$ADAPTRT_CACHE``.

        Raises:
            InputError: an input is not what the bundle declares, or the batch is empty.
            BudgetError: the bundle has no curve, or ``energy`` is asked for and no sensor tells it.
            BackendError: an engine failed.
        """
        _, sizes = self._contract.check(inputs)
        if 0 in sizes.values():
            raise InputError("got an empty batch to profile, expected at least one sample; give some")
        if self._engines.inherited:
            self._engines.ready()
        run = partial(_run_at, self, inputs)
        samples = self._samples(sizes)
        return self._device.profile(run, samples, seconds=seconds, energy=energy, progress=progress, cache=cache)

    def prepare(
        self,
        inputs: Mapping[str, Array],
        budget: Budget | None = None,
        *,
        progress: Callable[[float], None] = lambda _share: None,
    ) -> Profile | None:
        """Have ready what a budget of this device needs for calls with such inputs: a profile, kept or measured now.

        Otherwise the first call under such a budget does it, without a sign of life for some seconds.

        Args:
            inputs: a batch like those to come.
            budget: of the calls; None takes the model's. Where it needs no profile nothing is done.
            progress: told the share that is done, if something has to be measured.

        Returns:
            The profile; None where nothing is needed.

        Raises:
            InputError: an input is not what the bundle declares.
            BudgetError: the bundle has no curve, or no sensor tells the energy that the budget is about.
            BackendError: an engine failed.
        """
        plan = self._plan if budget is None else self._plan_for(budget)
        _, sizes = self._contract.check(inputs)
        if plan.physical and plan.budget is not None and 0 not in sizes.values():
            return self._device.prepare(plan.budget, self._samples(sizes), partial(_run_at, self, inputs), progress)
        return None

    def _samples(self, sizes: Mapping[str, int]) -> int:
        return sizes[self._batch] if self._batch else 1

    def run_stages(
        self, inputs: Mapping[str, Array], *, knobs: Mapping[str, KnobValue] | None = None
    ) -> list[dict[str, Array]]:
        """Run every stage on all samples, nobody leaving: what calibration chooses exits from.

        Args:
            inputs: as in ``run``.
            knobs: values to feed; those not named stand at their defaults. Exit thresholds do nothing.

        Returns:
            For each stage every output of the bundle by name, ``macs_fraction`` up to there among them,
            and for all but the last one ``confidence``, float32 [B].

        Raises:
            InputError: an input or knob value is not what the bundle declares.
            BackendError: an engine failed.
        """
        if self._engines.inherited:
            self._engines.ready()
        plan = self._planner.for_knobs({} if knobs is None else knobs, None)
        feeds, sizes = self._contract.check(inputs)
        feeds.update(plan.feeds)
        return self._engines.run_all(feeds, sizes)


def _run_at(model: AdaptiveModel, inputs: Mapping[str, Array], knobs: Mapping[str, KnobValue]) -> Result:
    """Run a batch at knob values, for a profile."""
    return model.run(inputs, knobs=knobs)
