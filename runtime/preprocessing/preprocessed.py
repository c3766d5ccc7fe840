"""Inputs made of what a user has, and what was done to it on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class PreprocessedInputs(dict[str, Array]):
    """Arrays by the names of inputs, as ``AdaptiveModel.run`` takes them.

    Attributes:
        cut: samples that were longer than the model takes, and lost an end.
        laid_over: pictures that are not opaque, and were laid over the background.
    """

    def __init__(self, arrays: Mapping[str, Array], *, cut: int = 0, laid_over: int = 0) -> None:
        super().__init__(arrays)
        self.cut = cut
        self.laid_over = laid_over
