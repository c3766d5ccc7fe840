"""The picture of an estimate: latency over the share of work of each family, static models as lines."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from adaptrt.bench.reports.pictures import GREY, check_picture, new_figure, save_picture, style_axes
from adaptrt.bench.timing.estimate_result import Estimate, EstimateRow

# Okabe and Ito's palette: distinct for the colour-blind; markers and dashes tell the lines apart as well.
_FAMILIES = (("#0072B2", "o"), ("#009E73", "s"), ("#CC79A7", "D"), ("#E69F00", "^"), ("#56B4E9", "v"), ("#999933", "P"))
_RIVALS = (("#D55E00", "--"), ("#000000", "-."), (GREY, (0, (1, 1))), ("#56B4E9", (0, (5, 1, 1, 1, 1, 1))))


def plot_estimate(result: Estimate, path: Path) -> None:
    """Draw an estimate as ``.png``, ``.svg`` or ``.pdf``, batch sizes side by side; error bars span the quartiles.

    Raises:
        BenchError: ``path`` ends in something else.
        ExportError: The file cannot be written; an old one is untouched.
    """
    check_picture(path)
    figure = new_figure(1.2 + 4.6 * len(result.batches), 4.6)
    figure.suptitle(f"{result.model}: what adapting would give", fontsize=13, fontweight="bold")
    for axes, batch in zip(figure.subplots(1, len(result.batches), squeeze=False)[0], result.batches, strict=True):
        _draw(axes, result, batch)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=2 * len(result.batches))
    save_picture(figure, path)


def _draw(axes: Axes, result: Estimate, batch: int) -> None:
    names = list(dict.fromkeys(row.name for row in result.rows))
    for number, name in enumerate(names):
        color, marker = _FAMILIES[number % len(_FAMILIES)]
        rows = [row for row in result.rows if row.name == name and batch in row.latency_ms]
        middle = [row.latency_ms[batch].median for row in rows]
        below = [row.latency_ms[batch].median - row.latency_ms[batch].low for row in rows]
        above = [row.latency_ms[batch].high - row.latency_ms[batch].median for row in rows]
        axes.errorbar(
            _shares(rows), middle, yerr=(below, above), color=color, marker=marker, markersize=5, capsize=2, label=name
        )
    for number, rival in enumerate(result.rivals):
        color, dash = _RIVALS[number % len(_RIVALS)]
        axes.axhline(rival.latency_ms[batch].median, color=color, linestyle=dash, linewidth=1.2, label=rival.name)
    dense = result.rivals[0].latency_ms[batch].median
    axes.plot((0, 1), (0, dense), color="#bbbbbb", linewidth=1, label="time proportional to work")
    axes.set_xlim(0, 1.08)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("work: share of the dense model's")
    axes.set_ylabel("latency (ms)")
    axes.set_title(f"batch {batch}, {result.threads} thread{'s' * (result.threads > 1)}", fontsize=9, color=GREY)
    style_axes(axes)


def _shares(rows: list[EstimateRow]) -> list[float]:
    return [row.share for row in rows]
