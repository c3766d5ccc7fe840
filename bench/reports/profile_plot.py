"""The picture of a profile: latency over the share of work, and the quality that it buys."""

from __future__ import annotations

from pathlib import Path

from matplotlib.ticker import PercentFormatter

from adaptrt.bench.reports.pictures import check_picture, new_figure, save_picture, style_axes
from adaptrt.runtime.device.profile import Profile

_TIME, _QUALITY = "#0072B2", "#D55E00"


def plot_profile(profile: Profile, path: Path) -> None:
    """Draw a profile as ``.png``, ``.svg`` or ``.pdf``: median to 95% of the calls, and quality where known.

    Raises:
        BenchError: ``path`` ends in something else.
        ExportError: The file cannot be written; an old one is untouched.
    """
    check_picture(path)
    figure = new_figure(7.2, 4.4)
    axes = figure.subplots()
    shares = [point.fraction for point in profile.points]
    medians = [point.median_ms for point in profile.points]
    axes.fill_between(shares, medians, [point.p95_ms for point in profile.points], color=_TIME, alpha=0.2, linewidth=0)
    axes.plot(shares, medians, "o-", color=_TIME, label="median, up to 95% of the calls")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("budget: share of the dense model's multiply-accumulates")
    axes.set_ylabel("milliseconds", color=_TIME)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title(f"Batch {profile.key.batch} on {profile.key.device}", fontsize=9)
    style_axes(axes)
    known = [(point.fraction, point.quality) for point in profile.points if point.quality is not None]
    if known:
        other = axes.twinx()
        other.plot(*zip(*known, strict=True), "s--", color=_QUALITY, markersize=4)
        other.set_ylabel("quality", color=_QUALITY)
        other.spines["top"].set_visible(False)
    save_picture(figure, path)
