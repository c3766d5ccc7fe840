"""What of a text is padding, and how long it is without; numpy alone, so that bundles are calibrated without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


class InputShape(Protocol):
    """What is said of an input, by a network or by a bundle."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def dtype(self) -> str:
        """As numpy calls it."""
        ...

    @property
    def shape(self) -> Sequence[int | str]:
        """Sizes, and names of those that vary."""
        ...


def only_axis(specs: Sequence[InputShape]) -> str | None:
    """The one named axis beside the samples'; None: there are none, or several."""
    axes = {name for spec in specs for name in spec.shape[1:] if isinstance(name, str)}
    return next(iter(axes)) if len(axes) == 1 else None


def mask_name(specs: Sequence[InputShape], axis: int | str | None) -> str | None:
    """The input that marks what is real along a named axis; None: none does."""
    if not isinstance(axis, str):
        return None
    masks = (s.name for s in specs if axis in s.shape and (s.dtype == "bool" or s.name.endswith("mask")))
    return next(masks, None)


def lengths(mask: npt.NDArray[np.generic]) -> Rows:
    """How long each text is, up to its last real token: a mask ``[B, tokens]`` -> ``[B]``."""
    real = np.asarray(mask) != 0
    longest: Rows = np.maximum(real.shape[1] - real[:, ::-1].argmax(1), 1) * real.any(1)
    return longest
