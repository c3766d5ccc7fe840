"""What a request adds to a call, what a budget makes of an overload, and whether memory grows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Group
from rich.table import Table

from adaptrt.bench.errors import BenchError
from adaptrt.bench.reports.console import existing_folder, json_option, run_command, show, show_progress
from adaptrt.bench.serving import overhead
from adaptrt.bench.serving.load import CLIENTS, Load, ask, closed, judge, message, session_of, steady
from adaptrt.bench.serving.overhead import Overhead
from adaptrt.bench.serving.server_process import Served, served
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.bench.timing.samples import draw_inputs
from adaptrt.runtime import load

LIMIT_WINDOWS = 0.95
_CAPACITY_CLIENTS = 8
_MEMORY_POINTS = 10
_BUDGET_CALLS = 15

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Memory:
    """Memory of the server over many requests.

    Attributes:
        requests: that were answered.
        mib: resident, after each tenth of them.
        growth_mib: from the first tenth to the last.
    """

    requests: int
    mib: list[float]
    growth_mib: float


@dataclass(frozen=True)
class Result:
    """All that one run of this command measured."""

    benchmark: str
    bundle: str
    samples: int
    overhead: list[Overhead]
    capacity: float
    loads: list[Load]
    memory: Memory
    machine: dict[str, Any]
    source: dict[str, Any]


async def measure_loads(
    server: Served,
    name: str,
    inputs: dict[str, Array],
    seconds: float,
    budget_ms: float | None,
    progress: Callable[[float], None],
) -> tuple[float, list[Load]]:
    """Find what full work can answer, and send twice as much, under a latency budget and on full work.

    Returns:
        Answers a second on full work, and the two loads.
    """
    capacity = await closed(server, name, message(inputs, "full"), _CAPACITY_CLIENTS, min(seconds, 10.0))
    if not capacity:
        raise BenchError("got no answer on full work, expected some; look at the server's messages")
    target = budget_ms or round(_BUDGET_CALLS * 1e3 / capacity, 1)
    budgets = (f"{target}ms", "full")
    loads = []
    for place, budget in enumerate(budgets):

        def tell(share: float, place: int = place) -> None:
            progress((place + share) / len(budgets))

        requests = await steady(server, name, message(inputs, budget), 2 * capacity, seconds, tell)
        loads.append(judge(budget, target, 2 * capacity, requests))
    return capacity, loads


async def measure_memory(
    server: Served, name: str, inputs: dict[str, Array], count: int, progress: Callable[[float], None]
) -> Memory:
    """Send many requests, and look at the server's memory after each tenth of them."""
    resident, body = [], message(inputs, "20%")
    async with session_of(_CAPACITY_CLIENTS) as session:
        for part in range(_MEMORY_POINTS):
            left = iter(range(count // _MEMORY_POINTS))

            async def client(left: Any = left) -> None:
                for _ in left:
                    await ask(session, server, name, body)

            await asyncio.gather(*(client() for _ in range(_CAPACITY_CLIENTS)))
            resident.append(server.resident_mib)
            progress((part + 1) / _MEMORY_POINTS)
    return Memory(count // _MEMORY_POINTS * _MEMORY_POINTS, resident, resident[-1] - resident[0])


def tabulate(result: Result) -> Group:
    """The result for a terminal."""
    added = Table(title=f"One request after the other: bundle {result.bundle!r}, one sample, 1 thread")
    for heading in ("", "model.run, ms", "request, ms", "more, ms", "quartiles", "limit"):
        added.add_column(heading, justify="right" if heading else "left")
    for row in result.overhead:
        added.add_row(
            row.protocol,
            f"{row.plain.median:.2f}",
            f"{row.request.median:.2f}",
            f"{row.extra.median:.2f}",
            f"{row.extra.low:.2f}-{row.extra.high:.2f}",
            f"{row.limit_ms:g}",
        )
    loads = Table(
        title=f"{CLIENTS} clients at twice the {result.capacity:.0f} requests a second that full work answers, "
        f"{result.samples} samples each"
    )
    for heading in ("budget", "requests", "lost", "95%, ms", "within, ms", "seconds in time", "work"):
        loads.add_column(heading, justify="right")
    for load_ in result.loads:
        loads.add_row(
            load_.budget,
            str(load_.requests),
            str(load_.lost),
            f"{load_.p95_ms:.1f}",
            f"{load_.target_ms:g}",
            f"{load_.windows_in_time:.0%}",
            f"{load_.work:.2f}",
        )
    memory = Table(title="Memory of the server")
    for heading in ("requests", "after a tenth, MiB", "at the end, MiB", "growth, MiB"):
        memory.add_column(heading, justify="right")
    memory.add_row(
        str(result.memory.requests),
        f"{result.memory.mib[0]:.1f}",
        f"{result.memory.mib[-1]:.1f}",
        f"{result.memory.growth_mib:.1f}",
    )
    return Group(added, loads, memory)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--turns", type=click.IntRange(1), default=500, show_default=True, help="Requests of each protocol.")
@click.option("--samples", type=click.IntRange(1), default=16, show_default=True, help="Of a request under load.")
@click.option("--seconds", type=click.FloatRange(1), default=60.0, show_default=True, help="Of each load.")
@click.option("--budget-ms", type=click.FloatRange(0.01), help="Latency budget; default: 15 calls of full work.")
@click.option("--requests", type=click.IntRange(10), default=100_000, show_default=True, help="For memory.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of the server's model.")
@click.option("--quick", is_flag=True, help="A minute: 100 turns, 10 seconds of load, 2,000 requests for memory.")
@json_option
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), callback=existing_folder, help="Draw the load."
)
def main(
    bundle: Path,
    turns: int,
    samples: int,
    seconds: float,
    budget_ms: float | None,
    requests: int,
    threads: int,
    quick: bool,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Measure what serving BUNDLE, an exported and calibrated folder, costs and what a budget gives under load.

    Twice as many requests come as full work can answer, from 64 clients: once under a latency budget, which is to
    lose none and to keep 95% of the seconds in time, and once on full work.

    \b
    Examples:
      python -m adaptrt.bench.serving build/digits --quick
      python -m adaptrt.bench.serving build/digits --json serving.json --plot serving.png
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    if quick:
        turns, seconds, requests = min(turns, 100), min(seconds, 10.0), min(requests, 2_000)
    model = load(bundle, threads=threads)
    if not model.bundle.curve:
        raise BenchError(f"got bundle {model.bundle.name!r} without operating points, expected a calibrated one")
    one, many = draw_inputs(model.bundle, 1), draw_inputs(model.bundle, samples)
    name = model.bundle.name
    options = ["--threads", str(threads), "--max-batch", str(samples)]
    with served(bundle, options) as server, show_progress() as progress:
        tasks = [progress.add_task(text, total=1.0) for text in ("one by one", "under load", "memory")]
        added = overhead.measure(model, one, server, turns)
        progress.update(tasks[0], completed=1.0)
        capacity, loads = asyncio.run(
            measure_loads(
                server, name, many, seconds, budget_ms, lambda share: progress.update(tasks[1], completed=share)
            )
        )
        memory = asyncio.run(
            measure_memory(server, name, one, requests, lambda share: progress.update(tasks[2], completed=share))
        )
    result = Result("serving", name, samples, added, capacity, loads, memory, describe_machine(), describe_source())
    if plot is not None:
        from adaptrt.bench.serving.plot import plot_loads

        plot_loads(loads, plot)
    show(tabulate(result), result, json_file)


if __name__ == "__main__":
    run_command(main)
