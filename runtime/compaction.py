"""What is left of the tensors between two stages when some samples have left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptrt.runtime.bundle.schema import VALID_CARRY, Carry

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Compaction:
    """How to compact the tensors that one stage takes from the one before it.

    Attributes:
        token_axes: for each carried tensor the axis along which its tokens lie, the batch's being 0;
            None where it has none. All are None where nothing says which tokens are valid.
    """

    token_axes: dict[str, int | None]

    @staticmethod
    def of(carried: Sequence[Carry]) -> Compaction:
        """The tokens' axis is the second one of ``valid``, and goes by that name in the others."""
        valid = next((carry for carry in carried if carry.name == VALID_CARRY), None)
        tokens = valid.shape[1] if valid is not None else None
        if not isinstance(tokens, str):
            return Compaction({carry.name: None for carry in carried})
        return Compaction({c.name: c.shape.index(tokens) if tokens in c.shape else None for c in carried})

    def apply(self, arrays: Mapping[str, Array], rows: Array) -> tuple[dict[str, Array], int | None]:
        """Keep some samples, and no more tokens than the one with most of them needs.

        Args:
            arrays: the carried tensors by name, [batch, ...].
            rows: int64 [kept], the samples to keep, in order; at least one.

        Returns:
            New contiguous arrays, and the number of tokens left in them; None where it is not cut.
        """
        width = None
        if any(axis is not None for axis in self.token_axes.values()):
            width = _last_valid(arrays[VALID_CARRY][rows]) + 1
        kept = {}
        for name, array in arrays.items():
            axis = self.token_axes[name]
            if axis is not None and width is not None:
                array = array[(slice(None),) * axis + (slice(width),)]
            kept[name] = np.ascontiguousarray(array[rows])
        return kept, width


def _last_valid(valid: Array) -> int:
    """The last column with a true value, 0 if there is none."""
    columns = np.flatnonzero(valid.any(axis=0))
    return int(columns[-1]) if len(columns) else 0
