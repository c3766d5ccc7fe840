"""Image files as model inputs, by the preprocessing that the bundle declares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from adaptrt.cli.background import Background, LaidOver, declared_background
from adaptrt.cli.errors import CommandError
from adaptrt.runtime.errors import InputError
from adaptrt.runtime.preprocessing.image import Picture, preprocess_images
from adaptrt.runtime.preprocessing.image import read_picture as read_any_picture

if TYPE_CHECKING:
    from adaptrt.runtime.bundle.bundle_file import ImagePreprocessing, TensorSpec


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
    for path in paths:
        _check_file(path)
    try:
        read = preprocess_images(paths, spec, ground.colour)
    except InputError as error:
        raise CommandError(str(error)) from None
    return read[spec.name], LaidOver(read.laid_over, len(paths), ground) if read.laid_over else None


def read_picture(path: Path, recipe: ImagePreprocessing, background: Background) -> Picture:
    """Read one image file, of several frames the first.

    Raises:
        CommandError: As ``read_images``.
    """
    _check_file(path)
    try:
        return read_any_picture(path, recipe, background.colour)
    except InputError as error:
        raise CommandError(str(error)) from None


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise CommandError(f"no file {str(path)!r}, expected an image, .npy or .npz; check its name")
