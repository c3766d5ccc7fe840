"""The picture of the comparison: accuracy over work and over measured latency, a line per network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from adaptrt.bench.families.result import FamilyRow, Result
from adaptrt.bench.reports.pictures import GREY, check_picture, new_figure, save_picture, style_axes

_DENSE = "#000000"
_BELOW_DENSE = 0.06
"""Accuracy this far below the dense network's is out of the picture: nobody runs a network there."""


@dataclass(frozen=True)
class _Style:
    label: str
    color: str
    marker: str
    line: str = "-"


# Okabe and Ito's palette: distinct for the colour-blind; markers tell the networks apart as well.
_STYLES = {
    "combined": _Style("all three in one bundle", "#D55E00", "o"),
    "acm": _Style("ACM alone", "#0072B2", "s"),
    "tokens": _Style("token pruning alone", "#009E73", "^"),
    "exits": _Style("early exit alone", "#CC79A7", "D"),
    "fixed": _Style("EViT, fixed counts", "#E69F00", "v", "--"),
    "merge": _Style("ToMe, fixed counts", "#56B4E9", "P", "--"),
    "narrow": _Style("narrower dense networks", GREY, "X", ":"),
}
_OTHERS = (("#F0E442", "<"), ("#999999", ">"))
_TITLES = {"fashion": "Fashion-MNIST"}


def plot_families(result: Result, path: Path) -> None:
    """Draw a result as ``.png``, ``.svg`` or ``.pdf``.

    One panel over the share of the dense network's multiply-accumulates, and one for each batch size over
    the measured time relative to the dense network's, the largest batch first. Error bars span the
    quartiles of the time.

    Raises:
        BenchError: ``path`` ends in something else.
        ExportError: The file cannot be written; an old one is untouched.
    """
    check_picture(path)
    batches = sorted(result.batches, reverse=True)
    figure = new_figure(4.6 * (1 + len(batches)), 5.4)
    panels = list(figure.subplots(1, 1 + len(batches), sharey=True))
    data = _TITLES.get(result.data, result.data)
    figure.suptitle(f"{data}: one network, made adaptive in several ways", fontweight="bold")
    _draw(panels[0], result, lambda row: row.macs_fraction, None)
    panels[0].set_xlabel("share of the dense network's multiply-accumulates")
    panels[0].set_ylabel("accuracy on test images")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    threads = f"{result.threads} thread" + "s" * (result.threads > 1)
    for axes, batch in zip(panels[1:], batches, strict=True):
        _draw(axes, result, lambda row, batch=batch: row.ratio[batch].median, batch)  # type: ignore[misc]
        axes.set_xlabel(f"latency relative to dense, batch {batch} ({threads})")
    for axes in panels:
        style_axes(axes)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlim(left=0)
    low, high = _limits(result)
    panels[0].set_ylim(low, high)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    save_picture(figure, path)


def _draw(axes: Axes, result: Result, where: Callable[[FamilyRow], float], batch: int | None) -> None:
    for name, rows in _series(result).items():
        style = _style(name, list(_series(result)))
        ordered = sorted(rows, key=where)
        x, y = [where(row) for row in ordered], [row.accuracy for row in ordered]
        axes.plot(
            *(x, y, style.line),
            color=style.color,
            marker=style.marker,
            markersize=6,
            linewidth=1.5,
            label=style.label,
            zorder=4 if name == "combined" else 3,
        )
        if batch is not None:
            spreads = [row.ratio[batch] for row in ordered]
            bars = ([s.median - s.low for s in spreads], [s.high - s.median for s in spreads])
            axes.errorbar(x, y, xerr=bars, fmt="none", ecolor=style.color, elinewidth=0.8, capsize=2, zorder=2)
    axes.axhline(result.dense.accuracy, color=_DENSE, linewidth=1.0, linestyle="--", zorder=1)
    axes.plot(1, result.dense.accuracy, "*", color=_DENSE, markersize=14, label="dense network", zorder=5)


def _series(result: Result) -> dict[str, list[FamilyRow]]:
    """Points by network; the narrower dense networks, of one point each, are one series."""
    series: dict[str, list[FamilyRow]] = {}
    for network in result.networks:
        name = "narrow" if network.name.startswith("narrow") else network.name
        series.setdefault(name, []).extend(network.points)
    return series


def _style(name: str, names: Sequence[str]) -> _Style:
    if name in _STYLES:
        return _STYLES[name]
    others = [drawn for drawn in names if drawn not in _STYLES]
    color, marker = _OTHERS[others.index(name) % len(_OTHERS)]
    return _Style(name, color, marker)


def _limits(result: Result) -> tuple[float, float]:
    """From the worst point that is worth showing to the best, with a margin."""
    shown = [row.accuracy for network in result.networks for row in network.points] + [result.dense.accuracy]
    low = max(min(shown), result.dense.accuracy - _BELOW_DENSE)
    margin = 0.06 * max(max(shown) - low, 0.01)
    return low - margin, max(shown) + margin
