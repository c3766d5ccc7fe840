"""A bundle in Triton's Python backend: requests that Triton batches are run together where their budgets are equal.

``adaptrt build BUNDLE --target triton`` writes a model whose ``model.py`` imports ``TritonPythonModel`` from here.
``triton_python_backend_utils`` is there in Triton's process alone, and imported when Triton asks for a model.
"""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from adaptrt.runtime.control.budget_text import parse_budget
from adaptrt.runtime.control.work_queue import Batch, Job
from adaptrt.runtime.loading import load
from adaptrt.runtime.serving.errors import OUTCOMES, RequestError, outcome_of, text_of
from adaptrt.runtime.serving.requests import Answer, asked
from adaptrt.runtime.serving.served_model import ServedModel

BUNDLE_FOLDER = "bundle"
"""Beside ``model.py``."""
BUDGET, PRECISION, THREADS = "budget", "precision", "threads"
_SETTINGS = (BUDGET, PRECISION, THREADS)


class TritonPythonModel:
    """One instance of a model, as Triton's Python backend calls it. A latency budget is that of the call alone."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the bundle.

        Args:
            args: Triton's; ``model_config`` may set ``budget`` (of requests that name none), ``precision`` and
                ``threads`` in its ``parameters``.

        Raises:
            RequestError: a setting is unknown or of another kind.
            BundleError: the bundle is damaged.
            BudgetError: the bundle cannot obey the budget.
        """
        import triton_python_backend_utils

        self._triton = triton_python_backend_utils
        config = json.loads(args["model_config"])
        settings = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        for name in settings:
            if name not in _SETTINGS:
                raise RequestError(f"got parameter {name!r} in config.pbtxt, expected {', '.join(_SETTINGS)}")
        threads = settings.get(THREADS, "")
        if threads and not threads.isdigit():
            raise RequestError(f"got {THREADS} {threads!r} in config.pbtxt, expected a whole number, or leave it out")
        folder = Path(args["model_repository"]) / args["model_version"] / BUNDLE_FOLDER
        model = load(folder, threads=int(threads) if threads else None, precision=settings.get(PRECISION) or None)
        self._served = ServedModel(model, parse_budget(settings.get(BUDGET) or "full"), None, 1)
        self._most = max(int(config.get("max_batch_size", 0)), 1)
        self._shapes = {output["name"]: output for output in config["output"]}

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch: one call for those whose budgets and shapes are equal."""
        arrived = perf_counter()
        responses: dict[int, Any] = {}
        jobs: dict[int, Job] = {}
        for place, request in enumerate(requests):
            try:
                jobs[place] = self._job(request, arrived)
            except Exception as error:  # noqa: PERF203 - one wrong request leaves the others alone
                responses[place] = self._error(error)
        for places in self._groups(jobs):
            group = [jobs[place] for place in places]
            samples = sum(job.samples for job in group)
            batch = Batch(group, samples, 1.0, perf_counter(), None, math.inf, math.inf)
            try:
                _, _, answers = self._served.run(batch, batch.begun)
            except Exception as error:
                responses.update(dict.fromkeys(places, self._error(error)))
                continue
            for place, answer in zip(places, answers, strict=True):
                responses[place] = self._response(requests[place], answer)
        return [responses[place] for place in range(len(requests))]

    def finalize(self) -> None:
        """Triton unloads the model."""

    def _job(self, request: Any, arrived: float) -> Job:
        """The request, checked.

        Raises:
            RequestError: a parameter is unknown.
            InputError: an input is not what the bundle declares.
            BudgetError: the budget is none, or the bundle cannot obey it.
        """
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        parameters = json.loads(request.parameters() or "{}")
        return self._served.job(asked(inputs, parameters), arrived)

    def _groups(self, jobs: Mapping[int, Job]) -> list[list[int]]:
        """Places of requests that share a call, in the order in which their first ones came."""
        groups: list[list[int]] = []
        open_groups: dict[Any, tuple[list[int], int]] = {}
        for place, job in jobs.items():
            group, samples = open_groups.get(job.key, ([], 0)) if job.key is not None else ([], 0)
            if not group or samples + job.samples > self._most:
                group, samples = [], 0
                groups.append(group)
            group.append(place)
            open_groups[job.key] = group, samples + job.samples
        return groups

    def _response(self, request: Any, answer: Answer) -> Any:
        wanted = set(request.requested_output_names()) or set(answer.outputs)
        tensors = [
            self._triton.Tensor(name, array)
            for name, array in answer.outputs.items()
            if name in wanted and name in self._shapes
        ]
        return self._triton.InferenceResponse(output_tensors=tensors)

    def _error(self, error: Exception) -> Any:
        """A response that says what was wrong in one line; what went wrong inside is written to Triton's log."""
        outcome = outcome_of(error)
        failed = outcome is OUTCOMES["failed"]
        if failed:
            log = self._triton.Logger.log_error
            log("".join(traceback.format_exception(type(error), error, error.__traceback__)))
        code = self._triton.TritonError.INTERNAL if failed else self._triton.TritonError.INVALID_ARG
        return self._triton.InferenceResponse(error=self._triton.TritonError(text_of(error), code))
