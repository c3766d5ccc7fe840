"""Replicas of a bundle on the nodes of a Ray cluster: each has the queue, the budgets and the messages of the server.

``serve run adaptrt.runtime.serving.ray_serve:application bundle=/models/digits replicas=2`` (``adaptrt[ray-serve]``)
starts them; every node needs adaptrt and the bundle at that path. Requests are those of ``adaptrt serve`` over HTTP, or
arrays and parameters by a handle: ``serve.get_app_handle("default").infer.remote(inputs, {"budget": "45%"})``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.control.budget_text import parse_budget
from adaptrt.runtime.errors import shown
from adaptrt.runtime.loading import load
from adaptrt.runtime.serving.errors import OUTCOMES, ServingError, TooLarge, UnknownModel, outcome_of, text_of
from adaptrt.runtime.serving.executor import Executor
from adaptrt.runtime.serving.metrics import ServingMetrics
from adaptrt.runtime.serving.requests import Answer, Asked, asked
from adaptrt.runtime.serving.rest_messages import HEADER_LENGTH, check_outputs, decode, encode
from adaptrt.runtime.serving.served_model import ServedModel

Array = np.ndarray[Any, Any]

_LOGGER = logging.getLogger("adaptrt.serving")
_GOLDEN, _GOLDEN_INPUT = "golden.npz", "input."


@dataclass(frozen=True)
class RaySettings:
    """What replicas are started with.

    Attributes:
        bundle: the folder, on every node.
        replicas: how many.
        cpus: that Ray counts for each; a node has room for so many as its processors allow.
        threads: of each operator.
        budget: of requests that name none, as text.
        max_queue: requests that wait in a replica.
        max_batch: samples that requests together have in one call.
        batch_wait_ms: that a batch which is not full waits for more.
        max_request_bytes: of a request over HTTP.
        sample: an ``.npz`` file with an array for each input, on every node, to measure the device with; empty takes
            the inputs in the bundle's ``golden.npz``. Without either latency budgets do not count what a request waits.
    """

    bundle: str
    replicas: int = 1
    cpus: float = 1.0
    threads: int = 1
    budget: str = "full"
    max_queue: int = 256
    max_batch: int = 16
    batch_wait_ms: float = 0.0
    max_request_bytes: int = 16 << 20
    sample: str = ""

    @classmethod
    def parse(cls, arguments: Mapping[str, object]) -> RaySettings:
        """Settings from what ``serve run`` is given, texts or numbers.

        Raises:
            ServingError: a name is unknown, the bundle is missing, or a value is no number where one is expected.
        """
        kinds = {field.name: str(field.type) for field in fields(cls)}
        for name in arguments:
            if name not in kinds:
                raise ServingError(f"got argument {shown(name)}, expected {', '.join(kinds)}; leave it out")
        if not arguments.get("bundle"):
            raise ServingError("got no bundle, expected its folder; give bundle=FOLDER")
        values: dict[str, Any] = {}
        for name, value in arguments.items():
            kind = {"int": int, "float": float, "str": str}[kinds[name]]
            try:
                values[name] = kind(value)
            except (TypeError, ValueError):
                raise ServingError(f"got {name}={shown(value)}, expected a number; give one") from None
            if kind is not str and not (values[name] > 0 or (values[name] == 0 and kind is float)):
                raise ServingError(f"got {name}={shown(value)}, expected a number above 0; give one")
        return cls(**values)


def application(arguments: Mapping[str, object]) -> Any:
    """Ray Serve's application of a bundle.

    Args:
        arguments: the fields of ``RaySettings``.

    Raises:
        ServingError: they are not what is expected.
        BundleError: the bundle is missing or damaged.
        BudgetError: the budget is none.
    """
    from ray import serve

    settings = RaySettings.parse(arguments)
    bundle = read_bundle(settings.bundle)
    parse_budget(settings.budget)
    deployment = serve.deployment(Replica).options(
        name=f"adaptrt-{bundle.name}",
        num_replicas=settings.replicas,
        max_ongoing_requests=settings.max_queue,
        ray_actor_options={"num_cpus": settings.cpus},
    )
    return deployment.bind(settings)


class Replica:
    """One process that answers requests; Ray starts it.

    Args:
        settings: of all replicas.

    Raises:
        BundleError: the bundle is missing or damaged.
        BudgetError: it cannot obey the budget.
        InputError: the samples to measure with are not what it declares.
    """

    def __init__(self, settings: RaySettings) -> None:
        self._settings = settings
        model = load(settings.bundle, threads=settings.threads)
        sample = _sample(settings, [spec.name for spec in model.bundle.inputs])
        if sample is None:
            _LOGGER.warning(
                "got no sample to measure %r with: latency budgets do not count the queue", model.bundle.name
            )
        self._served = ServedModel(model, parse_budget(settings.budget), sample, settings.max_batch)
        self._executor = Executor(
            settings.max_queue, settings.max_batch, settings.batch_wait_ms, ServingMetrics(lambda: len(self._executor))
        )

    async def infer(
        self, inputs: Mapping[str, Array], parameters: Mapping[str, object] | None = None
    ) -> tuple[dict[str, Array], dict[str, bool | int | float | str]]:
        """Answer a request by a handle.

        Args:
            inputs: arrays by name.
            parameters: as over HTTP: ``budget``, ``hard``, ``deadline_ms``.

        Returns:
            The outputs by name, and the parameters of an answer.

        Raises:
            AdaptrtError: the request is wrong, or cannot be answered in its budget.
        """
        answer = await self._answer(asked(inputs, parameters or {}), self._executor.clock())
        return answer.outputs, answer.parameters

    async def __call__(self, request: Any) -> Any:
        """Answer ``POST /v2/models/NAME/infer``."""
        from starlette.responses import JSONResponse, Response

        arrived = self._executor.clock()
        try:
            path, expected = request.url.path, f"/v2/models/{self._served.name}/infer"
            if not path.endswith(expected) or request.method != "POST":
                raise UnknownModel(f"got {request.method} {shown(path)}, expected POST {expected}; ask there")
            body = await request.body()
            if len(body) > self._settings.max_request_bytes:
                most = self._settings.max_request_bytes
                raise TooLarge(f"got a body of {len(body)} bytes, expected at most {most}; send fewer samples")
            message = decode(body, request.headers.get(HEADER_LENGTH))
            if message.outputs is not None:
                check_outputs(list(message.outputs), [spec.name for spec in self._served.outputs])
            answer = await self._answer(message.asked, arrived)
            content, head = encode(message, self._served.name, answer)
        except Exception as error:
            outcome = outcome_of(error)
            if outcome is OUTCOMES["failed"]:
                _LOGGER.exception("a request to %r failed", self._served.name)
            headers = {"retry-after": "1"} if outcome.retry else {}
            return JSONResponse({"error": text_of(error)}, outcome.status, headers)
        kind = "application/json" if head is None else "application/octet-stream"
        return Response(content, 200, {} if head is None else {HEADER_LENGTH: str(head)}, kind)

    def check_health(self) -> None:
        """What Ray asks now and then; a replica that raises is replaced.

        Raises:
            ServingError: its thread has ended.
        """
        if not self._executor.alive:
            raise ServingError("the thread that runs the calls has ended, expected it to run; see this replica's log")

    def __del__(self) -> None:
        executor = getattr(self, "_executor", None)
        if executor is not None:
            executor.stop()

    async def _answer(self, wanted: Asked, arrived: float) -> Answer:
        pending = self._executor.submit(self._served, wanted, arrived)
        try:
            answer = await asyncio.wrap_future(pending.answer)
        except asyncio.CancelledError:  # who asked has gone
            self._executor.leave(pending)
            raise
        self._executor.sent(pending)
        return answer


def _sample(settings: RaySettings, names: list[str]) -> dict[str, Array] | None:
    """Inputs to measure the device with, one sample or more; None where there are none.

    Raises:
        ServingError: the file cannot be read, or lacks an input.
    """
    golden = Path(settings.bundle) / _GOLDEN
    if not settings.sample and not golden.is_file():
        return None
    file, prefix = (settings.sample, "") if settings.sample else (str(golden), _GOLDEN_INPUT)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[f"{prefix}{name}"] for name in names}
    except Exception as error:  # a damaged archive fails in many ways
        raise ServingError(
            f"cannot read {file}: {' '.join(str(error).split())}; expected an .npz file with {', '.join(names)}"
        ) from None
