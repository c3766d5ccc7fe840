"""Image files as model inputs, by the preprocessing that the bundle declares."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from adaptrt.cli.errors import CommandError, one_line

if TYPE_CHECKING:
    from adaptrt.runtime.bundle import ImagePreprocessing, TensorSpec

_MODES = {1: "L", 3: "RGB"}
"""Pillow's name of an image with that many channels."""


def read_images(paths: Sequence[Path], spec: TensorSpec) -> npt.NDArray[Any]:
    """Read image files into one batch.

    Args:
        paths: The files, one per sample.
        spec: The input, which must have a preprocessing.

    Returns:
        ``[len(paths), C, H, W]`` of the input's dtype.

    Raises:
        CommandError: A file is missing, no image, damaged, or of an unusual pixel format.
    """
    recipe = spec.preprocessing
    assert recipe is not None
    return normalise(np.stack([read_pixels(path, recipe) for path in paths]), recipe).astype(spec.dtype, copy=False)


def read_pixels(path: Path, recipe: ImagePreprocessing) -> npt.NDArray[np.uint8]:
    """Read one image file, ``uint8 [H, W, C]``.

    It is turned upright, converted to grey or RGB (transparency is dropped) and stretched to the
    input's size; its proportions are not kept.

    Raises:
        CommandError: As ``read_images``.
    """
    if not path.is_file():
        raise CommandError(f"no file {str(path)!r}, expected an image, .npy or .npz; check its name")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                mode = image.mode
                upright = ImageOps.exif_transpose(image)
                pixels = np.asarray(
                    upright.convert(_MODES[recipe.channels]).resize(
                        (recipe.width, recipe.height), Image.Resampling.BILINEAR
                    )
                )
    except Exception as error:  # Pillow's readers raise whatever the damage provokes
        raise CommandError(
            f"cannot read {str(path)!r} as an image ({one_line(error)}), expected PNG, JPEG or the like; "
            "convert it, or give a .npy file"
        ) from None
    if mode.startswith(("I", "F")):
        raise CommandError(
            f"{str(path)!r} has pixels of mode {mode}, expected 8 bits per channel; convert it, or give a .npy file"
        )
    return pixels.reshape(recipe.height, recipe.width, recipe.channels)


def normalise(pixels: npt.NDArray[np.uint8], recipe: ImagePreprocessing) -> npt.NDArray[np.float32]:
    """``uint8 [B, H, W, C]`` -> ``float32 [B, C, H, W]``: ``(pixel * scale - mean) / std``."""
    mean, std = np.array(recipe.mean, np.float32), np.array(recipe.std, np.float32)
    scaled = (pixels * np.float32(recipe.scale) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)
