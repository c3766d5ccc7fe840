"""The picture of a comparison: quality over measured latency, a colour for each network, a mark for each form of it."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from adaptrt.bench.reports.pictures import GREY, check_picture, new_figure, save_picture, style_axes
from adaptrt.bench.rivals.result import Entry, RivalComparison
from adaptrt.bench.rivals.series import ADAPTIVE, DENSE, UNIFORM
from adaptrt.bench.rivals.static_models import DYNAMIC_FORM, FLOAT32_FORM, INT8_FORM

# Okabe and Ito's palette first: distinct for the colour-blind; what stands in every comparison keeps its colour.
COLORS = {ADAPTIVE: "#D55E00", DENSE: "#000000", UNIFORM: "#56B4E9"}
_FURTHER = ("#009E73", "#0072B2", "#CC79A7", "#E69F00", "#8C564B", "#7F7F7F", "#17BECF", "#BCBD22", "#9467BD")
_MARKERS = {FLOAT32_FORM: "o", INT8_FORM: "s", DYNAMIC_FORM: "X"}
_OTHER_MARKERS = ("^", "v", "D", "P", "<", ">", "h")


def network_colors(networks: list[str]) -> dict[str, str]:
    """A colour for each network; beyond a dozen they repeat."""
    further = [name for name in networks if name not in COLORS]
    found = {name: _FURTHER[number % len(_FURTHER)] for number, name in enumerate(further)}
    return {name: COLORS.get(name) or found[name] for name in networks}


def _form_markers(forms: list[str]) -> dict[str, str]:
    others = [form for form in forms if form not in _MARKERS]
    found = {form: _OTHER_MARKERS[number % len(_OTHER_MARKERS)] for number, form in enumerate(others)}
    return {form: _MARKERS.get(form) or found[form] for form in forms}


def plot_rivals(result: RivalComparison, path: Path) -> None:
    """Draw a comparison as ``.png``, ``.svg`` or ``.pdf``, batch sizes side by side; error bars span the quartiles.

    Raises:
        BenchError: ``path`` ends in something else.
        ExportError: The file cannot be written; an old one is untouched.
    """
    check_picture(path)
    figure = new_figure(1.2 + 5.2 * len(result.batches), 5.8)
    figure.suptitle(f"{result.name}: adaptive and static", fontsize=13, fontweight="bold")
    colors = network_colors(list(dict.fromkeys(entry.network for entry in result.entries)))
    markers = _form_markers(list(dict.fromkeys(entry.form for entry in result.entries)))
    for axes, batch in zip(figure.subplots(1, len(result.batches), squeeze=False)[0], result.batches, strict=True):
        _draw(axes, result, batch, colors, markers)
    handles = [Line2D([], [], color=color, linewidth=3, label=name) for name, color in colors.items()]
    handles += [Line2D([], [], color=GREY, marker=marker, linestyle="", label=form) for form, marker in markers.items()]
    columns = 4 if len(result.batches) > 1 else 3
    figure.legend(handles=handles, fontsize=8, loc="outside lower center", ncols=columns)
    save_picture(figure, path)


def _draw(axes: Axes, result: RivalComparison, batch: int, colors: dict[str, str], markers: dict[str, str]) -> None:
    for network, form in dict.fromkeys((entry.network, entry.form) for entry in result.entries):
        some = [entry for entry in result.entries if (entry.network, entry.form) == (network, form)]
        _line(axes, some, batch, colors[network], markers[form], front=network == ADAPTIVE)
    axes.set_xlim(left=0)
    axes.set_xlabel("latency (ms)")
    axes.set_ylabel(result.metric)
    axes.set_title(f"batch {batch}, {result.threads} thread{'s' * (result.threads > 1)}", fontsize=9, color=GREY)
    style_axes(axes)


def _line(axes: Axes, entries: list[Entry], batch: int, color: str, marker: str, *, front: bool) -> None:
    """The points of one form of one network, fastest first; one alone is a mark."""
    entries = sorted(entries, key=lambda entry: entry.latency_ms[batch].median)
    spreads = [entry.latency_ms[batch] for entry in entries]
    axes.errorbar(
        [spread.median for spread in spreads],
        [entry.quality for entry in entries],
        xerr=([s.median - s.low for s in spreads], [s.high - s.median for s in spreads]),
        color=color,
        marker=marker,
        markersize=6 if len(entries) > 1 else 9,
        linewidth=1.8 if front else 1.0,
        capsize=2,
        zorder=4 if front else 3,
    )
