"""The picture of an adaptation: losses over steps, a panel for each kind of phase, a line for each layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from adaptrt.bench.reports.pictures import check_picture, new_figure, save_picture, style_axes
from adaptrt.models.training.loss_log import PhaseLosses

_TITLES = {"distil": "Learners, each layer alone", "gate": "Gates, each layer alone", "joint": "Everything together"}
_LAYER = "layer"
_MARKED = 2
"""Points up to which each is marked: a training that has just begun has one, which makes no line."""


def plot_losses(phases: Sequence[PhaseLosses], path: Path) -> None:
    """Draw losses as ``.png``, ``.svg`` or ``.pdf``.

    Args:
        phases: Of one adaptation, as ``read_losses`` gives them; at least one has losses.
        path: The picture.

    Raises:
        BenchError: ``path`` ends in something else.
        ExportError: The file cannot be written; an old one is untouched.
    """
    check_picture(path)
    kinds = list(dict.fromkeys(phase.kind for phase in phases if phase.loss))
    figure = new_figure(1.2 + 3.6 * len(kinds), 3.6)
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        _draw(axes, kind, [phase for phase in phases if phase.kind == kind and phase.loss])
    layers = {str(line.get_label()): line for axes in figure.axes for line in axes.lines if line.get_gid() == _LAYER}
    if layers:
        figure.legend(list(layers.values()), list(layers), loc="outside right upper", fontsize=7, frameon=False)
    save_picture(figure, path)


def _draw(axes: Axes, kind: str, phases: Sequence[PhaseLosses]) -> None:
    colours = colormaps["viridis"]
    last = max((phase.layer or 0 for phase in phases), default=0)
    for phase in phases:
        colour = colours(0.9 * (phase.layer or 0) / max(last, 1))
        marker = "." if len(phase.step) <= _MARKED else None
        [line] = axes.plot(phase.step, phase.loss, color=colour, linewidth=1.2, marker=marker)
        if phase.layer is not None:
            line.set(label=f"layer {phase.layer}", gid=_LAYER)
    above_zero = all(loss > 0 for phase in phases for loss in phase.loss)
    if above_zero:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(_TITLES.get(kind, kind), fontsize=9)
    axes.set_xlabel("step")
    axes.set_ylabel("loss" if above_zero else "loss (not all above 0: no logarithm)")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    style_axes(axes)
