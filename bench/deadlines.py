"""Deadlines kept and missed on a bundle with exits, call after call.

``python -m adaptrt.bench.deadlines BUNDLE`` measures at five deadlines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
from rich.table import Table

from adaptrt.bench.errors import BenchError
from adaptrt.bench.reports.console import json_option, run_command, show, show_progress
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.bench.timing.samples import batches_of, find_samples
from adaptrt.runtime import AdaptiveModel, Budget, load
from adaptrt.runtime.bundle.bundle_file import read_bundle

MISS_LIMIT = 0.01
CALLS = 2_000
_SHARES = (0.45, 0.6, 0.8, 1.0, 1.3)
_WARM = 50
_IMAGES = 64


@dataclass(frozen=True)
class DeadlineRow:
    """One deadline.

    Attributes:
        over_full: The deadline over the median time of everything.
        deadline_ms: Milliseconds.
        calls: Made.
        missed: Share of them that were late, measured around the call.
        worst_over_ms: Milliseconds that the latest was late by; 0 where none was.
        exits: Share of the calls that ended at each stage.
        median_ms: Of all calls.
    """

    over_full: float
    deadline_ms: float
    calls: int
    missed: float
    worst_over_ms: float
    exits: list[float]
    median_ms: float


@dataclass(frozen=True)
class DeadlineResult:
    """All deadlines, with what they must reach: missed at most that often, and by less than the longest stage."""

    benchmark: str
    bundle: str
    batch: int
    threads: int
    full_ms: float
    first_stage_ms: float
    longest_stage_ms: float
    missed_limit: float
    rows: list[DeadlineRow]
    machine: dict[str, Any]
    source: dict[str, Any]


def measure(
    folder: Path,
    *,
    batch: int,
    threads: int,
    calls: int,
    shares: Sequence[float] = _SHARES,
    progress: Callable[[float], None] = lambda _share: None,
) -> DeadlineResult:
    """Measure every deadline, nobody leaving early but for its sake.

    Args:
        folder: A bundle with exits and one input.
        batch: Samples of a call.
        threads: That one operator may use.
        calls: For each deadline.
        shares: Deadlines over the median time of everything.
        progress: Told the share that is done.

    Raises:
        BenchError: The bundle has no exits, or several inputs.
    """
    bundle = read_bundle(folder, verify_hashes=False)
    if len(bundle.stages) < 2 or len(bundle.inputs) != 1:
        raise BenchError(
            f"got bundle {bundle.name!r} with {len(bundle.stages)} stages and {len(bundle.inputs)} inputs, expected "
            "several stages and one input; measure another"
        )
    samples, _ = find_samples(folder, bundle, None)
    inputs = [{bundle.inputs[0].name: one} for one in batches_of(samples, batch, _IMAGES)]
    machine, model = describe_machine(), load(folder, threads=threads)
    model.budget = Budget.full()
    for index in range(_WARM):
        model.run(inputs[index % len(inputs)], deadline_ms=1e6)
    stages = [_median_of(model, inputs, stage) for stage in range(len(bundle.stages))]
    full = stages[-1]
    rows = []
    for number, share in enumerate(shares):
        rows.append(_row(model, inputs, share, share * full, calls))
        progress((number + 1) / len(shares))
    each = [after - before for before, after in zip([0.0, *stages[:-1]], stages, strict=True)]
    return DeadlineResult(
        benchmark="deadlines",
        bundle=bundle.name,
        batch=batch,
        threads=threads,
        full_ms=full,
        first_stage_ms=stages[0],
        longest_stage_ms=max(each),
        missed_limit=MISS_LIMIT,
        rows=rows,
        machine=machine,
        source=describe_source(),
    )


def _median_of(model: AdaptiveModel, inputs: Sequence[dict[str, Any]], stage: int) -> float:
    """Milliseconds of a call whose samples all leave at a stage."""
    knob = next((knob for knob in model.bundle.knobs if knob.name == "exit_thresholds"), None)
    assert knob is not None
    count = len(model.backends) - 1
    values = [knob.maximum if index < stage else knob.minimum for index in range(count)]
    times = []
    for index in range(_WARM):
        begun = perf_counter()
        model.run(inputs[index % len(inputs)], knobs={"exit_thresholds": values})
        times.append((perf_counter() - begun) * 1e3)
    return float(np.median(times))


def _row(
    model: AdaptiveModel, inputs: Sequence[dict[str, Any]], share: float, deadline: float, calls: int
) -> DeadlineRow:
    times, exits = np.empty(calls), np.zeros(len(model.backends))
    for index in range(calls):
        begun = perf_counter()
        result = model.run(inputs[index % len(inputs)], deadline_ms=deadline)
        times[index] = (perf_counter() - begun) * 1e3
        assert result.exit is not None
        exits[int(result.exit.max())] += 1
    late = times - deadline
    return DeadlineRow(
        over_full=share,
        deadline_ms=deadline,
        calls=calls,
        missed=float((late > 0).mean()),
        worst_over_ms=float(max(late.max(), 0.0)),
        exits=(exits / calls).tolist(),
        median_ms=float(np.median(times)),
    )


def tabulate(result: DeadlineResult) -> Table:
    """The result for a terminal."""
    threads = f"{result.threads} thread" + "s" * (result.threads > 1)
    table = Table(
        title=f"{result.bundle}, batch {result.batch}, {threads}: everything takes {result.full_ms:.3f} ms, the first "
        f"stage {result.first_stage_ms:.3f}, the longest {result.longest_stage_ms:.3f}"
    )
    headings = ("deadline, ms", "x everything", "calls", "missed", "latest by, ms", "ended at each exit", "median, ms")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result.rows:
        table.add_row(
            f"{row.deadline_ms:.3f}",
            f"{row.over_full:.2f}",
            str(row.calls),
            f"{row.missed:.2%}",
            f"{row.worst_over_ms:.3f}",
            "/".join(f"{share:.0%}" for share in row.exits),
            f"{row.median_ms:.3f}",
        )
    table.add_row("limit", "", "", f"{result.missed_limit:.0%}", f"{result.longest_stage_ms:.3f}", "", "")
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Samples of a call.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads per operator.")
@click.option("--calls", type=click.IntRange(10), default=CALLS, show_default=True, help="For each deadline.")
@json_option
def main(bundle: Path, batch: int, threads: int, calls: int, json_file: Path | None) -> None:
    """Measure how often and by how much calls with a deadline are late.

    \b
    Examples:
      python -m adaptrt.bench.deadlines build/fashion
      python -m adaptrt.bench.deadlines build/fashion --batch 8 --json deadlines.json
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    with show_progress() as progress:
        task = progress.add_task("calling", total=1.0)
        result = measure(
            bundle,
            batch=batch,
            threads=threads,
            calls=calls,
            progress=lambda share: progress.update(task, completed=share),
        )
    show(tabulate(result), result, json_file)


if __name__ == "__main__":
    run_command(main)
