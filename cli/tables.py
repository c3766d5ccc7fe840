"""Tables that several verbs print, and how numbers are written in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from adaptrt.export.parity.comparison import ParityRow
    from adaptrt.export.parity.verify_backend import BackendReport
    from adaptrt.export.targets.build import BuildReport
    from adaptrt.runtime.bundle.bundle_file import Bundle, CurvePoint, Knob, KnobValue

FRONTIER = "*"
"""Marks a point that no other beats on the calibration data; held-out numbers beside it may say otherwise."""

FRONTIER_CAPTION = f"{FRONTIER} on the frontier of the calibration data"

NONE = "-"
"""Stands for a number that was not measured."""

_KNOBS = {
    "price": "price",
    "token_price": "token_price",
    "capacity": "capacity",
    "keep": "keep",
    "exit_thresholds": "exits",
}
"""The knobs in the order in which they are written, each with its name in a table; others come after these."""


def table(title: str, *columns: str) -> Table:
    """An empty table; a column whose heading starts with ``<`` is aligned left, with ``<<`` it may wrap as well."""
    empty = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    for heading in columns:
        left, wraps = heading.startswith("<"), heading.startswith("<<")
        empty.add_column(heading.lstrip("<"), justify="left" if left else "right", no_wrap=not wraps)
    return empty


def class_name(bundle: Bundle, label: int) -> str | None:
    """What a class is called; None: nobody says."""
    return bundle.class_names[label] if label < len(bundle.class_names) else None


def percent(share: float | None) -> str:
    """A share of one, such as 0.4231 as ``42.3%``."""
    return NONE if share is None else f"{share:.1%}"


def count(number: float) -> str:
    """A large number with its prefix, such as 90,400,000 as ``90.4M``."""
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{prefix}"
    return f"{number:.0f}"


def size(number: int) -> str:
    """Bytes with their prefix, such as ``5.3 MB``."""
    return f"{number} B" if number < 1000 else f"{count(number)[:-1]} {count(number)[-1]}B"


def quality(value: float | None, metric: str | None) -> str:
    """A measured quality: an accuracy in percent, another metric as a number."""
    if value is None:
        return NONE
    return f"{value:.2%}" if metric == "accuracy" else f"{value:.4g}"


def knob_text(values: Mapping[str, KnobValue]) -> str:
    """Knob values on one line, such as ``price 0.0312, exits 0.93/0.5``; equal numbers of one knob are written once."""
    names = [name for name in _KNOBS if name in values] + [name for name in values if name not in _KNOBS]
    return ", ".join(f"{_KNOBS.get(name, name)} {_numbers(values[name])}" for name in names) or NONE


def changed_knobs(values: Mapping[str, KnobValue], knobs: Sequence[Knob]) -> dict[str, KnobValue]:
    """Those knobs that do not stand at their defaults, and the price."""
    defaults = {knob.name: knob.default for knob in knobs}
    return {name: value for name, value in values.items() if name == "price" or not _all_are(value, defaults[name])}


def _numbers(value: KnobValue) -> str:
    numbers = value if isinstance(value, list) else [value]
    written = [f"{number:.0f}" if float(number).is_integer() else f"{number:.4g}" for number in numbers]
    return written[0] if len(set(written)) == 1 else "/".join(written)


def _all_are(value: KnobValue, number: float) -> bool:
    return all(entry == number for entry in (value if isinstance(value, list) else [value]))


def backend_table(report: BackendReport) -> Table:
    """Torch against an engine, a row per golden run."""
    compared = "samples away from ties" if report.exact else "samples away from ties, for information"
    rows = table(f"{report.backend} beside torch", "<<knobs", "samples", compared, "max difference", "agreement")
    for row in report.rows:
        knobs: dict[str, KnobValue] = {n: v[0] if len(v) == 1 else v for n, v in row.knobs.items()}
        shown = {name: value for name, value in knobs.items() if not _below_zero(value)}
        difference = f"{row.difference:.1e}" if row.clear else NONE
        text = "full budget: the dense model" if row.full else knob_text(shown) if shown else "everything runs"
        rows.add_row(text, str(row.samples), str(row.clear), difference, percent(row.agreeing))
    return rows


def parity_table(rows: Sequence[ParityRow]) -> Table:
    """Torch against the exported graph, a row per setting of the knobs and batch size.

    Of several knobs those are shown that were not the same in all rows, and are not off (below 0).
    """
    confidences = any(row.max_confidence_error for row in rows)
    several = any(row.knobs.keys() - {"price"} for row in rows)
    differences = table(
        "Parity with torch",
        *("<<knobs" if several else "price", "batch", "samples", "decisions", "flips", "ties", "max logit error"),
        *(["max confidence error"] if confidences else []),
        *("max MACs error", "agreement"),
    )
    for row in rows:
        shown = {
            name: value
            for name, value in row.knobs.items()
            if not _below_zero(value) and any(other.knobs.get(name) != value for other in rows)
        }
        differences.add_row(
            (knob_text(shown) if shown else "everything runs") if several else f"{row.price:.4f}",
            *(str(row.batch), str(row.samples), str(row.decisions), str(row.flips), str(row.ties)),
            f"{row.max_output_error:.1e}",
            *([f"{row.max_confidence_error:.1e}"] if confidences else []),
            *(f"{row.max_macs_error:.1e}", percent(row.agreeing)),
        )
    return differences


def _below_zero(value: KnobValue) -> bool:
    return all(number < 0 for number in (value if isinstance(value, list) else [value]))


def curve_table(
    curve: Sequence[CurvePoint], metric: str | None, dense_macs: int, *, frontier_only: bool = False
) -> Table:
    """Calibrated operating points: numbers of held-out data, the mark of calibration data.

    Those of one setting together, the cheapest first.

    Args:
        curve: The points.
        metric: What their quality is.
        dense_macs: Of one sample.
        frontier_only: Of a curve of several settings, leave out what is not on the frontier.
    """
    if any(point.setting or point.hard for point in curve):
        marked = [point for point in curve if point.frontier] if frontier_only else curve
        points = _settings_table(marked, metric, dense_macs)
        if len(marked) < len(curve):
            points.caption = f"{points.caption}; adaptrt inspect lists all {len(curve)} points"
        return points
    knobs = list(dict.fromkeys(name for point in curve for name in point.knobs))
    points = table(
        "Curve, measured on held-out data", *knobs, "of dense MACs", "MACs", metric or "quality", "<frontier"
    )
    for point in sorted(curve, key=lambda point: point.macs_fraction):
        points.add_row(*(_cell(point.knobs.get(name)) for name in knobs), *_measured(point, metric, dense_macs))
    points.caption, points.caption_justify = FRONTIER_CAPTION, "left"
    return points


def _settings_table(curve: Sequence[CurvePoint], metric: str | None, dense_macs: int) -> Table:
    chains = table(
        "Curve, measured on held-out data",
        *("<setting", "<budgets", "of dense MACs", "MACs", metric or "quality", "<frontier", "<<knobs"),
    )
    order = list(dict.fromkeys(_group(point) for point in curve))
    ordered = sorted(curve, key=lambda point: (order.index(_group(point)), point.macs_fraction))
    for (hard, _), points in groupby(ordered, key=_group):
        for point in points:
            chains.add_row(
                *(point.setting or NONE, "hard" if hard else "soft"),
                *_measured(point, metric, dense_macs),
                knob_text(point.knobs),
            )
        chains.add_section()
    chains.caption, chains.caption_justify = f"{FRONTIER_CAPTION}; hard: the same work for every input", "left"
    return chains


def _group(point: CurvePoint) -> tuple[bool, str]:
    """Chains apart, sampled points together."""
    return point.hard, "" if point.setting.startswith("sample") else point.setting


def _cell(value: KnobValue | None) -> str:
    if value is None:
        return NONE
    return _numbers(value) if isinstance(value, list) else f"{value:.4f}"


def _measured(point: CurvePoint, metric: str | None, dense_macs: int) -> list[str]:
    return [
        percent(point.macs_fraction),
        count(point.macs_fraction * dense_macs),
        quality(point.quality, metric),
        FRONTIER if point.frontier else "",
    ]


def engines_table(report: BuildReport) -> Table:
    """What was built: a file per stage."""
    engines = report.engines
    version = f" {engines.engine_version}" if engines.engine_version else ""
    arch = f", sm_{engines.arch.replace(' ', ' sm_')}" if engines.arch else ""
    shown = table(f"{engines.target}{version}, {engines.precision}{arch}", "<stage", "<prepared", "<engine", "size")
    for number, stage in enumerate(engines.stages):
        file = stage.engine or stage.prepared
        bytes_there = (report.folder / file.file).stat().st_size
        shown.add_row(str(number), stage.prepared.file, stage.engine.file if stage.engine else NONE, size(bytes_there))
    if engines.dense is not None:
        bytes_there = (report.folder / engines.dense.prepared.file).stat().st_size
        shown.add_row("dense model, full budgets", engines.dense.prepared.file, NONE, size(bytes_there))
    return shown


def engines_quality(report: BuildReport) -> str:
    """How far what was built is from the bundle on its golden inputs."""
    engines = report.engines
    text = (
        f"golden predictions: {percent(engines.quality)} as in torch, the bundle {percent(engines.reference_quality)}"
    )
    if engines.flip_rate is not None:
        text += f"; decisions otherwise: {engines.flip_rate:.3%}"
    if engines.largest_difference is not None:
        text += f"; logits differ by up to {engines.largest_difference:.2g}"
    if engines.dense_quality is not None:
        text += f"; under full budgets {percent(engines.dense_quality)} as in the dense model"
    if report.verified is not None:
        from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND
        from adaptrt.runtime.bundle.target_table import TARGETS

        engine, portable = BACKENDS[TARGETS[engines.target].backend].title, BACKENDS[DEFAULT_BACKEND].title
        text += f"; {engine}'s from {portable}'s by {report.verified:.1e} away from ties"
    return text
