"""``adaptrt export``: from a model to a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from adaptrt.cli.demo import show_demo
from adaptrt.cli.errors import CommandError
from adaptrt.cli.verb import PATH, Verb, json_option, keep_on_interrupt

_EXAMPLES = """
adaptrt export digits
adaptrt export models/weights/digits --output build/digits --points 40
adaptrt export my_model --data mine.npz
adaptrt export my_module:make --data mine.npz --output build/mine
adaptrt export fashion --evaluations 200 --workers 4
adaptrt export my_model --no-calibrate --debug
adaptrt export digits --demo build/demo
adaptrt export build/models/fashion --output build/fashion --points 9 --evaluations 40
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("model")
@click.option("--output", type=PATH, help="Folder of the bundle; default: build/NAME.")
@click.option("--data", metavar="NAME|FILE.npz", help="Data to calibrate with; default: what it was trained on.")
@click.option("--no-calibrate", is_flag=True, help="Leave the curve empty: no budgets until `adaptrt calibrate`.")
@click.option("--points", type=click.IntRange(2, 10_000), default=25, show_default=True, help="Points of each chain.")
@click.option("--evaluations", type=click.IntRange(1), help="Most passes over calibration data; default: 120.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes that run calibration data, each with the model in memory; default: one per core, 8 at most.",
)
@click.option("--hard-budgets", is_flag=True, help="Let budgets cost every input the same (--hard of `adaptrt run`).")
@click.option("--demo", type=PATH, metavar="FOLDER", help="Also write a page that shows the bundle, as `adaptrt demo`.")
@click.option("--debug", is_flag=True, help="Add the output `learners`: learners run per gate and token.")
@json_option
def export(
    model: str,
    output: Path | None,
    data: str | None,
    no_calibrate: bool,
    points: int,
    evaluations: int | None,
    workers: int | None,
    hard_budgets: bool,
    demo: Path | None,
    debug: bool,
    as_json: bool,
) -> None:
    """Export MODEL (ready, in a folder, or your own) as a bundle.

    Traces it to ONNX, proves parity with torch, calibrates, and only then puts the bundle in its place.
    A model with one price is calibrated in --points passes over the data; one with several knobs has several
    chains of points, and combinations of its knobs are tried with the evaluations that are left.

    A network of your own is named as MODULE:NAME, of a module in the current folder or on Python's path: a class
    derived from adaptrt.models.Adaptive, or a function that returns one. docs/own_networks.md says how to write it.
    """
    if no_calibrate and data is not None:
        raise click.UsageError("got --data and --no-calibrate, expected one of them; leave one out")
    if no_calibrate and evaluations is not None:
        raise click.UsageError("got --evaluations and --no-calibrate, expected one of them; leave one out")
    if no_calibrate and workers is not None:
        raise click.UsageError("got --workers and --no-calibrate, expected one of them; leave one out")
    from adaptrt.export.demo.folder import check_demo_place, write_demo
    from adaptrt.export.demo.page import page_folder
    from adaptrt.export.exporter import export_bundle
    from adaptrt.export.own.user_module import is_reference, load_user_network
    from adaptrt.export.staging import check_replaceable
    from adaptrt.models.data.split import load_data
    from adaptrt.models.registry import load_model

    keep_on_interrupt("no bundle was written, one that was there is as it was")
    from_module = is_reference(model) and not Path(model).exists()
    source = load_user_network(model) if from_module else load_model(model)
    folder = output or Path("build") / source.name
    check_replaceable(folder)
    if demo is not None:
        check_demo_place(demo, page_folder(), folder)
    splits = None
    if not no_calibrate and not (from_module and data is None):
        name = data or source.data_name
        if name is None:
            raise CommandError(f"model {model!r} names no data set, expected --data or --no-calibrate; give one")
        splits = load_data(name)
    from adaptrt.cli.output import show, show_json
    from adaptrt.cli.progress import steps_shown

    with steps_shown() as progress:
        report = export_bundle(
            source,
            folder,
            calibration=splits,
            debug=debug,
            hard_budgets=hard_budgets,
            points=points,
            evaluations=evaluations,
            workers=workers,
            progress=progress,
        )
    written = None if demo is None else write_demo(folder, demo)
    if as_json:
        parity = {"passed": report.parity.passed, "rows": report.parity.rows}
        shown = {"bundle": str(folder), "parity": parity, "curve": report.curve}
        show_json(shown if written is None else {**shown, "demo": written})
        return
    from adaptrt.cli import tables

    show(tables.parity_table(report.parity.rows))
    if report.curve:
        show(tables.curve_table(report.curve, report.quality_metric, source.model.dense_macs(), frontier_only=True))
    if from_module and not report.curve:
        show("It is not calibrated and knows no budgets: give --data, labelled samples in an .npz file")
    show(f"Bundle in {folder}")
    if written is not None:
        show_demo(written)
