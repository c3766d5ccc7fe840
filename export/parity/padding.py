"""Cutting out of a sample what its inputs mark as padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ATTENTION_MASK = "attention_mask"
"""transformers' mask, of whole numbers; other masks are boolean."""


def is_mask(name: str, array: Array) -> bool:
    """Whether an input ``[B, axis]`` says which places of an axis are real."""
    return array.ndim == 2 and (array.dtype == bool or name == ATTENTION_MASK)


def without_padding(one: Mapping[str, Array], axes: Mapping[str, Sequence[str]]) -> dict[str, Array]:
    """One sample without its padding; the first place of an axis always is real.

    Args:
        one: Inputs, ``[1, ...]``.
        axes: Names of the axes of each, empty where a size is fixed. A mask ``[1, axis]`` says what is real.
    """
    arrays = dict(one)
    for name, named in axes.items():
        mask = one[name]
        if not is_mask(name, mask) or not named[1]:
            continue
        real = np.flatnonzero((mask[0] != 0) | (np.arange(mask.shape[1]) == 0))
        for other, of_other in axes.items():
            for place, axis in enumerate(of_other):
                if axis == named[1]:
                    arrays[other] = arrays[other].take(real, axis=place)
    return arrays
