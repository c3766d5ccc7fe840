"""Files given on the command line as the inputs of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from adaptrt.cli.errors import CommandError, one_line

if TYPE_CHECKING:
    from adaptrt.cli.background import Background, LaidOver
    from adaptrt.runtime.bundle.bundle_file import TensorSpec

Array = npt.NDArray[Any]

ARRAY_FILES = (".npy", ".npz")
"""How the name of a file with arrays ends; every other one is taken for an image."""


@dataclass(frozen=True)
class Inputs:
    """What was read.

    Attributes:
        arrays: of each input, by its name.
        laid_over: pictures that are not opaque; None where there are none.
    """

    arrays: dict[str, Array]
    laid_over: LaidOver | None = None


def read_inputs(paths: Sequence[Path], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The arrays of ``read_files``, with the background that the bundle declares.

    Raises:
        CommandError: As there.
    """
    return read_files(paths, specs).arrays


def read_files(paths: Sequence[Path], specs: Sequence[TensorSpec], background: Background | None = None) -> Inputs:
    """Read the inputs of a bundle from an array file, or from image files that make one batch.

    An ``.npz`` file holds the inputs by name (other arrays in it are not read); for a bundle of one
    input a single array of any name will do. Nothing is cast or reshaped. A note says which pictures
    were laid over what.

    Args:
        paths: The files.
        specs: The inputs.
        background: What pictures that are not opaque are laid over; None for what the bundle declares.

    Raises:
        CommandError: A file is missing or damaged, lacks an input, or the bundle takes no images; or there is a
            background for arrays.
    """
    if any(path.suffix.lower() in ARRAY_FILES for path in paths):
        if len(paths) > 1:
            raise CommandError(
                f"got {len(paths)} files with {_first_array(paths)} among them, expected one .npy or .npz, "
                "or images; put all samples into one array"
            )
        if background is not None:
            raise CommandError(f"got a background with {str(paths[0])!r}, expected images; leave --background out")
        return Inputs(_read_arrays(paths[0], specs))
    if len(specs) != 1 or specs[0].preprocessing is None:
        names = ", ".join(repr(spec.name) for spec in specs)
        raise CommandError(
            f"got {str(paths[0])!r}, expected a .npz file: this bundle's inputs are {names} and it does not "
            "say how to make them of images; save them with numpy.savez"
        )
    from adaptrt.cli.images import read_images
    from adaptrt.cli.output import note

    array, laid_over = read_images(paths, specs[0], background)
    if laid_over is not None:
        note(f"note: {laid_over}")
    return Inputs({specs[0].name: array}, laid_over)


def _first_array(paths: Sequence[Path]) -> str:
    return next(str(path) for path in paths if path.suffix.lower() in ARRAY_FILES)


def _read_arrays(path: Path, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    if not path.is_file():
        raise CommandError(f"no file {str(path)!r}, expected a .npy or .npz file; check its name")
    wanted = [spec.name for spec in specs]
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = {"": loaded}
        else:
            with loaded:
                chosen = wanted if set(wanted) <= set(loaded.files) else loaded.files[:2]
                arrays = {name: loaded[name] for name in chosen}
    except Exception as error:  # numpy's readers raise whatever the damage provokes
        raise CommandError(
            f"cannot read {str(path)!r} ({one_line(error)}), expected arrays; write it with numpy.save or numpy.savez"
        ) from None
    if arrays.keys() == set(wanted):
        return arrays
    if len(arrays) == len(wanted) == 1:
        return {wanted[0]: next(iter(arrays.values()))}
    got = ", ".join(repr(name) for name in arrays if name) or "one array without a name"
    names = ", ".join(repr(name) for name in wanted)
    raise CommandError(f"{str(path)!r} holds {got}, expected {names}; save them by name with numpy.savez")
