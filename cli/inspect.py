"""``adaptrt inspect``: what a bundle holds, or how an adaptation goes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptrt.cli.verb import PATH, Verb, json_option

if TYPE_CHECKING:
    from rich.table import Table

    from adaptrt.runtime.bundle.bundle_file import Bundle
    from adaptrt.runtime.bundle.engine_files import EngineSet

_EXAMPLES = """
adaptrt inspect build/digits
adaptrt inspect build/digits --json
adaptrt inspect build/adapt/minilm --plot losses.png
adaptrt inspect build/models/minilm --json
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("folder", type=PATH)
@click.option("--plot", type=PATH, help="Picture of an adaptation's losses, .png, .svg or .pdf.")
@json_option
def inspect(folder: Path, plot: Path | None, as_json: bool) -> None:
    """Show what a bundle holds, or the losses of an adaptation.

    Checks the bundle and the hash of every file first; needs no inference engine. Engines that
    `adaptrt build` made of it are listed, with what stands against using them.

    FOLDER may also be the network that `adaptrt adapt` wrote, or its --work folder, while it is at work, too:
    the losses of its phases are shown, each the mean over about a hundred steps, and drawn with --plot.
    """
    from adaptrt.cli import output
    from adaptrt.runtime.bundle.bundle_file import BUNDLE_FILE, read_bundle

    if not (folder / BUNDLE_FILE).exists():
        from adaptrt.cli.losses import show_adaptation
        from adaptrt.models.training.loss_log import is_adaptation

        if is_adaptation(folder):
            show_adaptation(folder, plot, as_json=as_json)
            return
    bundle = folder
    content = read_bundle(bundle)
    if plot is not None:
        raise click.UsageError("got --plot and a bundle, expected an adaptation's folder; adaptrt bench draws bundles")
    sizes = _sizes(bundle, content)
    engines = _engines(bundle, content)
    if as_json:
        described = {name: output.plain(engine_set) for name, (engine_set, _) in engines.items()}
        unusable = {name: error for name, (_, error) in engines.items() if error is not None}
        output.show_json(
            {
                "folder": str(bundle),
                **output.plain(content),
                "bytes": sizes,
                "engines": described,
                "unusable_engines": unusable,
            }
        )
        return
    from adaptrt.cli import tables

    output.show(f"{content.name}, format {content.format_version}, made by {content.producer}")
    output.show(_tensors(content), _files(content, sizes), _facts(content))
    if engines:
        output.show(_engines_table(engines))
    if content.curve:
        output.show(tables.curve_table(content.curve, content.quality_metric, content.dense.macs))
    else:
        output.show("No curve: only the full budget can be obeyed; run adaptrt calibrate.")


def _sizes(folder: Path, bundle: Bundle) -> dict[str, int]:
    """Bytes of every file that the bundle names and that is there."""
    names = [stage.file for stage in bundle.stages]
    names += [data.file for stage in bundle.stages for data in stage.external_data]
    if bundle.dense.file is not None:
        names += [bundle.dense.file, *(data.file for data in bundle.dense.external_data)]
    return {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}


def _engines(folder: Path, bundle: Bundle) -> dict[str, tuple[EngineSet | None, str | None]]:
    """What was built, by folder: its content, and what is wrong with it."""
    from adaptrt.runtime.bundle.engine_files import check_source, engine_folder, read_engines
    from adaptrt.runtime.bundle.target_table import TARGETS
    from adaptrt.runtime.errors import BundleError

    engines: dict[str, tuple[EngineSet | None, str | None]] = {}
    for target in TARGETS.values():
        for precision in target.precisions:
            place = engine_folder(folder, target.name, precision)
            if not place.exists():
                continue
            engine_set = None
            try:
                engine_set = read_engines(place)
                check_source(engine_set, bundle, place)
            except BundleError as error:
                engines[place.name] = engine_set, str(error)
            else:
                engines[place.name] = engine_set, None
    return engines


def _engines_table(engines: dict[str, tuple[EngineSet | None, str | None]]) -> Table:
    from adaptrt.cli import tables

    rows = tables.table(
        "Engines", "<target", "<engine", "<for", "<plugins", "quality", "decisions flipped", "<<remarks"
    )
    for name, (engine_set, error) in engines.items():
        if engine_set is None:
            rows.add_row(name, *[tables.NONE] * 5, error)
            continue
        quality = tables.NONE if engine_set.quality is None else tables.percent(engine_set.quality)
        flips = tables.NONE if engine_set.flip_rate is None else f"{engine_set.flip_rate:.2%}"
        built = engine_set.engine_version if engine_set.stages[0].engine is not None else "prepared only"
        answered = "" if engine_set.dense is None else "the dense model answers full budgets"
        rows.add_row(name, built, engine_set.arch or "any", engine_set.plugins, quality, flips, error or answered)
    return rows


def _tensors(bundle: Bundle) -> Table:
    from adaptrt.cli import tables
    from adaptrt.runtime.bundle.schema import THRESHOLDS_KNOB

    rows = tables.table("Tensors", "<kind", "<name", "<dtype", "<shape", "<<remarks")
    for kind, specs in (("input", bundle.inputs), ("output", bundle.outputs)):
        for spec in specs:
            p, remark = spec.preprocessing, ""
            if p is not None:
                colours = "grey" if p.channels == 1 else "RGB"
                remark = f"{colours} {p.width} x {p.height}, (pixel * {p.scale:.6g} - {p.mean}) / {p.std}"
                remark += f", transparency over {p.background}" if p.background != [0] else ""
                remark += ", blue first" if p.order == "bgr" else ""
                if p.size or p.resize != "stretch":
                    remark += f", cut out of {p.resize} {'x'.join(map(str, p.size[::-1]))}".rstrip()
            if spec.minimum is not None:
                remark = f"{spec.minimum} to {spec.maximum}"
            rows.add_row(kind, spec.name, spec.dtype, _shape(spec.shape), remark)
    for name, axis in bundle.axes.items():
        most = "no limit" if axis.longest is None else str(axis.longest)
        rows.add_row("axis", name, "", "", f"{axis.shortest} to {most}")
    for knob in bundle.knobs:
        remark = f"{knob.minimum:g} to {knob.maximum:g}, default {knob.default:g}"
        if knob.name == THRESHOLDS_KNOB:
            remark = "any number; default infinity: none leaves early (of the host, in no graph)"
        rows.add_row("knob", knob.name, knob.dtype, _shape(knob.shape), remark)
    for number, stage in enumerate(bundle.stages):
        for carry in stage.carry:
            name = f"{carry.name} <- {carry.source}"
            rows.add_row("carried", name, carry.dtype, _shape(carry.shape), f"stage {number - 1} to {number}")
    return rows


def _shape(shape: list[int | str] | list[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _files(bundle: Bundle, sizes: dict[str, int]) -> Table:
    from adaptrt.cli import tables

    rows = tables.table("Files", "<file", "<what", "size", "<sha256")
    for number, stage in enumerate(bundle.stages):
        what = "the network" if len(bundle.stages) == 1 else f"stage {number}"
        if stage.exit is not None:
            what += f", exit {stage.exit}"
        rows.add_row(stage.file, what, tables.size(sizes[stage.file]), stage.sha256[:12])
        for data in stage.external_data:
            rows.add_row(data.file, "weights", tables.size(sizes[data.file]), data.sha256[:12])
    dense = bundle.dense
    if dense.file is not None and dense.sha256 is not None:
        there = tables.size(sizes[dense.file]) if dense.file in sizes else "not there"
        rows.add_row(dense.file, "dense model, for comparison", there, dense.sha256[:12])
    return rows


def _facts(bundle: Bundle) -> Table:
    from adaptrt.cli import tables
    from adaptrt.runtime.bundle.schema import SNAPPING_SETTING

    rows = tables.table("Facts", "<fact", "<value")
    rows.add_row("dense MACs per sample", f"{bundle.dense.macs:,} ({tables.count(bundle.dense.macs)})")
    rows.add_row("dense parameters", f"{bundle.dense.parameters:,}")
    rows.add_row(
        f"dense {bundle.quality_metric or 'quality'}",
        tables.quality(bundle.dense.quality, bundle.quality_metric),
    )
    if bundle.task is not None:
        rows.add_row("task", bundle.task)
    if bundle.exit_criterion is not None:
        rows.add_row("exit criterion", bundle.exit_criterion)
    kinds = [decision.kind for stage in bundle.stages for decision in stage.decisions]
    if kinds:
        gates, selections = kinds.count("learners"), kinds.count("selection")
        rows.add_row("decisions told", f"{_count(gates, 'gate')}, {_count(selections, 'token selection')}")
    for op, learners in bundle.ops.items():
        has_learners = op.startswith("Conditional")
        rows.add_row(f"op adaptrt::{op}", _count(learners, "learner") if has_learners else "no learners")
    if bundle.budget_table is not None:
        soft, hard = len(bundle.budget_table.soft), len(bundle.budget_table.hard)
        rows.add_row("budget table", _count(soft, "row") + f", {_count(hard, 'row')} for hard budgets" * (hard > 0))
    for entry in bundle.files:
        rows.add_row(f"file {entry.role}", entry.file)
    if bundle.text is not None:
        rows.add_row("texts", f"into {', '.join(bundle.text.inputs.values())}, at most {bundle.text.longest} tokens")
    if bundle.audio is not None:
        kind, rate = bundle.audio.kind.replace("_", "-"), bundle.audio.sample_rate
        rows.add_row("recordings", f"into {bundle.audio.input}, {kind} of {rate} Hz")
    for key, value in bundle.data.items():
        rows.add_row(f"data {key}", str(value))
    for (setting, hard), points in Counter((point.setting, point.hard) for point in bundle.curve).items():
        if setting and not setting.startswith(SNAPPING_SETTING):
            rows.add_row(f"setting {setting}", _count(points, "point") + ", for hard budgets" * hard)
    if sampled := sum(point.setting.startswith(SNAPPING_SETTING) for point in bundle.curve):
        rows.add_row("sampled combinations", _count(sampled, "point"))
    return rows


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
