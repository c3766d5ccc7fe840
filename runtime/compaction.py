"""What is left of the tensors between two stages when some samples have left."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptrt.runtime.bundle.schema import Bundle, Carry

Array = np.ndarray[Any, Any]


def masks_of(bundle: Bundle) -> dict[str, str]:
    """The sets of tokens by the carried tensors that say which of them are real."""
    return {tokens.valid: name for name, tokens in bundle.tokens.items() if tokens.valid is not None}


@dataclass(frozen=True)
class Compaction:
    """How to compact the tensors that one stage takes.

    Attributes:
        token_axes: for each carried tensor the axes along which tokens lie, the batch's being 0, each with the
            carried mask that says which of them are valid. None are where nothing says so.
    """

    token_axes: dict[str, tuple[tuple[int, str], ...]]

    @staticmethod
    def of(carried: Sequence[Carry], masks: Collection[str], whole: Collection[int | str] = ()) -> Compaction:
        """The tokens' axis is the second one of a mask, and goes by that name in the others.

        Args:
            carried: what the stage takes.
            masks: names of those that are masks.
            whole: axes that stay as they are, as outputs of the bundle have them.
        """
        axes = {c.shape[1]: c.name for c in carried if c.name in masks and isinstance(c.shape[1], str)}
        axes = {size: mask for size, mask in axes.items() if size not in whole}
        return Compaction({
            c.name: tuple((axis, axes[size]) for axis, size in enumerate(c.shape) if axis and size in axes)
            for c in carried
        })  # fmt: skip

    def apply(self, arrays: Mapping[str, Array], rows: Array) -> tuple[dict[str, Array], dict[str, int]]:
        """Keep some samples, and no more tokens than the one with most of them needs.

        Args:
            arrays: the carried tensors by name, [batch, ...].
            rows: int64 [kept], the samples to keep, in order; at least one.

        Returns:
            New contiguous arrays, and by mask the number of tokens left in them.
        """
        widths = {mask: _last_valid(arrays[mask][rows]) + 1 for mask in self._masks()}
        kept = {name: np.ascontiguousarray(self.cut(name, array, widths)[rows]) for name, array in arrays.items()}
        return kept, widths

    def cut(self, name: str, array: Array, widths: Mapping[str, int]) -> Array:
        """A carried tensor with so many tokens, by mask."""
        index = [slice(None)] * array.ndim
        for axis, mask in self.token_axes[name]:
            index[axis] = slice(widths[mask])
        return array[tuple(index)]

    def _masks(self) -> Iterable[str]:
        return {mask for axes in self.token_axes.values() for _, mask in axes}


def _last_valid(valid: Array) -> int:
    """The last column with a true value, 0 if there is none."""
    columns = np.flatnonzero(valid.any(axis=0))
    return int(columns[-1]) if len(columns) else 0
