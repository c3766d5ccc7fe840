"""A target in milliseconds while the device changes: ``python -m adaptrt.bench.control``.

In simulation, where the truth is known: the share of calls over the target, how soon it is met again after a
step, and how much quality it costs against an oracle that knows the trace. With a bundle also on this machine,
while another process takes a core and gives it back.
"""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Group, RenderableType
from rich.table import Table

from adaptrt.bench.control.on_machine import MachineRun, controller_cost, measure_on_machine
from adaptrt.bench.control.plot import plot_control, plot_machine
from adaptrt.bench.control.rivals import RIVALS
from adaptrt.bench.control.simulation import (
    LAG_LIMIT,
    MISS_LIMIT,
    PERCENTILE,
    QUALITY_LIMIT,
    TARGET,
    ControlResult,
    rows_of,
)
from adaptrt.bench.control.traces import CALLS, FORGIVEN, TRACES
from adaptrt.bench.reports.console import existing_folder, json_option, show, show_progress
from adaptrt.bench.reports.pictures import check_picture
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.bench.timing.samples import batches_of, find_samples
from adaptrt.runtime.bundle.bundle_file import read_bundle

_SEEDS = 10
_COST_LIMIT_US = 20.0


def tabulate(result: ControlResult) -> Group:
    """The result for a terminal."""
    cost = f"The controller's own cost: {result.controller_us:.1f} us per call (limit {_COST_LIMIT_US:.0f})"
    tables: list[RenderableType] = [_tabulate_simulation(result), cost]
    if result.on_machine is not None:
        tables.append(_tabulate_machine(result.on_machine))
    return Group(*tables)


def _tabulate_machine(run: MachineRun) -> Table:
    threads = f"{run.threads} thread" + "s" * (run.threads > 1)
    table = Table(title=f"{run.bundle} on this machine, {threads}, {run.target_ms:.2f} ms for 95% of the calls")
    for heading in ("who chooses", "a core taken", "calls", "95% / target", "median / target", "missed", "of MACs"):
        table.add_column(heading, justify="left" if heading == "who chooses" else "right", no_wrap=True)
    for index, phase in enumerate(run.phases):
        table.add_row(
            phase.rival,
            "yes" if phase.contended else "no",
            str(phase.calls),
            f"{phase.p95_over_target:.2f}",
            f"{phase.median_over_target:.2f}",
            f"{phase.missed:.1%}",
            f"{phase.macs_fraction:.1%}",
            end_section=index + 1 < len(run.phases) and run.phases[index + 1].rival != phase.rival,
        )
    table.add_row("limit", "", "", f"{run.limit:.2f}", "", "", "")
    return table


def _tabulate_simulation(result: ControlResult) -> Table:
    table = Table(
        title=f"{result.target_ms:g} ms for {result.percentile:.0%} of the calls; {result.seeds} draws of each trace"
    )
    for heading in ("trace", "who chooses", "missed", "worst", "of all calls", "settled after", "quality", "- oracle"):
        table.add_column(heading, justify="left" if heading in ("trace", "who chooses") else "right", no_wrap=True)
    for row in result.rows:
        settled = {None: "", -1: f"> {3 * FORGIVEN} calls"}.get(row.settled_after, f"{row.settled_after} calls")
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
@click.option("--bundle", type=click.Path(path_type=Path), help="Run this one on this machine, too.")
@click.option("--seconds", type=click.FloatRange(0.5), default=8.0, show_default=True, help="Of each phase there.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="Threads per operator there.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Samples of a call there.")
@click.option(
    "--machine-plot",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=existing_folder,
    help="Draw the run on this machine here.",
)
@json_option
def main(
    seeds: int,
    plot: Path | None,
    bundle: Path | None,
    seconds: float,
    threads: int,
    batch: int,
    machine_plot: Path | None,
    json_file: Path | None,
) -> None:
    """Simulate a latency target on devices that change; with a bundle, hold one on this machine.

    \b
    Examples:
      python -m adaptrt.bench.control
      python -m adaptrt.bench.control --bundle build/digits --machine-plot machine.png
      python -m adaptrt.bench.control --seeds 3 --json control.json --plot control.png
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    for picture in (plot, machine_plot):
        if picture is not None:
            check_picture(picture)
    if machine_plot is not None and bundle is None:
        raise click.UsageError("got --machine-plot without --bundle, expected both; leave it out")
    on_machine = None
    with show_progress() as progress:
        task = progress.add_task("simulating", total=len(TRACES) * len(RIVALS))
        rows = rows_of(seeds, lambda: progress.advance(task))
        if bundle is not None:
            content = read_bundle(bundle, verify_hashes=False)
            samples, _ = find_samples(bundle, content, None)
            tasks = {}

            def tell(what: str, share: float) -> None:
                if what not in tasks:
                    tasks[what] = progress.add_task(f"on this machine: {what}", total=1.0)
                progress.update(tasks[what], completed=share)

            inputs = {content.inputs[0].name: batches_of(samples, batch, 1)[0]}
            on_machine = measure_on_machine(bundle, inputs, seconds=seconds, threads=threads, progress=tell)
    result = ControlResult(
        benchmark="control",
        target_ms=TARGET,
        percentile=PERCENTILE,
        seeds=seeds,
        calls=CALLS,
        limits={"missed": MISS_LIMIT, "settled_after": LAG_LIMIT, "below_oracle": QUALITY_LIMIT},
        controller_us=controller_cost(),
        rows=rows,
        on_machine=on_machine,
        machine=describe_machine(),
        source=describe_source(),
    )
    show(tabulate(result), result, json_file)
    if plot is not None:
        plot_control(plot)
    if machine_plot is not None and on_machine is not None:
        plot_machine(on_machine, machine_plot)
