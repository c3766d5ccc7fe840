"""Tables that several verbs print, and how numbers are written in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from adaptrt.export.parity import ParityRow
    from adaptrt.runtime.bundle import CurvePoint

FRONTIER = "*"
"""Marks a point that no other beats on the calibration data; held-out numbers beside it may say otherwise."""

FRONTIER_CAPTION = f"{FRONTIER} on the frontier of the calibration data"

NONE = "-"
"""Stands for a number that was not measured."""


def table(title: str, *columns: str) -> Table:
    """An empty table; a column whose heading starts with ``<`` is aligned left, the others right."""
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    for heading in columns:
        left = heading.startswith("<")
        made.add_column(heading.removeprefix("<"), justify="left" if left else "right", no_wrap=True)
    return made


def percent(share: float | None) -> str:
    """A share of one, such as 0.4231 as ``42.3%``."""
    return NONE if share is None else f"{share:.1%}"


def count(number: float) -> str:
    """A large number with its prefix, such as 90,400,000 as ``90.4M``."""
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{prefix}"
    return f"{number:.0f}"


def size(number: int) -> str:
    """Bytes with their prefix, such as ``5.3 MB``."""
    return f"{number} B" if number < 1000 else f"{count(number)[:-1]} {count(number)[-1]}B"


def quality(value: float | None, metric: str | None) -> str:
    """A measured quality: an accuracy in percent, another metric as a number."""
    if value is None:
        return NONE
    return f"{value:.2%}" if metric == "accuracy" else f"{value:.4g}"


def parity_table(rows: Sequence[ParityRow]) -> Table:
    """Torch against the exported graph, a row per price and batch size."""
    made = table(
        "Parity with torch",
        *(
            "price",
            "batch",
            "samples",
            "decisions",
            "flips",
            "ties",
            "max logit error",
            "max MACs error",
            "agreement",
        ),
    )
    for row in rows:
        made.add_row(
            *(f"{row.price:.4f}", str(row.batch), str(row.samples), str(row.decisions), str(row.flips)),
            *(
                str(row.ties),
                f"{row.max_logit_error:.1e}",
                f"{row.max_macs_error:.1e}",
                percent(row.agreeing),
            ),
        )
    return made


def curve_table(curve: Sequence[CurvePoint], metric: str | None, dense_macs: int) -> Table:
    """Calibrated operating points, cheapest first: numbers of held-out data, the mark of calibration data."""
    knobs = list(dict.fromkeys(name for point in curve for name in point.knobs))
    made = table("Curve, measured on held-out data", *knobs, "of dense MACs", "MACs", metric or "quality", "<frontier")
    for point in sorted(curve, key=lambda point: point.macs_fraction):
        made.add_row(
            *(f"{point.knobs[name]:.4f}" if name in point.knobs else NONE for name in knobs),
            *(percent(point.macs_fraction), count(point.macs_fraction * dense_macs)),
            *(quality(point.quality, metric), FRONTIER if point.frontier else ""),
        )
    made.caption, made.caption_justify = FRONTIER_CAPTION, "left"
    return made
