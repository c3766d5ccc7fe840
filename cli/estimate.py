"""``adaptrt estimate``: what adapting a model would give on this device, before any training."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptrt.cli.verb import PATH, Verb, families_option, json_option, keep_on_interrupt

if TYPE_CHECKING:
    from rich.table import Table

    from adaptrt.bench.timing.estimate_result import Estimate, EstimateRow

_EXAMPLES = """
adaptrt estimate all-MiniLM-L6-v2
adaptrt estimate all-MiniLM-L6-v2 --length 64 --batch 1 --threads 2
adaptrt estimate vit-base --families acm,tokens --seconds 300 --plot estimate.png
adaptrt estimate resnet-50 --batch 1
adaptrt estimate build/models/minilm --json
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("model", type=PATH)
@families_option
@click.option(
    "--batch", "batches", type=click.IntRange(1, 65_536), multiple=True, default=(1, 16), help="Default: 1 and 16."
)
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Threads per operator.")
@click.option("--length", type=click.IntRange(2), help="Tokens of a text; default: 128, or what the model takes.")
@click.option("--seconds", type=float, default=120.0, show_default=True, help="Time to spend, about.")
@click.option("--plot", type=PATH, help="Picture of latency over work, .png, .svg or .pdf.")
@json_option
def estimate(
    model: Path,
    families: tuple[str, ...] | None,
    batches: tuple[int, ...],
    threads: int,
    length: int | None,
    seconds: float,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Say what adapting MODEL would give here, before any training.

    MODEL is a folder as transformers writes it, or one of `adaptrt adapt`. Its adaptive graphs are traced with random
    decisions that take 100%, 75%, 50%, 35% and 25% of the dense work, and timed beside the dense model in float32, in
    int8 and on other engines that are installed. It says nothing of quality: that takes `adaptrt adapt`.
    """
    if not 0 < seconds < 1_000_000:
        raise click.UsageError(f"got --seconds {seconds:g}, expected a number above 0")
    from adaptrt.bench.timing.estimate import estimate_model
    from adaptrt.cli.output import check_output_file, plain, show, show_json
    from adaptrt.cli.progress import steps_shown

    keep_on_interrupt("nothing was written")
    if plot is not None:
        check_output_file(plot, (".png", ".svg", ".pdf"))
        importlib.import_module("matplotlib")  # missing, it is better missed before the measurement
    with steps_shown() as progress:
        result = estimate_model(
            model,
            families=families,
            batches=sorted(set(batches)),
            threads=threads,
            length=length,
            seconds=seconds,
            progress=progress,
        )
    if plot is not None:
        from adaptrt.bench.reports.estimate_plot import plot_estimate

        plot_estimate(result, plot)
    if as_json:
        show_json({"plot": None if plot is None else str(plot), **plain(result)})
        return
    show(estimate_table(result))
    for sentence in result.advice:
        show(sentence)
    if plot is not None:
        show(f"Picture in {plot}")


def estimate_table(result: Estimate) -> Table:
    """Static models first, then budget after budget of each family."""
    from adaptrt.cli import tables

    per_batch = [
        heading for batch in result.batches for heading in (f"batch {batch}, ms", "quartiles", "x dense", "x int8")
    ]
    what = f", {'texts of ' if result.length else ''}{result.tokens} tokens" if result.tokens else ""
    made = tables.table(
        f"{result.model}{what}, {result.threads} thread{'s' * (result.threads > 1)}: what adapting would give",
        *("<family", "budget", "work", *per_batch),
    )
    int8 = {rival.name: rival for rival in result.rivals}.get("dense int8")
    for rival in result.rivals:
        cells = [rival.name, tables.NONE, tables.NONE]
        for batch in result.batches:
            spread = rival.latency_ms[batch]
            over = tables.NONE if int8 is None else f"{spread.median / int8.latency_ms[batch].median:.2f}"
            cells += [f"{spread.median:.2f}", _quartiles(spread.low, spread.high)]
            cells += [f"{rival.over_dense[batch].median:.2f}", over]
        made.add_row(*cells)
    previous = ""
    for row in result.rows:
        if row.name != previous:
            made.add_section()
        previous = row.name
        made.add_row(row.name, f"{row.wanted:.0%}", _work(row), *_times(row, result.batches))
    made.caption = "budget and work: shares of the dense model's MACs; *: no nearer to the budget"
    if any(row.by_dense for row in result.rows):
        made.caption += "; ^: a finished bundle runs the dense model's graph there"
    made.caption += "".join(f"; left out: {reason}" for reason in result.left_out)
    made.caption_justify = "left"
    return made


def _work(row: EstimateRow) -> str:
    return f"{row.share:.1%}" + (" ^" if row.by_dense else "" if row.reachable else " *")


def _times(row: EstimateRow, batches: tuple[int, ...]) -> list[str]:
    from adaptrt.cli import tables

    cells = []
    for batch in batches:
        spread = row.latency_ms.get(batch)
        if spread is None:
            cells += [tables.NONE] * 4
            continue
        over = row.over_int8.get(batch)
        cells += [f"{spread.median:.2f}", _quartiles(spread.low, spread.high)]
        cells += [f"{row.over_dense[batch].median:.2f}", tables.NONE if over is None else f"{over:.2f}"]
    return cells


def _quartiles(low: float, high: float) -> str:
    return f"{low:.2f}-{high:.2f}"
