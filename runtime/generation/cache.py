"""The rows of keys and values that stand, kept by the runtime: a call reads them, and only accepted tokens come in.

Rejected tokens never enter, so nothing has to be taken back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from adaptrt.runtime.errors import InputError

BUCKET = 256
"""Rows by which a cache grows: an engine sees few different sizes."""


class KeyValueCache:
    """Of one text.

    Args:
        layers: Of the decoder.
        key_heads: Heads of keys and values.
        head_width: Of each.
        context: Most tokens of the text.

    Attributes:
        context: As given.
        length: Tokens in it.
    """

    def __init__(self, layers: int, key_heads: int, head_width: int, context: int) -> None:
        self.context = context
        self.length = 0
        self._tensors = [np.zeros((1, key_heads, 0, head_width), np.float32) for _ in range(2 * layers)]

    @property
    def capacity(self) -> int:
        """Rows that there is memory for."""
        return self._tensors[0].shape[2]

    @property
    def tensors(self) -> Sequence[npt.NDArray[np.float32]]:
        """``[1, key heads, capacity, head width]`` each: key, value, layer after layer; from ``length`` on unread."""
        return self._tensors

    def bytes_for(self, tokens: int) -> int:
        """Memory that a text of so many tokens takes here."""
        _, heads, _, width = self._tensors[0].shape
        return len(self._tensors) * heads * self._rows_for(tokens) * width * 4

    def commit(self, new: Sequence[npt.NDArray[np.float32]], rows: Sequence[int]) -> None:
        """Take in rows of a call's new ones, in the order of the text.

        Args:
            new: ``[1, key heads, S, head width]`` each, as ``tensors`` are.
            rows: Which of the S.

        Raises:
            InputError: The text would be longer than the context; nothing is taken in.
        """
        end = self.length + len(rows)
        if end > self.context:
            raise InputError(
                f"got a text of {end} tokens, expected at most {self.context}, the model's context; shorten the prompt "
                "or ask for fewer tokens"
            )
        if end > self.capacity:
            self._grow(self._rows_for(end))
        for kept, added in zip(self._tensors, new, strict=True):
            kept[:, :, self.length : end] = added[:, :, list(rows)]
        self.length = end

    def _rows_for(self, tokens: int) -> int:
        return min(-(-tokens // BUCKET) * BUCKET, self.context)

    def _grow(self, rows: int) -> None:
        for place, old in enumerate(self._tensors):
            grown = np.zeros((*old.shape[:2], rows, old.shape[3]), np.float32)
            grown[:, :, : self.length] = old[:, :, : self.length]
            self._tensors[place] = grown
