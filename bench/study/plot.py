"""The picture of the study: every method's quality within the same measured time, mean and spread over seeds."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from adaptrt.bench.reports.pictures import GREY, check_picture, new_figure, save_picture, style_axes
from adaptrt.bench.reports.rivals_plot import COLORS, network_colors
from adaptrt.bench.rivals.series import ADAPTIVE
from adaptrt.bench.study.merging import ADAPTIVE_INT8, ADAPTIVE_METHODS
from adaptrt.bench.study.result import StudyResult

_MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "h")
_LOWEST = 0.15  # below the best that is shown


def plot_study(result: StudyResult, path: Path) -> None:
    """Draw a result as ``.png``, ``.svg`` or ``.pdf``; bars are standard deviations, small marks single measurements.

    Raises:
        BenchError: ``path`` ends in something else.
        ExportError: The file cannot be written; an old one is untouched.
    """
    check_picture(path)
    figure = new_figure(8.6, 6.2)
    count = f"{len(result.seeds)} seed{'s' * (len(result.seeds) > 1)}"
    figure.suptitle(f"{result.data}: best within the same measured time", fontsize=13, fontweight="bold")
    axes = figure.subplots()
    axes.set_title(
        f"batch {result.batch}, {result.threads} thread{'s' * (result.threads > 1)}, {count}", fontsize=9, color=GREY
    )
    _draw(axes, result)
    axes.set_xscale("log")
    for part in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        part(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.set_xlabel("latency (ms)")
    axes.set_ylabel(result.metric)
    style_axes(axes)
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)
    save_picture(figure, path)


def _draw(axes: Axes, result: StudyResult) -> None:
    colors = network_colors([method for method in result.methods if method not in ADAPTIVE_METHODS])
    colors |= dict.fromkeys(ADAPTIVE_METHODS, COLORS[ADAPTIVE])
    for number, method in enumerate(result.methods):
        single = [entry for seed in result.seeds for entry in seed.entries if entry.method == method]
        x, y = [entry.milliseconds for entry in single], [entry.quality for entry in single]
        axes.plot(x, y, ".", color=colors[method], markersize=3, alpha=0.45, zorder=2)
        rows = [row for row in result.rows if method in row.quality]
        if not rows:
            continue
        axes.errorbar(
            [row.milliseconds for row in rows],
            [row.quality[method].mean for row in rows],
            yerr=[row.quality[method].deviation or 0.0 for row in rows],
            color=colors[method],
            marker=_MARKERS[number % len(_MARKERS)],
            linestyle="-" if method == ADAPTIVE_INT8 or method not in ADAPTIVE_METHODS else "--",
            drawstyle="steps-post",  # between two times it is still the best of the shorter one
            linewidth=2.2 if method == ADAPTIVE_INT8 else 1.1,
            markersize=5,
            capsize=2,
            label=method,
            zorder=4 if method in ADAPTIVE_METHODS else 3,
        )
    means = [each.mean for row in result.rows for each in row.quality.values()]
    axes.set_ylim(max(min(means), max(means) - _LOWEST) - 0.01, max(means) + 0.01)
