"""Running a loaded bundle under a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from adaptrt.runtime.backends import Backend
from adaptrt.runtime.budget import Budget
from adaptrt.runtime.bundle_schema import CONFIDENCE_OUTPUT, MACS_OUTPUT, Bundle, KnobValue
from adaptrt.runtime.chains import OperatingPoint, copy_knobs
from adaptrt.runtime.decisions import DecisionRecorder, Decisions
from adaptrt.runtime.errors import InputError
from adaptrt.runtime.inputs import InputContract
from adaptrt.runtime.plan import Planner
from adaptrt.runtime.stage_validation import batch_axis
from adaptrt.runtime.stages import StageSequence

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Result:
    """What one call returned and cost.

    Attributes:
        outputs: every output of the bundle by name, except ``macs_fraction``; each sample's from the
            stage where it left.
        macs_fraction: float32 [B], the share of the dense model's multiply-accumulates that each
            sample used.
        latency_ms: wall-clock time of executing all stages, in milliseconds.
        budget: that this call was to obey; None where ``knobs`` were passed.
        knobs: values of all knobs: a number, or a list of one for each element.
        reachable: False where the budget is below the cheapest calibrated point, which then ran.
        message: says so in words; None if there is nothing to say.
        exit: int64 [B], the stage at whose head each sample left, from 0; None for a bundle of one stage.
        decisions: what was computed for each token, where that was asked for.
    """

    outputs: dict[str, Array]
    macs_fraction: Array
    latency_ms: float
    budget: Budget | None
    knobs: dict[str, KnobValue]
    reachable: bool
    message: str | None
    exit: Array | None = None
    decisions: Decisions | None = None


class AdaptiveModel:
    """A loaded bundle. Any number of threads may use one; make it with ``load``.

    A call sees one budget from beginning to end: its own, or the one that ``budget`` held when it began.
    """

    def __init__(
        self,
        bundle: Bundle,
        backends: Sequence[Backend],
        *,
        backend_name: str = "given",
        backend_reason: str = "it was given",
        precision: str = "fp32",
    ) -> None:
        self._bundle = bundle
        self._backends = tuple(backends)
        self._backend_name, self._backend_reason, self._precision = backend_name, backend_reason, precision
        self._contract = InputContract(bundle.inputs)
        self._planner = Planner(bundle)
        self._plan = self._planner.for_budget(Budget.full())  # replaced whole, never changed
        self._batch = batch_axis(bundle)
        self._stages = StageSequence(bundle, self._backends, self._batch)
        self._alone = self._backends[0] if len(self._backends) == 1 else None

    @property
    def bundle(self) -> Bundle:
        """What ``bundle.json`` says."""
        return self._bundle

    @property
    def backend(self) -> Backend:
        """What executes the first stage."""
        return self._backends[0]

    @property
    def backends(self) -> tuple[Backend, ...]:
        """What executes the stages, in order."""
        return self._backends

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
        """What it computes in: ``"fp32"``, ``"fp16"`` or ``"bf16"``."""
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
        self._plan = self._planner.for_budget(budget)

    def operating_point(self, budget: Budget | None = None) -> OperatingPoint:
        """What a call under ``budget`` (None: the model's own) would run, and what to expect of it.

        Raises:
            BudgetError: as setting ``budget``.
        """
        point = (self._plan if budget is None else self._planner.for_budget(budget)).point
        return OperatingPoint(copy_knobs(point.knobs), point.macs_fraction, point.quality, point.reachable)

    def run(
        self,
        inputs: Mapping[str, Array],
        *,
        budget: Budget | None = None,
        knobs: Mapping[str, KnobValue] | None = None,
        decisions: bool = False,
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

        Raises:
            InputError: an input or knob value is not what the bundle declares, or decisions are asked of
                a bundle that tells none.
            BudgetError: the bundle cannot obey the budget, or both a budget and knobs are given.
            BackendError: an engine failed.
        """
        if knobs is not None:
            plan = self._planner.for_knobs(knobs, budget)
        else:
            plan = self._plan if budget is None else self._planner.for_budget(budget)
        feeds, sizes = self._contract.check(inputs)
        recorder = self._recorder(sizes) if decisions else None
        feeds.update(plan.feeds)
        exits = None
        start = perf_counter()
        outputs = self._empty(sizes) if 0 in sizes.values() else None
        if outputs is not None:
            exits = np.empty(0, np.int64) if self._alone is None else None
        elif self._alone is not None and recorder is None:
            outputs = self._alone.run(feeds)
        else:
            outputs, exits = self._stages.run(feeds, sizes[self._batch or ""], plan.thresholds, recorder)
        latency_ms = (perf_counter() - start) * 1e3
        macs_fraction = outputs.pop(MACS_OUTPUT)
        point = plan.point
        return Result(
            outputs,
            macs_fraction,
            latency_ms,
            plan.budget,
            copy_knobs(point.knobs) if plan.lists else point.knobs.copy(),
            point.reachable,
            plan.message,
            exits,
            None if recorder is None else recorder.result(),
        )

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
        plan = self._planner.for_knobs({} if knobs is None else knobs, None)
        feeds, sizes = self._contract.check(inputs)
        empty = self._empty(sizes) if 0 in sizes.values() else None
        if empty is not None:
            early = {CONFIDENCE_OUTPUT: np.empty(0, np.float32)}
            stages = [{**early, **empty} for _ in self._backends[1:]] + [empty]
            return [{name: array.copy() for name, array in stage.items()} for stage in stages]
        feeds.update(plan.feeds)
        if self._alone is not None:
            return [self._alone.run(feeds)]
        return self._stages.run_all(feeds, sizes[self._batch or ""])

    def _recorder(self, sizes: Mapping[str, int]) -> DecisionRecorder:
        if not any(stage.decisions for stage in self._bundle.stages):
            raise InputError(
                f"got decisions=True, but bundle {self._bundle.name!r} tells none; leave it out, or export a model "
                "with gates or token selection again"
            )
        tokens = self._bundle.tokens
        return DecisionRecorder(
            self._bundle, sizes[self._batch or ""], sizes[tokens] if isinstance(tokens, str) else tokens
        )

    def _empty(self, sizes: Mapping[str, int]) -> dict[str, Array] | None:
        """The outputs for no samples, made without the graph: not every operator takes empty tensors.

        None where there are samples, or an output's shape does not follow from the inputs: the graph
        is run then.
        """
        if self._batch is None or sizes.get(self._batch) != 0:
            return None
        outputs = {}
        for spec in self._bundle.outputs:
            shape = [sizes.get(size, -1) if isinstance(size, str) else size for size in spec.shape]
            if self._batch not in spec.shape or -1 in shape:
                return None
            outputs[spec.name] = np.empty(shape, dtype=spec.dtype)
        return outputs
