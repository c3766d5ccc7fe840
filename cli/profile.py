"""``adaptrt profile``: what a bundle takes on this device, for latency budgets."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptrt.cli.backend import backend_options, open_model
from adaptrt.cli.verb import PATH, Verb, json_option, keep_on_interrupt

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from adaptrt.runtime.bundle.bundle_file import Bundle
    from adaptrt.runtime.device.profile import Profile

_EXAMPLES = """
adaptrt profile build/digits
adaptrt profile build/digits --batch 8 --threads 2 --seconds 10
adaptrt profile build/digits --backend openvino
adaptrt profile build/digits --json
adaptrt profile build/digits --plot latency.png
adaptrt profile build/digits --input mine.npy
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("bundle", type=PATH)
@click.option("--batch", type=click.IntRange(1, 65_536), default=1, show_default=True, help="Samples of a call.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per operator; default: one per core granted.")
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=3.0, show_default=True, help="To measure for.")
@click.option("--input", "source", type=PATH, help="Inputs to run, .npy or .npz; default: the bundle's own, or noise.")
@click.option("--plot", type=PATH, help="Draw it into this .png, .svg or .pdf file.")
@backend_options
@json_option
def profile(
    bundle: Path,
    batch: int,
    threads: int | None,
    seconds: float,
    source: Path | None,
    plot: Path | None,
    backend: str,
    precision: str | None,
    plugin_library: Path | None,
    as_json: bool,
) -> None:
    """Measure latency over the budget, for latency budgets.

    The profile holds for this bundle, engine and its version, device, number of threads and batch size; a
    latency budget uses it from then on, in every process. Without it the first call under such a budget
    measures one. Steady calls and the first ones after a pause are measured apart. Profiles lie in the
    platform's folder for caches, or in $ADAPTRT_CACHE.
    """
    from adaptrt.cli.output import check_output_file, plain, show, show_json
    from adaptrt.cli.progress import steps_shown
    from adaptrt.runtime.device.profile_cache import ProfileCache

    if seconds != seconds:
        raise click.UsageError("got --seconds nan, expected 0.1 to 3600; give a number")
    keep_on_interrupt("an earlier profile is as it was")
    if plot is not None:
        check_output_file(plot, (".png", ".svg", ".pdf"), inputs=[bundle / "bundle.json"])
        importlib.import_module("matplotlib")  # missing, it is better missed before the measurement
    model = open_model(bundle, threads, backend, precision, plugin_library)
    inputs = find_inputs(bundle, model.bundle, batch, source)
    cache = ProfileCache()
    with steps_shown() as progress:
        measured = model.profile(
            inputs, seconds=seconds, progress=lambda share: progress("profiling", share), cache=cache
        )
    kept, _ = cache.load(measured.key)
    if plot is not None:
        from adaptrt.bench.reports.profile_plot import plot_profile

        plot_profile(measured, plot)
    file = None if kept is None else str(cache.path(measured.key))
    if as_json:
        show_json({"bundle": str(bundle), "file": file, **plain(measured)})
        return
    show(profile_table(measured))
    show(
        f"{measured.key.device}; {measured.key.backend}; the first calls after a pause take "
        + ", ".join(f"{factor:.2f}" for factor in measured.cold)
        + " times as long; "
        + ("not kept" if file is None else f"kept in {file}")
    )
    if plot is not None:
        show(f"Picture in {plot}")


def find_inputs(folder: Path, bundle: Bundle, batch: int, source: Path | None) -> dict[str, np.ndarray[Any, Any]]:
    """A batch of the samples that were given, of the bundle's own, or of noise, repeated where there are too few.

    Raises:
        CommandError: A file cannot be read.
        InputError: It is not what the bundle declares, or has no samples.
        ExportError: ``golden.npz`` is damaged.
    """
    import numpy as np

    from adaptrt.bench.timing.samples import draw_inputs
    from adaptrt.cli.batches import check_samples
    from adaptrt.cli.input_files import read_inputs
    from adaptrt.export.parity.reference import GOLDEN_FILE, read_golden

    if source is not None:
        arrays = read_inputs([source], bundle.inputs)
        check_samples(bundle, arrays, some=True)
    elif (folder / GOLDEN_FILE).is_file():
        arrays = {spec.name: read_golden(folder / GOLDEN_FILE)[0].inputs[spec.name] for spec in bundle.inputs}
    else:
        arrays = draw_inputs(bundle, batch)
    per_sample = {spec.name for spec in bundle.inputs if spec.shape and isinstance(spec.shape[0], str)}
    return {
        name: array[np.arange(batch) % len(array)] if name in per_sample else array for name, array in arrays.items()
    }


def profile_table(profile: Profile) -> Table:
    """The profile for a terminal."""
    from adaptrt.cli import tables

    count = profile.key.threads
    threads = "the engine's number of threads" if count is None else f"{count} thread{'s' * (count > 1)}"
    title = f"Batch {profile.key.batch}, {threads}, measured for {profile.seconds:.1f} s"
    rows = tables.table(title, "budget", "of dense MACs", "quality", "ms, median", "ms, 95%", "calls")
    for point in profile.points:
        quality = tables.NONE if point.quality is None else f"{point.quality:.4f}"
        rows.add_row(
            tables.percent(point.fraction),
            tables.percent(point.done),
            quality,
            f"{point.median_ms:.3f}",
            f"{point.p95_ms:.3f}",
            str(point.runs),
        )
    return rows
