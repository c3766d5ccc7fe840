"""What a request adds to ``model.run``, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from adaptrt.bench.errors import BenchError
from adaptrt.bench.serving.server_process import Served
from adaptrt.bench.timing.interleave import Spread
from adaptrt.runtime import AdaptiveModel, Budget
from adaptrt.runtime.serving.tensors import datatype

LIMIT_MS = 2.5
_WARM = 20

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Overhead:
    """One protocol.

    Attributes:
        protocol: of the requests.
        plain: milliseconds of ``model.run``, everything running.
        request: milliseconds of a request.
        extra: their difference, turn by turn.
        limit_ms: that the median of the difference is to stay under.
    """

    protocol: str
    plain: Spread
    request: Spread
    extra: Spread
    limit_ms: float


def measure(model: AdaptiveModel, inputs: dict[str, Array], server: Served, turns: int) -> list[Overhead]:
    """Compare requests with calls, by turns.

    Args:
        model: the same that is served.
        inputs: of each.
        server: that is asked.
        turns: of each protocol.

    Raises:
        BenchError: Triton's client is not installed.
    """
    try:
        import tritonclient.grpc
        import tritonclient.http
    except ImportError:
        raise BenchError(
            "got no package tritonclient, expected it; run: pip install 'tritonclient[grpc,http]'"
        ) from None

    rows = []
    for protocol, triton, address in (
        ("http", tritonclient.http, server.http),
        ("grpc", tritonclient.grpc, server.grpc),
    ):
        with triton.InferenceServerClient(address) as client:
            tensors = []
            for name, array in inputs.items():
                tensors.append(triton.InferInput(name, list(array.shape), datatype(array.dtype)))
                tensors[-1].set_data_from_numpy(array)

            def ask(client: Any = client, tensors: list[Any] = tensors) -> object:
                return client.infer(model.bundle.name, tensors, parameters={"budget": "full"})

            plain, request = [], []
            for turn in range(turns + _WARM):
                took = _milliseconds(lambda: model.run(inputs, budget=Budget.full())), _milliseconds(ask)
                if turn >= _WARM:
                    plain.append(took[0])
                    request.append(took[1])
        extra = [more - less for less, more in zip(plain, request, strict=True)]
        rows.append(Overhead(protocol, Spread.of(plain), Spread.of(request), Spread.of(extra), LIMIT_MS))
    return rows


def _milliseconds(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return (perf_counter() - start) * 1e3
