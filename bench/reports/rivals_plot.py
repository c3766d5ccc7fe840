"""The picture of a comparison: quality over measured latency, adaptive points as lines, static models as marks."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from adaptrt.bench.reports.pictures import GREY, check_picture, new_figure, save_picture, style_axes
from adaptrt.bench.rivals.comparison import Entry, RivalComparison

# Okabe and Ito's palette: distinct for the colour-blind; markers tell the series apart as well.
_LINES = {"adaptive": ("#0072B2", "o"), "adaptive int8": ("#D55E00", "s")}
_MARKS = ("*", "X", "P", "D", "^", "v", "<", ">", "h", "p", "8", "d")
_UNIFORM = {False: ("#56B4E9", "1"), True: ("#E69F00", "2")}
_STATIC = "#444444"


def plot_rivals(result: RivalComparison, path: Path) -> None:
    """Draw a comparison as ``.png``, ``.svg`` or ``.pdf``, batch sizes side by side; error bars span the quartiles.

    Raises:
        BenchError: ``path`` ends in something else.
        ExportError: The file cannot be written; an old one is untouched.
    """
    check_picture(path)
    figure = new_figure(1.2 + 5.2 * len(result.batches), 5.4)
    figure.suptitle(f"{result.name}: adaptive and static", fontsize=13, fontweight="bold")
    for axes, batch in zip(figure.subplots(1, len(result.batches), squeeze=False)[0], result.batches, strict=True):
        _draw(axes, result, batch)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=3 if len(result.batches) > 1 else 2)
    save_picture(figure, path)


def _draw(axes: Axes, result: RivalComparison, batch: int) -> None:
    for name, (color, marker) in _LINES.items():
        _line(axes, [e for e in result.entries if e.name == name], batch, color, marker, name)
    static = [entry for entry in result.entries if not entry.adaptive]
    for in_int8, (color, marker) in _UNIFORM.items():
        some = [e for e in static if e.name.startswith("uniform") and e.name.endswith("int8") is in_int8]
        _line(axes, some, batch, color, marker, "uniform width" + " int8" * in_int8)
    others = [entry for entry in static if not entry.name.startswith("uniform")]
    for entry, marker in zip(others, _MARKS, strict=False):
        axes.plot(entry.latency_ms[batch].median, entry.quality, marker, color=_STATIC, markersize=10, label=entry.name)
    axes.set_xlim(left=0)
    axes.set_xlabel("latency (ms)")
    axes.set_ylabel(result.metric)
    axes.set_title(f"batch {batch}, {result.threads} thread{'s' * (result.threads > 1)}", fontsize=9, color=GREY)
    style_axes(axes)


def _line(axes: Axes, entries: list[Entry], batch: int, color: str, marker: str, label: str) -> None:
    if not entries:
        return
    entries = sorted(entries, key=lambda entry: entry.latency_ms[batch].median)
    spreads = [entry.latency_ms[batch] for entry in entries]
    axes.errorbar(
        [spread.median for spread in spreads],
        [entry.quality for entry in entries],
        xerr=([s.median - s.low for s in spreads], [s.high - s.median for s in spreads]),
        color=color,
        marker=marker,
        markersize=6,
        linewidth=1.3,
        capsize=2,
        label=label,
    )
