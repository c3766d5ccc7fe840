"""The picture of a bundle: accuracy and latency over the share of work, the dense model marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from adaptrt.bench.reports.pictures import GREY, check_picture, new_figure, save_picture, style_axes
from adaptrt.bench.timing.bundle_latency import BundleLatency, LatencyRow
from adaptrt.bench.timing.interleave import Spread

# Okabe and Ito's palette: distinct for the colour-blind; markers tell the series apart as well.
_ADAPTIVE, _DENSE = "#0072B2", "#D55E00"
_BATCHES = (("#009E73", "s"), ("#CC79A7", "D"), ("#0072B2", "^"), ("#E69F00", "v"), ("#56B4E9", "P"))


def plot_frontier(result: BundleLatency, path: Path) -> None:
    """Draw a measured bundle as ``.png``, ``.svg`` or ``.pdf``.

    Above: quality over the share of the dense model's MACs, frontier points filled. Below: latency
    relative to the dense model at every batch size, beside the diagonal on which time is proportional
    to work; in milliseconds where the bundle has no dense graph. Error bars span the quartiles.

    Raises:
        BenchError: ``path`` ends in something else.
        ExportError: The file cannot be written; an old one is untouched.
    """
    check_picture(path)
    figure = new_figure(7.2, 7.4)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.25))
    what = "file" if result.stages == 1 else "bundle"
    figure.suptitle(f"{result.name}: one {what}, every budget", fontsize=13, fontweight="bold")
    _draw_quality(top, result)
    _draw_latency(bottom, result)
    shares = [row.macs_fraction for row in result.rows]
    bottom.set_xlim(0, max(1.0, *shares) + 0.06)
    bottom.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bottom.set_xlabel("work: share of the dense model's multiply-accumulates")
    for axes in (top, bottom):
        style_axes(axes)
    save_picture(figure, path)


def _draw_quality(axes: Axes, result: BundleLatency) -> None:
    metric = result.quality_metric or "quality"
    rows = [row for row in result.rows if row.quality is not None]
    if rows:
        axes.plot(*_points(rows), color=_ADAPTIVE, linewidth=1.2, zorder=2)
        for frontier, face, label in (
            (False, "white", "adaptive"),
            (True, _ADAPTIVE, "on the frontier of the calibration data"),
        ):
            some = [row for row in rows if row.frontier is frontier]
            if some:
                x, y = _points(some)
                axes.plot(x, y, "o", color=_ADAPTIVE, markerfacecolor=face, markersize=6.5, label=label, zorder=3)
    if result.dense_quality is not None:
        axes.axhline(result.dense_quality, color=_DENSE, linewidth=1.2, linestyle="--", zorder=1)
        axes.plot(1, result.dense_quality, "*", color=_DENSE, markersize=15, label="dense model", zorder=4)
    if not rows:
        axes.text(0.5, 0.5, "not measured", color=GREY, ha="center", va="center", transform=axes.transAxes)
        axes.set_yticks([])
    elif metric == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.set_ylabel(f"{metric} on held-out data")
    axes.margins(y=0.15)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", framealpha=0.95)


def _draw_latency(axes: Axes, result: BundleLatency) -> None:
    for index, batch in enumerate(result.batches):
        color, marker = _BATCHES[index % len(_BATCHES)]
        spreads = [_latency(row, batch) for row in result.rows]
        middle = [spread.median for spread in spreads]
        below = [spread.median - spread.low for spread in spreads]
        above = [spread.high - spread.median for spread in spreads]
        label = f"batch {batch}"
        if result.dense is not None:
            label += f" (dense: {_milliseconds(result.dense[batch].median)})"
        axes.errorbar(
            [row.macs_fraction for row in result.rows],
            middle,
            yerr=(below, above),
            color=color,
            marker=marker,
            markersize=5.5,
            linewidth=1.4,
            capsize=2.5,
            label=label,
            zorder=3,
        )
    if result.dense is not None:
        end = max(1.0, *(row.macs_fraction for row in result.rows))
        axes.plot((0, end), (0, end), color=GREY, linewidth=1.2, linestyle=":", label="time proportional to work")
        axes.axhline(1, color=_DENSE, linewidth=1.2, linestyle="--", zorder=1)
        axes.plot(1, 1, "*", color=_DENSE, markersize=15, label="dense model", zorder=4)
        axes.set_ylim(bottom=0)
    else:
        axes.set_yscale("log")  # a batch of 64 and one sample, side by side
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("latency relative to the dense model" if result.dense else "latency (ms)")
    threads = f"{result.threads} thread" + "s" * (result.threads > 1)
    axes.set_title(f"ONNX Runtime, CPU, {threads}", fontsize=9, color=GREY, loc="right")
    axes.legend(loc="upper left", framealpha=0.95)


def _points(rows: Sequence[LatencyRow]) -> tuple[list[float], list[float]]:
    return [row.macs_fraction for row in rows], [row.quality for row in rows if row.quality is not None]


def _latency(row: LatencyRow, batch: int) -> Spread:
    return row.latency_ms[batch] if row.ratio is None else row.ratio[batch]


def _milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"
