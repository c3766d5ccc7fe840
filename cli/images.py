"""Image files as model inputs, by the preprocessing that the bundle declares."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from adaptrt.cli.background import Background, LaidOver, declared_background
from adaptrt.cli.errors import CommandError, one_line

if TYPE_CHECKING:
    from adaptrt.runtime.bundle.bundle_file import ImagePreprocessing, TensorSpec

_MODES = {1: "L", 3: "RGB"}
"""Pillow's name of an image with that many channels."""

_READ = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
"""Its names of the pixels that are converted: 8 bits or less of grey, a palette, RGB, CMYK or YCbCr.

Of 16 bits per channel it keeps the upper 8 where it reads RGB, or grey with alpha. Grey alone it keeps as it is,
and nothing says that its range is all 16 bits: that is refused, as fractions are, and LAB, which it cannot make grey.
"""

_STRAIGHT = {"La": "LA", "RGBa": "RGBA"}
"""What to make of colours that are multiplied by their alpha."""

_GREY_STEPS = {"1": 255, "L;2": 85, "L;4": 17}
"""PNG: what one step of grey of so few bits is in 8."""


class Picture(NamedTuple):
    """An image of the input's size.

    Attributes:
        pixels: ``uint8 [H, W, C]``.
        laid_over: whether it had pixels that are not opaque.
    """

    pixels: npt.NDArray[np.uint8]
    laid_over: bool


def read_images(
    paths: Sequence[Path], spec: TensorSpec, background: Background | None = None
) -> tuple[npt.NDArray[Any], LaidOver | None]:
    """Read image files into one batch.

    Args:
        paths: The files, one per sample.
        spec: The input, which must have a preprocessing.
        background: What to lay transparent pictures over; None for what the preprocessing declares.

    Returns:
        ``[len(paths), C, H, W]`` of the input's dtype, and how many pictures were laid over what; None if
        all were opaque.

    Raises:
        CommandError: A file is missing, no image, damaged, or of an unusual pixel format.
    """
    recipe = spec.preprocessing
    assert recipe is not None
    ground = background or declared_background(recipe)
    pictures = [read_picture(path, recipe, ground) for path in paths]
    array = normalise(np.stack([picture.pixels for picture in pictures]), recipe).astype(spec.dtype, copy=False)
    laid = sum(picture.laid_over for picture in pictures)
    return array, LaidOver(laid, len(pictures), ground) if laid else None


def read_picture(path: Path, recipe: ImagePreprocessing, background: Background) -> Picture:
    """Read one image file, of several frames the first.

    It is turned upright, laid over the background where it is not opaque, converted to grey or RGB and
    stretched to the input's size; its proportions are not kept.

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
                _check_pixels(path, image)
                _mend_transparency(image)
                whole, laid_over = _laid_over(ImageOps.exif_transpose(image), background)
                size = recipe.width, recipe.height
                pixels = np.asarray(whole.convert(_MODES[recipe.channels]).resize(size, Image.Resampling.BILINEAR))
    except CommandError:
        raise
    except Exception as error:  # Pillow's readers raise whatever the damage provokes
        raise CommandError(
            f"cannot read {str(path)!r} as an image ({one_line(error)}), expected PNG, JPEG or the like; "
            "convert it, or give a .npy file"
        ) from None
    return Picture(pixels.reshape(recipe.height, recipe.width, recipe.channels), laid_over)


def _check_pixels(path: Path, image: Image.Image) -> None:
    mode = image.mode
    if mode not in _READ:
        raise CommandError(
            f"{str(path)!r} has pixels of mode {mode}, expected 8 bits per channel of grey, RGB, CMYK or a palette; "
            "convert it, or give a .npy file"
        )
    if "transparency" in image.info and _stored(image) == "RGB;16B":
        raise CommandError(
            f"{str(path)!r} has 16 bits per channel and one colour that is transparent, expected 8 bits per channel "
            "or an alpha channel; convert it, or give a .npy file"
        )


def _mend_transparency(image: Image.Image) -> None:
    """Of a PNG of few bits Pillow spreads the pixels to 8 bits, but not the level of grey that is transparent.

    Of one bit its later versions do.
    """
    if (step := _GREY_STEPS.get(_stored(image))) is not None and "transparency" in image.info:
        image.info["transparency"] = min(image.info["transparency"] * step, 255)


def _stored(image: Image.Image) -> str:
    """How the pixels of a PNG lie in the file; nothing of other formats."""
    tiles = getattr(image, "tile", [])  # of the file; there until its pixels are read
    return str(tiles[0][3]) if image.format == "PNG" and tiles else ""


def _laid_over(image: Image.Image, background: Background) -> tuple[Image.Image, bool]:
    if image.mode in _STRAIGHT:
        image = image.convert(_STRAIGHT[image.mode])
    if not image.has_transparency_data:
        return image, False
    picture = image.convert("RGBA")
    if picture.getchannel("A").getextrema()[0] == 255:
        return image, False
    ground = Image.new("RGBA", picture.size, (*background.colour, 255))
    return Image.alpha_composite(ground, picture).convert("RGB"), True


def normalise(pixels: npt.NDArray[np.uint8], recipe: ImagePreprocessing) -> npt.NDArray[np.float32]:
    """``uint8 [B, H, W, C]`` -> ``float32 [B, C, H, W]``: ``(pixel * scale - mean) / std``."""
    mean, std = np.array(recipe.mean, np.float32), np.array(recipe.std, np.float32)
    scaled = (pixels * np.float32(recipe.scale) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)
