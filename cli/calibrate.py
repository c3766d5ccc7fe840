"""``adaptrt calibrate``: measure a bundle's curve anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptrt.cli.backend import backend_options
from adaptrt.cli.errors import CommandError
from adaptrt.cli.verb import PATH, Verb, json_option, keep_on_interrupt

if TYPE_CHECKING:
    from adaptrt.export.calibration.worker_process import EngineOptions
    from adaptrt.models.data.split import DataSplits
    from adaptrt.runtime.bundle.bundle_file import Bundle

_EXAMPLES = """
adaptrt calibrate build/digits --data digits
adaptrt calibrate build/digits --data mine.npz --points 40
adaptrt calibrate build/fashion --points 13 --evaluations 200
adaptrt calibrate build/digits --precision int8
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("bundle", type=PATH)
@click.option("--data", metavar="NAME|FILE.npz", help="Data set; default: the one the bundle was calibrated with.")
@click.option(
    "--points",
    type=click.IntRange(2, 10_000),
    default=25,
    show_default=True,
    help="Points of the curve; of each chain, where there are several.",
)
@click.option(
    "--evaluations",
    type=click.IntRange(1, 10_000),
    default=120,
    show_default=True,
    help="Passes over the calibration data at most, where there is more to combine than one price.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes that run the data, each with the model in memory; default: one per core, 8 at most.",
)
@backend_options
@json_option
def calibrate(
    bundle: Path,
    data: str | None,
    points: int,
    evaluations: int,
    workers: int | None,
    backend: str,
    precision: str | None,
    plugin_library: Path | None,
    as_json: bool,
) -> None:
    """Sweep knobs over data and store the curve in the bundle.

    An .npz file holds calibration_inputs, calibration_labels, test_inputs and test_labels: knobs are
    chosen on the first two, the quality that is reported is measured on the others. For a model of several
    inputs it has an array for each instead of ..._inputs: calibration_tokens, calibration_mask.

    With several families (ACMs, token selection, exits) or hard budgets the curve has several chains:
    one price for everything, each family alone, and the same work for every input. The passes that
    they leave are spent on combinations of prices. Interrupted, run it again: finished passes are kept.

    With --backend or --precision the points of the bundle's curve are measured again on what `adaptrt build` made for
    it, where decisions fall otherwise here and there, and kept beside it: a budget then means the same share of the
    dense work there.
    """
    if plugin_library is not None:
        raise click.UsageError("got --plugin-library, expected none: engines of plugins are not calibrated here")
    from adaptrt.cli import output
    from adaptrt.runtime.bundle.bundle_file import read_bundle

    keep_on_interrupt("the bundle is as it was")
    content = read_bundle(bundle)
    from adaptrt.cli.progress import steps_shown
    from adaptrt.export.calibration.calibrate import calibrate_bundle, has_combinations
    from adaptrt.export.calibration.worker_process import PORTABLE, EngineOptions
    from adaptrt.models.data.split import load_data

    splits = recorded_data(bundle, content) if data is None else load_data(data)
    if (backend, precision) != tuple(PORTABLE):
        _calibrate_engine(bundle, content, splits, EngineOptions(backend, precision), workers, as_json=as_json)
        return
    if has_combinations(content):
        keep_on_interrupt("the bundle is as it was, finished passes are kept; run it again to go on")
    with steps_shown() as progress:
        curve = calibrate_bundle(
            bundle, splits, points=points, evaluations=evaluations, workers=workers, progress=progress
        )
    if as_json:
        passes = read_bundle(bundle, verify_hashes=False).data.get("evaluations", len(curve))
        report = {"bundle": str(bundle), "data": splits.name if data is None else data, "evaluations": passes}
        output.show_json({**report, "curve": curve})
        return
    from adaptrt.cli import tables

    output.show(tables.curve_table(curve, "accuracy", content.dense.macs), f"Curve of {len(curve)} points in {bundle}")


def _calibrate_engine(
    bundle: Path, content: Bundle, data: DataSplits, engine: EngineOptions, workers: int | None, *, as_json: bool
) -> None:
    """Measure the curve on an engine."""
    from adaptrt.cli import output, tables
    from adaptrt.cli.progress import steps_shown
    from adaptrt.export.calibration.engine_curve import calibrate_engine, calibrated_folder

    place = calibrated_folder(bundle, engine)
    with steps_shown() as progress:
        curve = calibrate_engine(bundle, data, engine, workers=workers, progress=progress)
    if as_json:
        output.show_json({"bundle": str(bundle), "engine": str(place), "data": data.name, "curve": curve})
        return
    metric = content.quality_metric or "quality"
    output.show(tables.curve_table(curve, metric, content.dense.macs), f"Curve of {len(curve)} points in {place}")


def recorded_data(folder: Path, bundle: Bundle) -> DataSplits:
    """The data set that a bundle says it was calibrated with.

    Raises:
        CommandError: It names none, or data of a file, of which a bundle keeps no more than the name.
    """
    from adaptrt.export.calibration.calibrate import describe
    from adaptrt.models.data.split import DATA_SETS

    name = bundle.data.get("name")
    if not isinstance(name, str):
        raise CommandError(f"{folder} does not say what it was calibrated with, expected --data; give a data set")
    if name in DATA_SETS:
        splits = DATA_SETS[name]()
        if all(bundle.data.get(key, value) == value for key, value in describe(splits).items()):
            return splits  # otherwise it is a file that is called like a data set
    raise CommandError(
        f"{folder} was calibrated with file data {name!r} and does not know where that file is, expected --data; "
        "pass --data FILE.npz"
    )
