"""The picture of a load: latency and share of work, second by second, with the budget and without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adaptrt.bench.reports.pictures import check_picture, new_figure, save_picture, style_axes
from adaptrt.bench.serving.load import Load

_COLORS = ("#0072B2", "#999999")


def plot_loads(loads: Sequence[Load], path: Path) -> None:
    """Draw them as ``.png``, ``.svg`` or ``.pdf``.

    Raises:
        BenchError: ``path`` ends in something else.
        ExportError: The file cannot be written; an old one is untouched.
    """
    check_picture(path)
    figure = new_figure(9, 5)
    figure.suptitle(f"{loads[0].offered:.0f} requests a second, twice what full work can answer", fontweight="bold")
    latency, work, lost = figure.subplots(3, 1, sharex=True, height_ratios=[2, 1, 1])
    for load, color in zip(loads, _COLORS, strict=False):
        seconds = [window.begin for window in load.windows]
        values = [window.p95_ms if window.p95_ms is not None else float("nan") for window in load.windows]
        latency.semilogy(seconds, values, color=color, label=load.budget)
        shares = [window.work if window.work is not None else float("nan") for window in load.windows]
        work.plot(seconds, shares, color=color)
        lost.plot(seconds, [window.lost for window in load.windows], color=color)
    latency.axhline(loads[0].target_ms, color="black", linewidth=1)
    latency.set_ylabel("95% of the answers, ms")
    work.set_ylabel("share of work")
    work.set_ylim(0, 1.1)
    lost.set_ylabel("lost")
    lost.set_xlabel("seconds")
    for axes in (latency, work, lost):
        style_axes(axes)
    latency.legend(frameon=False)
    save_picture(figure, path)
