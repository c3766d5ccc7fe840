"""Start processes side by side: each spends its first seconds on imports and on optimising its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from adaptrt.bench.errors import BenchError
from adaptrt.bench.timing.session_process import SessionProcess
from adaptrt.runtime.device.processors import granted_processors

Start = Callable[[], SessionProcess]


def start_together(
    starts: Mapping[str, Start], stack: ExitStack, on_start: Callable[[int], None] = lambda _count: None
) -> tuple[dict[str, SessionProcess], dict[str, BenchError]]:
    """Start processes, as many at a time as there are processors.

    Args:
        starts: What starts each, by name.
        stack: Ends those that started, whatever ends the call.
        on_start: Told how many of them are done.

    Returns:
        Those that started, in their order, and why the others did not.
    """
    processes: dict[str, SessionProcess] = {}
    errors: dict[str, BenchError] = {}
    with ThreadPoolExecutor(granted_processors().threads) as pool:
        futures = {name: pool.submit(start) for name, start in starts.items()}
        try:
            for count, (name, future) in enumerate(futures.items()):
                try:
                    processes[name] = future.result()
                except BenchError as error:
                    errors[name] = error
                on_start(count + 1)
        finally:
            for future in futures.values():
                future.cancel()
            pool.shutdown()
            for future in futures.values():
                _end_with(stack, future)
    return processes, errors


def _end_with(stack: ExitStack, future: Future[SessionProcess]) -> None:
    if not future.cancelled() and future.exception() is None:
        stack.enter_context(future.result())
