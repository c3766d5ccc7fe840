"""A target in milliseconds while the device changes: ``python -m adaptrt.bench.control``.

In simulation, where the truth is known: the share of calls over the target, how soon it is met again after a
step, and how much quality it costs against an oracle that knows the trace.
"""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from adaptrt.bench.console import existing_folder, json_option, run_command, show, show_progress
from adaptrt.bench.control_plot import plot_control
from adaptrt.bench.control_rivals import RIVALS
from adaptrt.bench.control_simulation import (
    LAG_LIMIT,
    MISS_LIMIT,
    PERCENTILE,
    QUALITY_LIMIT,
    TARGET,
    ControlResult,
    rows_of,
)
from adaptrt.bench.control_traces import CALLS, TRACES
from adaptrt.bench.machine import describe_machine, describe_source
from adaptrt.bench.pictures import check_picture

_SEEDS = 10


def tabulate(result: ControlResult) -> Table:
    """The result for a terminal."""
    table = Table(
        title=f"{result.target_ms:g} ms for {result.percentile:.0%} of the calls; {result.seeds} draws of each trace"
    )
    for heading in ("trace", "who chooses", "missed", "worst", "of all calls", "settled after", "quality", "- oracle"):
        table.add_column(heading, justify="left" if heading in ("trace", "who chooses") else "right", no_wrap=True)
    for row in result.rows:
        settled = {None: "", -1: "never"}.get(row.settled_after, f"{row.settled_after} calls")
        table.add_row(
            row.trace if row.rival == next(iter(RIVALS)) else "",
            row.rival,
            f"{row.missed:.1%}",
            f"{row.missed_worst:.1%}",
            f"{row.missed_all:.1%}",
            settled,
            f"{row.quality:.2f}",
            f"{-row.below_oracle:+.2f}",
            end_section=row.rival == next(reversed(RIVALS)),
        )
    limits = (f"{MISS_LIMIT:.0%}", "", f"{LAG_LIMIT} calls", "", f"{-QUALITY_LIMIT:+.2f}")
    table.add_row("limit", "controller", "", *limits)
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", type=click.IntRange(1), default=_SEEDS, show_default=True, help="Draws of each trace.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=existing_folder,
    help="Draw the first draw of each trace here: .png, .svg or .pdf.",
)
@json_option
def main(seeds: int, plot: Path | None, json_file: Path | None) -> None:
    """Simulate a latency target on devices that change.

    \b
    Examples:
      python -m adaptrt.bench.control
      python -m adaptrt.bench.control --seeds 3 --json control.json --plot control.png
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    if plot is not None:
        check_picture(plot)
    with show_progress() as progress:
        task = progress.add_task("simulating", total=len(TRACES) * len(RIVALS))
        rows = rows_of(seeds, lambda: progress.advance(task))
    result = ControlResult(
        benchmark="control",
        target_ms=TARGET,
        percentile=PERCENTILE,
        seeds=seeds,
        calls=CALLS,
        limits={"missed": MISS_LIMIT, "settled_after": LAG_LIMIT, "below_oracle": QUALITY_LIMIT},
        rows=rows,
        machine=describe_machine(),
        source=describe_source(),
    )
    show(tabulate(result), result, json_file)
    if plot is not None:
        plot_control(plot)


if __name__ == "__main__":
    run_command(main)
