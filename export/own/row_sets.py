"""Which sets of rows a network's calls of ``take`` are about, so that a bundle can say what each of them decided.

A call takes from all rows of an input's axis, or from what another call left of them. Where a later call takes from
what is left, the rows that were taken have replaced the set, as in pruning; where none does, the others only skip
work, as in routing. A call whose rows cannot be followed to an axis of the inputs, or to a fixed number of rows, is
not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adaptrt.models.staged_network import Axis
from adaptrt.models.tokens import TOKENS


@dataclass(frozen=True)
class RowSet:
    """What a call takes from.

    Attributes:
        name: Of the set.
        size: How many rows a sample has before any call: a number, or an axis of the inputs.
        nested: Whether those taken replace the set for what follows.
    """

    name: str
    size: Axis
    nested: bool


def follow_rows(sources: Sequence[Axis | None], taken: Sequence[str], axes: Sequence[str]) -> list[RowSet | None]:
    """The set of each call.

    Args:
        sources: The axis that each call takes from, in order; a number where that is fixed, None where it is neither
            an input's nor another call's.
        taken: The axis that each call gives.
        axes: Those of the inputs.

    Returns:
        None for a call that cannot be followed.
    """
    left: dict[str, Axis] = {}  # what there is of each set, as an axis
    sizes: dict[str, Axis] = {}
    sets: list[RowSet | None] = []
    for number, source in enumerate(sources):
        nested = taken[number] in sources[number + 1 :]
        name = next((name for name, axis in left.items() if axis == source), None)
        if source is not None and name is None and (isinstance(source, int) or source in axes):
            name = _new_name(source, left)
            sizes[name] = source
        if name is None or source is None:
            sets.append(None)
            continue
        left[name] = taken[number] if nested else source
        sets.append(RowSet(name, sizes[name], nested))
    return sets


def _new_name(source: Axis, known: dict[str, Axis]) -> str:
    """A name that no set has, and not that of the tokens of our own networks, which are followed in parity."""
    plain = f"{source} rows" if isinstance(source, int) or source == TOKENS else source
    names = [plain, *(f"{plain} {number}" for number in range(2, len(known) + 3))]
    return next(name for name in names if name not in known)
