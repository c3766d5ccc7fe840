"""Figures as files, the same bytes for equal figures."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from adaptrt.bench.errors import BenchError
from adaptrt.export.staging import write_file

PICTURES = (".png", ".svg", ".pdf")
"""How the name of a picture may end."""

GREY = "#666666"
_DPI = 150
_UNDATED: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
"""What to leave out of each format so that equal results give equal files."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, drawn without a display."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def check_picture(path: Path) -> None:
    """Refuse a name that no picture can have.

    Raises:
        BenchError: It ends in something else than ``PICTURES``.
    """
    if path.suffix.lower() not in PICTURES:
        raise BenchError(f"got picture {path}, expected one of {', '.join(PICTURES)}; rename it")


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure; readers find the old file or the new one, never a part.

    Raises:
        BenchError: ``path`` ends in something else than ``PICTURES``.
        ExportError: The file cannot be written; an old one is untouched.
    """
    check_picture(path)
    kind = path.suffix.removeprefix(".").lower()
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, dpi=_DPI, metadata=_UNDATED[kind])
    write_file(path, picture.getvalue())


def style_axes(axes: Axes) -> None:
    """A light grid behind what is drawn, no frame above and to the right."""
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
