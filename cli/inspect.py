"""``adaptrt inspect``: what a bundle holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptrt.cli.verb import PATH, Verb, json_option

if TYPE_CHECKING:
    from rich.table import Table

    from adaptrt.runtime.bundle import Bundle

_EXAMPLES = """
adaptrt inspect build/digits
adaptrt inspect build/digits --json
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("bundle", type=PATH)
@json_option
def inspect(bundle: Path, as_json: bool) -> None:
    """Show a bundle's inputs, outputs, knobs, files, ops and curve.

    Checks the bundle and the hash of every file first; needs no inference engine.
    """
    from adaptrt.cli import output
    from adaptrt.runtime.bundle import read_bundle

    content = read_bundle(bundle)
    sizes = _sizes(bundle, content)
    if as_json:
        output.show_json({"folder": str(bundle), **output.plain(content), "bytes": sizes})
        return
    from adaptrt.cli import tables

    output.show(f"{content.name}, format {content.format_version}, made by {content.producer}")
    output.show(_tensors(content), _files(content, sizes), _facts(content))
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


def _tensors(bundle: Bundle) -> Table:
    from adaptrt.cli import tables

    made = tables.table("Tensors", "<kind", "<name", "<dtype", "<shape", "<remarks")
    for kind, specs in (("input", bundle.inputs), ("output", bundle.outputs)):
        for spec in specs:
            p, remark = spec.preprocessing, ""
            if p is not None:
                colours = "grey" if p.channels == 1 else "RGB"
                remark = f"{colours} {p.width} x {p.height}, (pixel * {p.scale:.6g} - {p.mean}) / {p.std}"
            made.add_row(kind, spec.name, spec.dtype, _shape(spec.shape), remark)
    for knob in bundle.knobs:
        remark = f"{knob.minimum:g} to {knob.maximum:g}, default {knob.default:g}"
        made.add_row("knob", knob.name, knob.dtype, _shape(knob.shape), remark)
    return made


def _shape(shape: list[int | str] | list[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _files(bundle: Bundle, sizes: dict[str, int]) -> Table:
    from adaptrt.cli import tables

    made = tables.table("Files", "<file", "<what", "size", "<sha256")
    listed = [(stage, "stage" if stage.exit is None else f"stage, exit {stage.exit}") for stage in bundle.stages]
    for stage, what in listed:
        made.add_row(stage.file, what, tables.size(sizes[stage.file]), stage.sha256[:12])
        for data in stage.external_data:
            made.add_row(data.file, "weights", tables.size(sizes[data.file]), data.sha256[:12])
    dense = bundle.dense
    if dense.file is not None and dense.sha256 is not None:
        there = tables.size(sizes[dense.file]) if dense.file in sizes else "not there"
        made.add_row(dense.file, "dense model, for comparison", there, dense.sha256[:12])
    return made


def _facts(bundle: Bundle) -> Table:
    from adaptrt.cli import tables

    made = tables.table("Facts", "<fact", "<value")
    made.add_row("dense MACs per sample", f"{bundle.dense.macs:,} ({tables.count(bundle.dense.macs)})")
    made.add_row("dense parameters", f"{bundle.dense.parameters:,}")
    made.add_row(
        f"dense {bundle.quality_metric or 'quality'}",
        tables.quality(bundle.dense.quality, bundle.quality_metric),
    )
    for op, learners in bundle.ops.items():
        made.add_row(f"op adaptrt::{op}", f"{learners} learner{'s' * (learners > 1)}")
    for key, value in bundle.data.items():
        made.add_row(f"data {key}", str(value))
    return made
