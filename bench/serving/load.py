"""Many clients at once: a steady load that comes whether the server keeps up or not, and what became of it."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from adaptrt.bench.serving.server_process import Served
from adaptrt.runtime.serving.tensors import datatype

Array = np.ndarray[Any, Any]

CLIENTS = 64
WINDOW_S = 1.0
_JSON_LENGTH = "Inference-Header-Content-Length"


class Request(NamedTuple):
    """What became of a request.

    Attributes:
        came: seconds from the beginning until it was due.
        latency_ms: from then until its answer.
        status: of HTTP; 0 where the connection broke.
        work: share of the dense work; NaN where it was not answered.
    """

    came: float
    latency_ms: float
    status: int
    work: float


@dataclass(frozen=True)
class Window:
    """The requests that came in a second.

    Attributes:
        begin: seconds.
        requests: that came.
        lost: of them, those that were not answered.
        p95_ms: what 95% of the answers stayed under; None without one.
        work: mean share of the dense work; None likewise.
    """

    begin: float
    requests: int
    lost: int
    p95_ms: float | None
    work: float | None


@dataclass(frozen=True)
class Load:
    """One load, and what became of it.

    Attributes:
        budget: that the requests asked for.
        target_ms: that the answers are judged by.
        offered: requests a second.
        requests: that were sent.
        lost: that were not answered.
        windows_in_time: share of the windows whose 95% are within the target.
        work: mean share of the dense work.
        p95_ms: of all answers.
        windows: second by second.
    """

    budget: str
    target_ms: float
    offered: float
    requests: int
    lost: int
    windows_in_time: float
    work: float
    p95_ms: float
    windows: list[Window]


def message(inputs: dict[str, Array], budget: str) -> tuple[bytes, dict[str, str]]:
    """A request's body, its tensors as bytes, and its headers."""
    described = [
        {
            "name": name,
            "datatype": datatype(array.dtype),
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in inputs.items()
    ]
    parameters = {"budget": budget, "binary_data_output": True}
    head = json.dumps({"inputs": described, "parameters": parameters}).encode()
    return head + b"".join(array.tobytes() for array in inputs.values()), {_JSON_LENGTH: str(len(head))}


async def closed(server: Served, name: str, body: tuple[bytes, dict[str, str]], clients: int, seconds: float) -> float:
    """Answers a second of so many clients that ask again as soon as they are answered."""
    answered = 0

    async def client(session: Any, until: float) -> None:
        nonlocal answered
        while True:
            status, _ = await ask(session, server, name, body)
            answered += status == 200
            if perf_counter() >= until:
                return

    async with session_of(clients) as session:
        begin = perf_counter()
        await asyncio.gather(*(client(session, begin + seconds) for _ in range(clients)))
        return answered / (perf_counter() - begin)


async def steady(
    server: Served,
    name: str,
    body: tuple[bytes, dict[str, str]],
    rate: float,
    seconds: float,
    progress: Callable[[float], None] = lambda _share: None,
    seed: int = 1,
) -> list[Request]:
    """Requests of 64 clients that together come so often, at random times, whether they are answered or not.

    A client that is answered late sends its next request late; its latency counts from when it was due.
    """
    requests: list[Request] = []

    async def client(number: int, session: Any, begin: float) -> None:
        draw, due = random.Random(seed * CLIENTS + number), 0.0
        while (due := due + draw.expovariate(rate / CLIENTS)) < seconds:
            await asyncio.sleep(max(begin + due - perf_counter(), 0.0))
            status, work = await ask(session, server, name, body)
            requests.append(Request(due, (perf_counter() - begin - due) * 1e3, status, work))
            progress(min(due / seconds, 1.0))

    async with session_of(CLIENTS) as session:
        begin = perf_counter()
        await asyncio.gather(*(client(number, session, begin) for number in range(CLIENTS)))
    return requests


def judge(budget: str, target_ms: float, rate: float, requests: Sequence[Request]) -> Load:
    """What a load came to."""
    by_window: dict[int, list[Request]] = {}
    for request in requests:
        by_window.setdefault(int(request.came / WINDOW_S), []).append(request)
    windows = [_window(number * WINDOW_S, members) for number, members in sorted(by_window.items())]
    in_time = [window.p95_ms is not None and window.p95_ms <= target_ms for window in windows]
    whole = _window(0.0, requests)
    return Load(
        budget,
        target_ms,
        rate,
        len(requests),
        whole.lost,
        sum(in_time) / len(in_time) if in_time else math.nan,
        math.nan if whole.work is None else whole.work,
        math.nan if whole.p95_ms is None else whole.p95_ms,
        windows,
    )


def _window(begin: float, requests: Sequence[Request]) -> Window:
    answered = [request for request in requests if request.status == 200]
    lost = len(requests) - len(answered)
    if not answered:
        return Window(begin, len(requests), lost, None, None)
    latencies = [request.latency_ms for request in answered]
    work = float(np.mean([request.work for request in answered]))
    return Window(begin, len(requests), lost, float(np.quantile(latencies, 0.95)), work)


def session_of(connections: int) -> Any:
    """HTTP connections of so many clients."""
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections), timeout=aiohttp.ClientTimeout(total=120)
    )


async def ask(session: Any, server: Served, name: str, body: tuple[bytes, dict[str, str]]) -> tuple[int, float]:
    """Send a request; gives the status, 0 where the connection broke, and the share of work, NaN without an answer."""
    import aiohttp

    content, headers = body
    try:
        async with session.post(
            f"http://{server.http}/v2/models/{name}/infer", data=content, headers=headers
        ) as answer:
            told = await answer.read()
            if answer.status != 200:
                return answer.status, math.nan
            head = json.loads(told[: int(answer.headers.get(_JSON_LENGTH, len(told)))])
            return 200, float(head["parameters"]["macs_fraction"])
    except (aiohttp.ClientError, asyncio.TimeoutError):
        return 0, math.nan
