"""One bundle that is served: what its requests may share, how their calls run, and what they take."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from adaptrt.runtime.bundle.schema import MACS_OUTPUT, Bundle, TensorSpec
from adaptrt.runtime.control.budget import Budget
from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS, NOTHING, TIME, WORK
from adaptrt.runtime.control.call_costs import CallCosts
from adaptrt.runtime.control.controller import LatencyController
from adaptrt.runtime.control.work_queue import Batch, Job, ModelLoad
from adaptrt.runtime.errors import InputError
from adaptrt.runtime.inputs import InputContract
from adaptrt.runtime.model import AdaptiveModel
from adaptrt.runtime.result import Result
from adaptrt.runtime.serving.errors import RequestError
from adaptrt.runtime.serving.requests import Answer, Asked, parameters_of

Array = np.ndarray[Any, Any]

EXIT_OUTPUT = "exit"
_ROUNDS = 5
_LEAST_DEADLINE_MS = 1e-3


class ServedModel:
    """A model, and what a queue has to know of it.

    Args:
        model: loaded.
        budget: of requests that name none.
        sample: inputs like those to come, one sample or more, which the device is measured with; None where another
            server queues the requests: nothing is measured then.
        most_samples: that requests together have in one call.
        progress: told the share that is done.

    Raises:
        BudgetError: the bundle cannot obey the budget.
        InputError: the sample is not what the bundle declares, or has no samples.
        BackendError: an engine failed.
    """

    def __init__(
        self,
        model: AdaptiveModel,
        budget: Budget,
        sample: Mapping[str, Array] | None,
        most_samples: int,
        progress: Callable[[float], None] = lambda _share: None,
    ) -> None:
        model.operating_point(budget)
        self.model, self.name, self.budget = model, model.bundle.name, budget
        specs = {spec.name: spec for spec in model.bundle.outputs}
        self._batch_axis = specs[MACS_OUTPUT].shape[0]
        self._batched = {spec.name for spec in model.bundle.inputs if self._has_rows(spec)}
        self._row_outputs = {spec.name for spec in model.bundle.outputs if self._has_rows(spec)}
        self._tells_exits = len(answer_specs(model.bundle)) > len(model.bundle.outputs)
        self._contract = InputContract(model.bundle.inputs, model.bundle.axes)
        if sample is None:
            self._elements, self.load = 1.0, ModelLoad(CallCosts({1: 1.0}))
            return
        if not self._samples(sample):
            raise InputError("got no samples to measure the device with, expected one at least; give some")
        self._elements = self._size(sample)
        self.load = self._measure(sample, most_samples, progress)

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """What a request must have."""
        return self.model.bundle.inputs

    @property
    def outputs(self) -> list[TensorSpec]:
        """What an answer has: the bundle's outputs, and where samples left, of a bundle with exits."""
        return answer_specs(self.model.bundle)

    def job(self, asked: Asked, arrived: float) -> Job:
        """A request as the queue takes it; all that can be wrong with it is found here.

        Args:
            asked: the request.
            arrived: seconds.

        Raises:
            InputError: its arrays are not what the bundle declares.
            BudgetError: the bundle cannot obey its budget, or its deadline.
        """
        _, sizes = self._contract.check(asked.inputs)
        budget = asked.budget or self.budget
        share = self.model.operating_point(budget).macs_fraction
        if asked.deadline_ms is not None and len(self.model.bundle.stages) < 2:
            raise RequestError(
                f"got a deadline for {self.name!r}, expected none: it has no exits to leave at; give a latency budget"
            )
        kind = BUDGET_KINDS[budget.kind]
        steered = kind.meter is TIME and 0 not in sizes.values()
        return Job(
            self.load,
            self._samples(asked.inputs),
            arrived,
            self._key(asked, budget, alone=0 in sizes.values()),
            budget.value * kind.factor if steered else None,
            share if kind.meter is WORK and math.isfinite(share) else math.inf,
            self._size(asked.inputs) / self._elements,
            (asked, budget),
        )

    def run(self, batch: Batch, now: float) -> tuple[Result, float, list[Answer]]:
        """Run a batch.

        Args:
            batch: whose jobs are of this model.
            now: seconds, of the clock of the jobs' arrivals.

        Returns:
            The call's result; the share of work that its operating point is expected to take; an answer for each job.

        Raises:
            BackendError: an engine failed.
        """
        asked, budget = batch.jobs[0].content
        if batch.choice is not None:
            _, full = self._limits
            budget = Budget.full() if batch.choice.fraction >= full else Budget.fraction(batch.choice.fraction)
        expected = self.model.operating_point(budget).macs_fraction
        deadline = None
        if asked.deadline_ms is not None:
            deadline = max(asked.deadline_ms - (now - batch.jobs[0].arrived) * 1e3, _LEAST_DEADLINE_MS)
        result = self.model.run(self._together(batch.jobs), budget=budget, deadline_ms=deadline)
        return result, expected, self._answers(batch, result, now)

    def _answers(self, batch: Batch, result: Result, now: float) -> list[Answer]:
        outputs = {**result.outputs, MACS_OUTPUT: result.macs_fraction}
        if self._tells_exits and result.exit is not None:
            outputs[EXIT_OUTPUT] = result.exit
        answers, start = [], 0
        for job in batch.jobs:
            rows = slice(start, start + job.samples)
            start += job.samples
            own = {name: array[rows] if self._is_by_row(name) else array for name, array in outputs.items()}
            asked, budget = job.content
            waited = max((now - job.arrived) * 1e3, 0.0)
            parameters = parameters_of(result, rows, asked.written, waited, batch.samples)
            if batch.choice is not None and job.target is not None and not batch.choice.reachable:
                parameters["reachable"] = False
                parameters["message"] = (
                    f"got a budget of {budget}, of which {max(job.target - waited, 0):.4g} ms were left after the "
                    f"queue, but the cheapest calibrated point is expected to take up to {batch.choice.upper:.4g} ms "
                    "now; ran that one"
                )
            answers.append(Answer(own, parameters))
        return answers

    def _is_by_row(self, name: str) -> bool:
        return name in self._row_outputs or (name == EXIT_OUTPUT and self._tells_exits)

    def _together(self, jobs: list[Job]) -> dict[str, Array]:
        first: dict[str, Array] = jobs[0].content[0].inputs
        if len(jobs) == 1:
            return first
        return {
            name: np.concatenate([job.content[0].inputs[name] for job in jobs]) if name in self._batched else array
            for name, array in first.items()
        }

    def _key(self, asked: Asked, budget: Budget, *, alone: bool) -> Hashable:
        """Requests that have it in common may share a call: a sample's answer does not depend on its batch-mates."""
        if alone or asked.deadline_ms is not None or not self._batched:
            return None
        if BUDGET_KINDS[budget.kind].meter not in (NOTHING, WORK, TIME):  # energy is that of a call
            return None
        shapes = tuple(
            (name, array.shape[1:] if name in self._batched else (array.shape, array.tobytes()))
            for name, array in asked.inputs.items()
        )
        return self.name, budget, shapes

    def _has_rows(self, spec: TensorSpec) -> bool:
        return bool(spec.shape) and spec.shape[0] == self._batch_axis

    def _samples(self, inputs: Mapping[str, Array]) -> int:
        return next((len(inputs[name]) for name in self._batched), 1)

    def _size(self, inputs: Mapping[str, Array]) -> float:
        """Elements of a sample."""
        return float(
            sum(math.prod(array.shape[1:]) if name in self._batched else array.size for name, array in inputs.items())
        )

    def _measure(self, sample: Mapping[str, Array], most: int, progress: Callable[[float], None]) -> ModelLoad:
        one = self._repeated(sample, 1)
        profile = None
        if self.model.bundle.curve:
            cheapest = self.model.operating_point(Budget.fraction(0.0)).macs_fraction
            full = self.model.operating_point(Budget.full()).macs_fraction
            self._limits = cheapest, max(cheapest, full)
            profile = self.model.prepare(one, Budget.latency(1.0), progress=lambda share: progress(share * 0.8))
        costs = CallCosts(self._measured_batches(sample, most, lambda share: progress(0.8 + share * 0.2)))
        progress(1.0)
        if profile is None:
            return ModelLoad(costs)
        curve = profile.curve()
        controller = LatencyController(1.0, curve, noise=profile.noise, cold=tuple(profile.cold), limits=self._limits)
        return ModelLoad(costs, curve, controller)

    def _measured_batches(
        self, sample: Mapping[str, Array], most: int, progress: Callable[[float], None]
    ) -> dict[int, float]:
        """Milliseconds of calls by their number of samples, everything running."""
        sizes = [1]
        while sizes[-1] < most and self._batched:
            sizes.append(min(sizes[-1] * 2, most))
        inputs = {size: self._repeated(sample, size) for size in sizes}
        times: dict[int, list[float]] = {size: [] for size in sizes}
        for turn in range(_ROUNDS + 1):
            for size in sizes:
                start = perf_counter()
                self.model.run(inputs[size], budget=Budget.full())
                times[size].append((perf_counter() - start) * 1e3)
            progress((turn + 1) / (_ROUNDS + 1))
        return {size: statistics.median(seen[1:]) for size, seen in times.items()}

    def _repeated(self, sample: Mapping[str, Array], count: int) -> dict[str, Array]:
        return {
            name: array[np.arange(count) % len(array)] if name in self._batched else array
            for name, array in sample.items()
        }


def answer_specs(bundle: Bundle) -> list[TensorSpec]:
    """What an answer has: the bundle's outputs, and where samples left, of a bundle with exits."""
    specs = {spec.name: spec for spec in bundle.outputs}
    exits = [] if len(bundle.stages) < 2 or EXIT_OUTPUT in specs else [EXIT_OUTPUT]
    return [*specs.values(), *(TensorSpec(name, "int64", [specs[MACS_OUTPUT].shape[0]]) for name in exits)]
