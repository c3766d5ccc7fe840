"""``adaptrt bench``: a bundle's latency over the budget, beside the dense model's."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptrt.cli.backend import backend_options
from adaptrt.cli.verb import PATH, Verb, json_option, keep_on_interrupt

if TYPE_CHECKING:
    from rich.table import Table

    from adaptrt.bench.timing.bundle_latency import BundleLatency

_EXAMPLES = """
adaptrt bench build/digits
adaptrt bench build/digits --batch 1 --threads 2 --points 20 --no-plot
adaptrt bench build/digits --backend openvino --threads 2
adaptrt bench build/digits --json --output latency.json
"""

_WORK_TOLERANCE = 0.02


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("bundle", type=PATH)
@click.option(
    "--batch", "batches", type=click.IntRange(1, 65_536), multiple=True, default=(1, 64), help="Default: 1 and 64."
)
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Threads per operator.")
@click.option("--points", type=click.IntRange(2, 1000), default=11, show_default=True, help="Points of the curve.")
@click.option("--rounds", type=click.IntRange(1), help="Measurements of each; default: what takes half a minute.")
@click.option("--input", "source", type=PATH, help="Inputs to run, .npy or .npz; default: the bundle's own.")
@click.option("--plot", type=PATH, help="Picture, .png, .svg or .pdf; default: BUNDLE/frontier.png.")
@click.option("--no-plot", is_flag=True, help="Draw no picture.")
@click.option("--output", type=PATH, help="All numbers as JSON; default: BUNDLE/bench.json.")
@backend_options
@json_option
def bench(
    bundle: Path,
    batches: tuple[int, ...],
    threads: int,
    points: int,
    rounds: int | None,
    source: Path | None,
    plot: Path | None,
    no_plot: bool,
    output: Path | None,
    backend: str,
    precision: str | None,
    plugin_library: Path | None,
    as_json: bool,
) -> None:
    """Measure latency over the budget, beside the dense model's.

    Points go from the cheapest to everything running; of a bundle with several settings they are what
    the runtime runs under such budgets. The dense model runs interleaved with them, on the same engine;
    TensorRT has no engine of it.
    """
    if no_plot and plot is not None:
        raise click.UsageError("got --plot and --no-plot, expected one of them; leave one out")
    from adaptrt.bench.timing.bundle_latency import measure_bundle, write_json
    from adaptrt.bench.timing.engine_choice import EngineChoice
    from adaptrt.cli.output import check_output_file, note, plain, show, show_json
    from adaptrt.cli.progress import steps_shown
    from adaptrt.runtime.backends.selection import check_backend
    from adaptrt.runtime.bundle.bundle_file import read_bundle

    check_backend(backend)  # here, not in the process that measures
    keep_on_interrupt("nothing was written, earlier results are as they were")
    content = read_bundle(bundle, verify_hashes=False)  # names a wrong folder before its outputs do
    numbers, picture = output or bundle / "bench.json", plot or bundle / "frontier.png"
    check_output_file(numbers, (".json",), inputs=[bundle / "bundle.json"])
    if not no_plot:
        check_output_file(picture, (".png", ".svg", ".pdf"))
        importlib.import_module("matplotlib")  # missing, it is better missed before the measurement
    inputs = None
    if source is not None:
        from adaptrt.cli.input_files import read_inputs

        inputs = read_inputs([source], content.inputs)
    with steps_shown() as progress:
        result = measure_bundle(
            bundle,
            batches=sorted(set(batches)),
            threads=threads,
            points=points,
            rounds=rounds,
            inputs=inputs,
            choice=EngineChoice(backend, precision, plugin_library),
            progress=progress,
        )
    if (difference := work_difference(result)) > _WORK_TOLERANCE:
        note(
            f"note: the inputs timed took up to {difference:.1%} of the dense work more or less than "
            "held-out data did on average; --input takes others"
        )
    write_json(result, numbers)
    if not no_plot:
        from adaptrt.bench.reports.frontier_plot import plot_frontier

        plot_frontier(result, picture)
    if as_json:
        written = {"json": str(numbers), "plot": None if no_plot else str(picture)}
        show_json({"bundle": str(bundle), "written": written, **plain(result)})
        return
    show(latency_table(result))
    show(f"Numbers in {numbers}" + ("" if no_plot else f", picture in {picture}"))


def work_difference(result: BundleLatency) -> float:
    """Largest difference between the work of the inputs that were timed and that of held-out data."""
    return max(
        (abs(timed - row.macs_fraction) for row in result.rows for timed in row.timed_macs_fraction.values()),
        default=0.0,
    )


def latency_table(result: BundleLatency) -> Table:
    """Budget, quality, work and latency, cheapest point first, the dense model last."""
    from adaptrt.cli import tables

    metric, batches = result.quality_metric, result.batches
    several = any(row.knobs.keys() - {"price"} for row in result.rows)
    per_batch = [heading for batch in batches for heading in (f"batch {batch}, ms", "x dense")]
    latencies = tables.table(
        f"{result.name}: latency over the budget, {result.engine}, {result.threads} thread{'s' * (result.threads > 1)}",
        *("budget", metric or "quality", "MACs", *per_batch, "<<knobs" if several else "price", "<frontier"),
    )
    for row in sorted(result.rows, key=lambda row: row.macs_fraction):
        cells = [tables.percent(row.macs_fraction), tables.quality(row.quality, metric)]
        cells.append(tables.count(row.macs_fraction * result.dense_macs))
        for batch in batches:
            cells.append(f"{row.latency_ms[batch].median:.3f}")
            cells.append(tables.NONE if row.ratio is None else f"{row.ratio[batch].median:.2f}")
        if several:
            cells.append(tables.knob_text(row.knobs))
        else:
            cells.append(tables.NONE if row.price is None else f"{row.price:.4f}")
        latencies.add_row(*cells, tables.FRONTIER if row.frontier else "")
    latencies.add_section()
    cells = ["dense", tables.quality(result.dense_quality, metric), tables.count(result.dense_macs)]
    for batch in batches:
        dense = None if result.dense is None else f"{result.dense[batch].median:.3f}"
        cells += [dense or tables.NONE, "1.00" if dense else tables.NONE]
    latencies.add_row(*cells)
    latencies.caption = f"budget: share of the dense model's MACs; {tables.FRONTIER_CAPTION}"
    if several:
        latencies.caption += "; knobs not named stand at their defaults"
    latencies.caption_justify = "left"
    return latencies
