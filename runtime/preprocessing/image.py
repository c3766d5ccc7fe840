"""Pictures as inputs, by Pillow and numpy: the same bits as transformers' image processors on Pillow give."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np
import numpy.typing as npt

from adaptrt.runtime.bundle.preprocessing_schema import ImagePreprocessing
from adaptrt.runtime.bundle.schema import TensorSpec
from adaptrt.runtime.errors import InputError, one_line
from adaptrt.runtime.preprocessing.preprocessed import PreprocessedInputs

if TYPE_CHECKING:
    from PIL import Image

Array = np.ndarray[Any, Any]
Colour = tuple[int, int, int]
"""Red, green and blue, 0..255."""
PictureSource = Union[str, Path, Array, "Image.Image"]
"""A file; a ``uint8`` array [H, W], or [H, W, C] with 1, 3 (RGB) or 4 (RGBA) channels; or a picture of Pillow's."""

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

_MOST_PIXELS = 2**26
"""Of a picture after it was resized: a line of pixels becomes very long where its width is made longer."""

_ALL_PIXELS = np.arange(256, dtype=np.float64)


class Picture(NamedTuple):
    """A picture of the input's size.

    Attributes:
        pixels: ``uint8 [H, W, C]``, grey or RGB.
        laid_over: whether it had pixels that are not opaque.
    """

    pixels: npt.NDArray[np.uint8]
    laid_over: bool


def preprocess_images(
    sources: Sequence[PictureSource], spec: TensorSpec, background: Colour | None = None
) -> PreprocessedInputs:
    """An input for a batch of pictures, [len(sources), C, H, W] of the input's dtype.

    Args:
        sources: the pictures; may be empty.
        spec: the input, which must have a preprocessing.
        background: what pictures that are not opaque are laid over; None for what the preprocessing declares.

    Returns:
        The array by the input's name, and how many pictures were ``laid_over``.

    Raises:
        InputError: a file is missing, damaged or no picture, pixels are of an unusual format, an array is none of
            pixels, a picture would become too large, or Pillow is missing.
    """
    recipe = spec.preprocessing
    if recipe is None:
        raise InputError(
            f"input {spec.name!r}: got pictures, expected an array; the bundle does not say how to make it"
        )
    if isinstance(sources, (str, bytes, Path)) or not isinstance(sources, (Sequence, np.ndarray)):
        raise InputError(f"pictures: got {type(sources).__name__}, expected a list of them; pass [picture] for one")
    pictures = [read_picture(source, recipe, background, name=f"picture {n}") for n, source in enumerate(sources)]
    shape = (0, recipe.height, recipe.width, recipe.channels)
    pixels = np.stack([picture.pixels for picture in pictures]) if pictures else np.zeros(shape, np.uint8)
    array = normalise(pixels, recipe).astype(spec.dtype, copy=False)
    return PreprocessedInputs({spec.name: array}, laid_over=sum(picture.laid_over for picture in pictures))


def read_picture(
    source: PictureSource, recipe: ImagePreprocessing, background: Colour | None = None, *, name: str = "the picture"
) -> Picture:
    """Read one picture, of several frames the first.

    It is turned upright, laid over the background where it is not opaque, converted to grey or RGB, resized, and cut
    or padded to the input's size.

    Args:
        source: the picture.
        recipe: how.
        background: as for ``preprocess_images``.
        name: of a picture that is no file, for messages.

    Raises:
        InputError: as ``preprocess_images``.
    """
    try:
        from PIL import Image
    except ImportError:
        raise InputError("got pictures without Pillow, expected it; install adaptrt[image], or feed arrays") from None
    place = repr(str(source)) if isinstance(source, (str, Path)) else name
    ground = _declared(recipe) if background is None else background
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if isinstance(source, Image.Image):
                return _picture(source, recipe, ground, place)
            if not isinstance(source, (str, Path)):
                return _picture(_from_array(source, place), recipe, ground, place)
            if not Path(source).is_file():
                raise InputError(f"no file {place}, expected a picture; check its name")
            with Image.open(source) as image:
                _check_transparency(image, place)
                _mend_transparency(image)
                return _picture(image, recipe, ground, place)
    except InputError:
        raise
    except Exception as error:  # Pillow's readers raise whatever the damage provokes
        raise InputError(
            f"cannot read {place} as an image ({one_line(error)}), expected PNG, JPEG or the like; "
            "convert it, or give a .npy file"
        ) from None


def normalise(pixels: npt.NDArray[np.uint8], recipe: ImagePreprocessing) -> npt.NDArray[np.float32]:
    """``uint8 [B, H, W, C]``, grey or RGB -> ``float32 [B, C, H, W]``: ``(pixel * scale - mean) / std``.

    A channel has 256 values, so each is computed once: the product in float64, rounded to float32, then the rest.
    """
    mean, std = np.array(recipe.mean, np.float32), np.array(recipe.std, np.float32)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not finite is refused as an input
        scaled = (_ALL_PIXELS * recipe.scale).astype(np.float32)
        values = np.broadcast_to((scaled - mean[:, None]) / std[:, None], (recipe.channels, 256))
    array = np.empty((len(pixels), recipe.channels, *pixels.shape[1:3]), np.float32)
    for channel in range(recipe.channels):
        read = channel if recipe.order == "rgb" else recipe.channels - 1 - channel
        array[:, channel] = values[channel][pixels[..., read]]
    return array


def _declared(recipe: ImagePreprocessing) -> Colour:
    red, green, blue = recipe.background if len(recipe.background) == 3 else recipe.background * 3
    return red, green, blue


def _picture(image: Image.Image, recipe: ImagePreprocessing, ground: Colour, place: str) -> Picture:
    from PIL import ImageOps

    if image.mode not in _READ:
        raise InputError(
            f"{place} has pixels of mode {image.mode}, expected 8 bits per channel of grey, RGB, CMYK or a palette; "
            "convert it, or give a .npy file"
        )
    whole, laid_over = _laid_over(ImageOps.exif_transpose(image), ground)
    whole = whole.convert(_MODES[recipe.channels])
    size = _size(whole.height, whole.width, recipe)
    for rows, columns in (size, (recipe.height, recipe.width)):
        if rows * columns > _MOST_PIXELS:
            raise InputError(
                f"{place} has {whole.width} x {whole.height} pixels and would become {columns} x {rows}, "
                f"expected at most {_MOST_PIXELS} pixels; crop it"
            )
    if size != (whole.height, whole.width):
        whole = whole.resize(size[::-1], _filter(recipe.resample))
    pixels = np.asarray(whole).reshape(*size, recipe.channels)
    return Picture(_centre(pixels, recipe.height, recipe.width), laid_over)


def _size(height: int, width: int, recipe: ImagePreprocessing) -> tuple[int, int]:
    """Rows and columns after resizing."""
    if recipe.resize == "stretch":
        rows, columns = recipe.size or (recipe.height, recipe.width)
        return rows, columns
    if recipe.resize == "none":
        return height, width
    (edge,) = recipe.size
    if width <= height:
        return int(edge * height / width), edge
    return edge, int(edge * width / height)


def _filter(name: str) -> Image.Resampling:
    from PIL import Image

    return Image.Resampling[name.upper()]


def _centre(pixels: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """The middle of a picture, padded with pixels of 0 where the picture is smaller; an odd one goes before."""
    for axis, wanted in ((0, height), (1, width)):
        given = pixels.shape[axis]
        if given > wanted:
            start = (given - wanted) // 2
            pixels = pixels[start : start + wanted] if axis == 0 else pixels[:, start : start + wanted]
        elif given < wanted:
            before = -((given - wanted) // 2)
            around = [(0, 0)] * 3
            around[axis] = (before, wanted - given - before)
            pixels = np.pad(pixels, around)
    return pixels


def _from_array(array: object, place: str) -> Image.Image:
    from PIL import Image

    fine = isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.size > 0
    fine = fine and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in {1, 3, 4}))  # type: ignore[attr-defined]
    if not fine:
        got = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(
            f"{place}: got {got}, expected a path, a picture of Pillow's, or uint8 [height, width] or "
            "[height, width, 1, 3 or 4]; convert it"
        )
    assert isinstance(array, np.ndarray)
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _check_transparency(image: Image.Image, place: str) -> None:
    if "transparency" in image.info and _stored(image) == "RGB;16B":
        raise InputError(
            f"{place} has 16 bits per channel and one colour that is transparent, expected 8 bits per channel "
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


def _laid_over(image: Image.Image, ground: Colour) -> tuple[Image.Image, bool]:
    from PIL import Image as Images

    if image.mode in _STRAIGHT:
        image = image.convert(_STRAIGHT[image.mode])
    if not image.has_transparency_data:
        return image, False
    picture = image.convert("RGBA")
    if picture.getchannel("A").getextrema()[0] == 255:
        return image, False
    under = Images.new("RGBA", picture.size, (*ground, 255))
    return Images.alpha_composite(under, picture).convert("RGB"), True
