"""The picture of ``adaptrt run --explain``: what was decided for one image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap

from adaptrt.bench.reports.pictures import GREY, new_figure, save_picture
from adaptrt.cli.errors import CommandError
from adaptrt.cli.tables import changed_knobs, class_name, knob_text, percent

if TYPE_CHECKING:
    from adaptrt.cli.batches import Predictions
    from adaptrt.runtime.bundle.bundle_file import Bundle, ImagePreprocessing

Array = npt.NDArray[Any]

_COLUMNS = 6
_PANEL = 2.3  # inches
_DROPPED = np.array([0.22, 0.27, 0.42])  # a dropped patch turns this dark blue, which shows on black as well
_LEFT = 0.25  # what is left of its own brightness
_CLASS_TOKEN = "class token"


class PatchGrid:
    """Where the tokens of an image lie: a grid of patches, row by row, behind a class token where there is one.

    Args:
        tokens: How many there are, the class token included.
        height: Of the image.
        width: Of the image.

    Raises:
        CommandError: They are no grid of square patches.
    """

    def __init__(self, tokens: int, height: int, width: int) -> None:
        for first in (0, 1):
            patches = max(tokens - first, 0)
            rows = round(math.sqrt(patches * height / width))
            columns = patches // rows if rows else 0
            if rows * columns == patches > 0 and rows * width == columns * height:
                self.first, self.rows, self.columns = first, rows, columns
                return
        raise CommandError(
            f"got {tokens} tokens of an image of {width} x {height} pixels, expected a grid of square patches, with or "
            "without a class token; --explain cannot draw this bundle, leave it out"
        )

    @property
    def patches(self) -> int:
        """How many there are."""
        return self.rows * self.columns

    def of(self, values: Array) -> Array:
        """Values of the tokens, ``[tokens]``, as a picture of the patches, ``[rows, columns]``."""
        return values[self.first :].reshape(self.rows, self.columns)

    def enlarged(self, values: Array, height: int, width: int) -> Array:
        """The same over the pixels, ``[height, width]``."""
        grid = self.of(values)
        row, column = np.arange(height) * self.rows // height, np.arange(width) * self.columns // width
        return np.asarray(grid[row[:, None], column[None]])


def draw_explanation(bundle: Bundle, image: Array, predictions: Predictions, path: Path, *, top: int) -> None:
    """Draw the image, the patches that every selection kept, and the learners that every gate ran for each patch.

    Args:
        bundle: What ran.
        image: Its input, ``[C, H, W]``.
        predictions: What it made of that one sample.
        path: A ``.png``, ``.svg`` or ``.pdf`` file.
        top: Classes listed.

    Raises:
        CommandError: The bundle's tokens are no patches of the image.
        ExportError: The file cannot be written; an old one is untouched.
    """
    recipe = bundle.inputs[0].preprocessing
    assert recipe is not None  # else the image could not have been read
    shown, decisions = _pixels(image, recipe), predictions.decisions
    kept = np.zeros((0, 0), bool) if decisions is None else decisions.kept[0]
    learners = np.zeros((0, 0), np.int32) if decisions is None else decisions.learners[0]
    grid = PatchGrid((kept if len(kept) else learners).shape[1], *shown.shape[:2]) if decisions is not None else None
    panels = [("image", None)] + [("kept", number) for number in range(len(kept))]
    columns = max(min(len(panels), _COLUMNS), min(len(learners), _COLUMNS), 2)
    above, below = -(-len(panels) // columns), -(-len(learners) // columns)
    figure = new_figure(_PANEL * columns, _PANEL * 1.12 * (above + below) + 1.0)
    figure.suptitle(_heading(bundle, predictions, top), fontsize=10)
    axes = np.asarray(figure.subplots(above + below, columns, squeeze=False))
    for panel in axes.flat:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.set_visible(False)
    for place, (kind, number) in zip(axes[:above].flat, panels, strict=False):
        place.set_visible(True)
        if kind == "image" or number is None or grid is None:
            _draw_image(place, shown, f"{shown.shape[1]} x {shown.shape[0]} pixels")
        else:
            _draw_kept(place, shown, kept[number], number, grid)
    most = _learners(bundle, learners)
    colors = colormaps["viridis"].resampled(most + 1).with_extremes(bad="#dddddd")
    for place, counts, number in zip(axes[above:].flat, learners, range(len(learners)), strict=False):
        place.set_visible(True)
        assert grid is not None
        _draw_learners(place, counts, number, grid, most, colors)
    if len(learners):
        scale = figure.colorbar(axes[above, 0].images[0], ax=axes[above:], shrink=0.8, ticks=range(most + 1))
        scale.set_label("learners run (grey: token gone)", fontsize=8)
    save_picture(figure, path)


def _heading(bundle: Bundle, predictions: Predictions, top: int) -> str:
    classes = predictions.classes(top)
    lines = (
        []
        if classes is None
        else [", ".join(f"{class_name(bundle, label) or f'class {label}'}: {percent(p)}" for label, p in classes[0])]
    )
    left = ""
    if predictions.exit is not None:
        stage = int(predictions.exit[0])
        left = f"left at {bundle.stages[stage].exit} (exit {stage + 1} of {len(bundle.stages)}), "
    lines.append(f"{left}{percent(float(predictions.macs_fraction[0]))} of the dense model's MACs")
    changed = changed_knobs(predictions.knobs, bundle.knobs)
    asked = f"budget {predictions.budget}" if predictions.budget is not None else ""
    lines.append("; ".join(part for part in (asked, knob_text(changed) if changed else "") if part))
    return "\n".join(line for line in lines if line)


def _pixels(image: Array, recipe: ImagePreprocessing) -> Array:
    """The input as it looks, ``[H, W, 3]`` in 0..1."""
    mean, std = (np.array(value, np.float64).reshape(-1, 1, 1) for value in (recipe.mean, recipe.std))
    pixels = (image * std + mean) / (recipe.scale * 255)
    if recipe.order == "bgr":
        pixels = pixels[::-1]
    return np.broadcast_to(pixels.clip(0, 1), (3, *image.shape[1:])).transpose(1, 2, 0)


def _draw_image(axes: Axes, pixels: Array, title: str) -> None:
    axes.imshow(pixels, interpolation="nearest")
    axes.set_title(title, fontsize=8)


def _draw_kept(axes: Axes, pixels: Array, kept: Array, number: int, grid: PatchGrid) -> None:
    if not kept.any():
        _draw_image(axes, np.full_like(pixels, 0.87), f"selection {number + 1}: not reached")
        return
    stays = grid.enlarged(kept, *pixels.shape[:2])[:, :, None]
    shown = np.where(stays, pixels, _LEFT * pixels + (1 - _LEFT) * _DROPPED)
    _draw_image(axes, shown, f"selection {number + 1}: {int(kept[grid.first :].sum())} of {grid.patches} patches")


def _draw_learners(axes: Axes, learners: Array, number: int, grid: PatchGrid, most: int, colors: Colormap) -> None:
    there = learners >= 0
    shown = np.ma.masked_array(grid.of(learners), ~grid.of(there))
    axes.imshow(shown, cmap=colors, vmin=-0.5, vmax=most + 0.5, interpolation="nearest")
    title = f"{learners[there].mean():.2f} of {most} on average" if there.any() else "not reached"
    axes.set_title(f"gate {number + 1}: {title}", fontsize=8)
    if grid.first:
        run = str(learners[0]) if there[0] else "-"
        axes.set_xlabel(f"{_CLASS_TOKEN}: {run}", fontsize=8, color=GREY)


def _learners(bundle: Bundle, learners: Array) -> int:
    """How many a gate can run."""
    declared = [count for op, count in bundle.ops.items() if op.startswith("Conditional")]
    return max([*declared, int(learners.max(initial=1)), 1])
