"""``adaptrt bench``: a bundle's latency over the budget, beside the dense model's."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptrt.cli.backend import backend_options
from adaptrt.cli.errors import CommandError
from adaptrt.cli.verb import PATH, Verb, json_option, keep_on_interrupt

if TYPE_CHECKING:
    from rich.table import Table

    from adaptrt.bench.rivals.result import RivalComparison
    from adaptrt.bench.timing.bundle_latency import BundleLatency

_EXAMPLES = """
adaptrt bench build/digits
adaptrt bench build/digits --batch 1 --threads 2 --points 20 --no-plot
adaptrt bench build/digits --backend openvino --threads 2
adaptrt bench build/digits --json --output latency.json
adaptrt bench build/digits --rivals --batch 1 --batch 16
adaptrt bench build/fashion --rivals --batch 1 --rival build/families/narrow96/model --rival build/families/merge/bundle
adaptrt bench build/minilm --length 128 --batch 1 --batch 16
adaptrt bench build/minilm --rivals --data build/models/minilm/samples.npz
"""

_WORK_TOLERANCE = 0.02


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("bundle", type=PATH)
@click.option(
    "--batch", "batches", type=click.IntRange(1, 65_536), multiple=True, default=(1, 64), help="Default: 1 and 64."
)
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Threads per operator.")
@click.option("--points", type=click.IntRange(2, 1000), help="Points of the curve; default: 11, beside rivals 7.")
@click.option("--rounds", type=click.IntRange(1), help="Measurements of each; default: what takes half a minute.")
@click.option("--input", "source", type=PATH, help="Inputs to run, .npy or .npz; default: the bundle's own.")
@click.option("--length", type=click.IntRange(1), help="Tokens of every text that is timed; shorter ones are left out.")
@click.option("--rivals", is_flag=True, help="Compare with static models: quality over latency, who wins where.")
@click.option(
    "--data", metavar="NAME|FILE.npz", help="For --rivals, where quality is measured; default: the bundle's, if known."
)
@click.option("--samples", type=click.IntRange(1), help="For --rivals, of the data's test split; default: 512.")
@click.option(
    "--rival",
    "further",
    type=PATH,
    multiple=True,
    help="For --rivals, a further network: the folder of a trained one or a bundle; may be repeated.",
)
@click.option("--plot", type=PATH, help="Picture, .png, .svg or .pdf; default: BUNDLE/frontier.png or rivals.png.")
@click.option("--no-plot", is_flag=True, help="Draw no picture.")
@click.option("--output", type=PATH, help="All numbers as JSON; default: BUNDLE/bench.json or rivals.json.")
@backend_options
@json_option
def bench(
    bundle: Path,
    batches: tuple[int, ...],
    threads: int,
    points: int | None,
    rounds: int | None,
    source: Path | None,
    length: int | None,
    rivals: bool,
    data: str | None,
    samples: int | None,
    further: tuple[Path, ...],
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

    With --rivals it says what else could be deployed: the dense model in float32, in int8 as quantize_dynamic makes it
    and as `adaptrt build` does, on other engines that are installed, and the bundle's own weights with the same number
    of learners for every token. --rival adds networks of the same inputs and outputs: dense ones in the same
    precisions, and those that are told how many tokens to keep (EViT, ToMe), at several numbers. The bundle runs in
    float32 and, where it was built, in int8. Quality of all of them is measured on the same samples of the data's test
    split; without data on the golden inputs, by the dense answers.
    """
    if no_plot and plot is not None:
        raise click.UsageError("got --plot and --no-plot, expected one of them; leave one out")
    from adaptrt.bench.timing.bundle_latency import measure_bundle, write_json
    from adaptrt.bench.timing.engine_choice import EngineChoice
    from adaptrt.cli.output import check_output_file, note, plain, show, show_json
    from adaptrt.cli.progress import steps_shown
    from adaptrt.runtime.backends.backend_table import DEFAULT_BACKEND
    from adaptrt.runtime.backends.selection import check_backend
    from adaptrt.runtime.bundle.bundle_file import read_bundle

    if rivals:
        if (backend, precision, plugin_library, rounds) != (DEFAULT_BACKEND, None, None, None):
            raise click.UsageError(
                "got --rivals with an engine or --rounds, expected neither: it runs all that are here"
            )
        _compare(
            *(bundle, batches, threads, points, source, length, data, samples, further, plot, no_plot, output),
            as_json=as_json,
        )
        return
    if data is not None or samples is not None or further:
        raise click.UsageError("got --data, --samples or --rival without --rivals, expected them together")
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
            points=points or 11,
            rounds=rounds,
            inputs=inputs,
            length=length,
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


def _compare(
    bundle: Path,
    batches: tuple[int, ...],
    threads: int,
    points: int | None,
    source: Path | None,
    length: int | None,
    data: str | None,
    samples: int | None,
    further: tuple[Path, ...],
    plot: Path | None,
    no_plot: bool,
    output: Path | None,
    *,
    as_json: bool,
) -> None:
    """Compare with static models."""
    from adaptrt.bench.reports.result_json import write_json
    from adaptrt.bench.rivals.comparison import SAMPLES, compare_rivals
    from adaptrt.bench.rivals.further_networks import named_rivals
    from adaptrt.cli.calibrate import recorded_data
    from adaptrt.cli.output import check_output_file, note, plain, show, show_json
    from adaptrt.cli.progress import steps_shown
    from adaptrt.models.data.split import load_data
    from adaptrt.runtime.bundle.bundle_file import read_bundle

    keep_on_interrupt("nothing was written, earlier results are as they were")
    rivals = named_rivals(further)
    content = read_bundle(bundle, verify_hashes=False)
    numbers, picture = output or bundle / "rivals.json", plot or bundle / "rivals.png"
    check_output_file(numbers, (".json",), inputs=[bundle / "bundle.json"])
    if not no_plot:
        check_output_file(picture, (".png", ".svg", ".pdf"))
        importlib.import_module("matplotlib")
    inputs = None
    if source is not None:
        from adaptrt.cli.input_files import read_inputs

        inputs = read_inputs([source], content.inputs)
    try:
        splits = load_data(data) if data is not None else recorded_data(bundle, content)
    except CommandError as error:
        splits = None
        note(f"note: quality is how far answers are the dense model's on the golden inputs: {error}")
    with steps_shown() as progress:
        result = compare_rivals(
            bundle,
            splits,
            batches=sorted(set(batches)),
            threads=threads,
            points=points or 7,
            samples=samples or SAMPLES,
            inputs=inputs,
            length=length,
            rivals=rivals,
            progress=progress,
        )
    write_json(result, numbers)
    if not no_plot:
        from adaptrt.bench.reports.rivals_plot import plot_rivals

        plot_rivals(result, picture)
    if as_json:
        written = {"json": str(numbers), "plot": None if no_plot else str(picture)}
        show_json({"bundle": str(bundle), "written": written, **plain(result)})
        return
    show(rivals_table(result), *result.verdicts.values())
    show(f"Numbers in {numbers}" + ("" if no_plot else f", picture in {picture}"))


def rivals_table(result: RivalComparison) -> Table:
    """Adaptive points, cheapest first, then static models, fastest first."""
    from adaptrt.cli import tables

    per_batch = [heading for batch in result.batches for heading in (f"batch {batch}, ms", "x dense")]
    made = tables.table(
        f"{result.name} beside static models, {result.threads} thread{'s' * (result.threads > 1)}",
        *("<model", "work", result.metric, *per_batch),
    )
    first = result.batches[0]
    static = sorted((e for e in result.entries if not e.adaptive), key=lambda e: e.latency_ms[first].median)
    previous = None
    for entry in [*(e for e in result.entries if e.adaptive), *static]:
        group = entry.name if entry.adaptive else ""
        if previous is not None and group != previous:
            made.add_section()
        previous = group
        work = tables.NONE if entry.work is None else tables.percent(entry.work)
        cells = [entry.name, work, tables.quality(entry.quality, result.metric)]
        for batch in result.batches:
            cells += [f"{entry.latency_ms[batch].median:.3f}", f"{entry.over_dense[batch].median:.2f}"]
        made.add_row(*cells)
    made.caption = (
        f"{result.metric} on {result.samples:,} samples of {result.data}; work: share of the dense model's MACs"
    )
    made.caption += "".join(f"; left out: {reason}" for reason in result.left_out)
    made.caption_justify = "left"
    return made


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
