"""How far the samples of a batch are padded."""

from __future__ import annotations

from collections.abc import Mapping

from adaptrt.runtime.bundle.schema import Axis


def padded_size(size: int | str, longest: int, axes: Mapping[str, Axis]) -> int:
    """The size of a batch's axis.

    Args:
        size: as the input declares it: a number, or the name of an axis.
        longest: of the batch.
        axes: limits by name.

    Returns:
        A fixed size itself; else the longest sample's, and no less than the axis takes.
    """
    if isinstance(size, int):
        return size
    axis = axes.get(size)
    return max(longest, axis.shortest if axis is not None else 0)
