"""The picture of the simulation: target, latency and quality over time, for every trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adaptrt.bench.control.on_machine import MachineRun
from adaptrt.bench.control.simulation import DEVICE, PERCENTILE, TARGET, simulate
from adaptrt.bench.control.traces import TRACES
from adaptrt.bench.reports.pictures import GREY, check_picture, new_figure, save_picture, style_axes

_COLORS = {"no control": "#999999", "fixed point": "#E69F00", "controller": "#0072B2"}
_TOP = 2.4  # targets; spikes leave the picture


def plot_control(path: Path, seed: int = 0) -> None:
    """Draw one draw of every trace as ``.png``, ``.svg`` or ``.pdf``.

    Raises:
        BenchError: ``path`` ends in something else.
        ExportError: The file cannot be written; an old one is untouched.
    """
    check_picture(path)
    traces = [make(seed) for make in TRACES]
    across = -(-len(traces) // 2)
    figure = new_figure(14, 6.4)
    figure.suptitle(
        f"A target of {TARGET:g} ms for {PERCENTILE:.0%} of the calls, while the device changes (simulation)",
        fontweight="bold",
    )
    rows = figure.subplots(4, across, sharex=True, height_ratios=[2, 1, 2, 1])
    for index, trace in enumerate(traces):
        top, bottom = rows[index // across * 2][index % across], rows[index // across * 2 + 1][index % across]
        calls = np.arange(len(trace.work))
        for rival, color in _COLORS.items():
            run = simulate(trace, rival)
            shown = np.minimum(run.milliseconds, _TOP * TARGET)
            top.plot(calls, shown, ".", color=color, markersize=1.6, alpha=0.5)
            quality = [DEVICE.quality(fraction) for fraction in run.fraction]
            bottom.plot(calls, quality, color=color, linewidth=1.2, label=rival)
        best = [DEVICE.quality(fraction) for fraction in DEVICE.oracle(trace, TARGET, PERCENTILE)]
        bottom.plot(calls, best, color="#D55E00", linewidth=0.9, linestyle=":", label="oracle")
        top.axhline(TARGET, color="black", linewidth=1)
        top.set_title(trace.name, fontsize=10)
        top.set_ylim(0, _TOP * TARGET)
        for axes in (top, bottom):
            style_axes(axes)
            axes.tick_params(labelsize=8, colors=GREY)
        if index % across == 0:
            top.set_ylabel("ms", fontsize=9)
            bottom.set_ylabel("quality", fontsize=9)
    for axes in rows[-1]:
        axes.set_xlabel("call", fontsize=9)
    handles, labels = rows[1][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, markerscale=3)
    save_picture(figure, path)


def plot_machine(run: MachineRun, path: Path) -> None:
    """Draw a run on this machine: every call's milliseconds, and the share of work, for each way of choosing.

    Raises:
        BenchError: ``path`` ends in something else.
        ExportError: The file cannot be written; an old one is untouched.
    """
    check_picture(path)
    figure = new_figure(12, 4.6)
    figure.suptitle(
        f"{run.bundle}: {run.target_ms:.2f} ms for 95% of the calls; shaded: another process has a core",
        fontweight="bold",
    )
    rows = figure.subplots(2, len(run.calls), sharey="row", height_ratios=[2, 1])
    for column, (rival, calls) in enumerate(run.calls.items()):
        top, bottom = rows[0][column], rows[1][column]
        color, times = _COLORS[rival], np.array(calls["milliseconds"])
        number = np.arange(len(times))
        top.plot(number, np.minimum(times, _TOP * run.target_ms), ".", color=color, markersize=1.6, alpha=0.5)
        top.axhline(run.target_ms, color="black", linewidth=1)
        top.set_title(rival, fontsize=10)
        bottom.plot(number, np.array(calls["macs_fraction"]), ".", color=color, markersize=1.6)
        for axes in (top, bottom):
            axes.fill_between(
                number, 0, 1, where=np.array(calls["contended"]) > 0, color="#000000", alpha=0.07, linewidth=0,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
            style_axes(axes)
            axes.set_ylim(bottom=0)
        bottom.set_xlabel("call", fontsize=9)
    rows[0][0].set_ylabel("ms", fontsize=9)
    rows[1][0].set_ylabel("share of MACs", fontsize=9)
    save_picture(figure, path)
