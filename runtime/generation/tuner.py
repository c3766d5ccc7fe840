"""How many drafted tokens a call verifies: the number that brings the most tokens per millisecond.

The tokens that a tree brings depend on the text, the time of a call on the device; both are followed. A drafter's trees
are grown best first, so the first s nodes are its tree of s nodes. What was drafted is compared with the text that came
of it whether it was verified or not, so every size is judged after every token, also while nothing is drafted for the
model: that is how drafting comes back by itself, and why no call is spent on trying.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from adaptrt.runtime.errors import InputError
from adaptrt.runtime.generation.tree import DraftTree

_TOKENS_MEMORY = 0.9  # of calls: some ten of them
_DEVICE_MEMORY = 0.8
_FIRST_CALLS = 5  # of a size after another one
_GAIN = 1.03  # by which another size must be better: smaller differences are noise, and changing costs


class DraftTuner:
    """Follows tokens and time by the number of nodes, and chooses among the sizes.

    Args:
        milliseconds: Of a call by its number of nodes, as profiled; 1 is plain decoding and must be there.
        drafting: Milliseconds that a draft takes on the host.

    Raises:
        InputError: There is no time for 1 node, or one is not above 0.
    """

    def __init__(self, milliseconds: Mapping[int, float], drafting: float = 0.0) -> None:
        if 1 not in milliseconds:
            raise InputError(f"got times for {sorted(milliseconds)} nodes, expected one for 1: profile plain decoding")
        for size, time in milliseconds.items():
            if size < 1 or not (0 < time < math.inf):
                raise InputError(f"got {time} ms for {size} nodes, expected sizes from 1 and times above 0")
        self._profile = dict(sorted(milliseconds.items()))
        self._drafting = drafting
        self._tokens = dict.fromkeys(self._profile, 1.0)
        self._device = 1.0
        self._shape = dict.fromkeys(self._profile, 1.0)
        self._first: list[float] | None = None
        self._waiting: list[tuple[DraftTree, list[int]]] = []
        self.size = 1

    @property
    def largest(self) -> int:
        """Nodes to draft, of which the first ``size`` are verified."""
        return max(self._profile)

    def tokens(self, size: int) -> float:
        """Expected of a call, at least 1."""
        return self._tokens[size]

    def milliseconds(self, size: int) -> float:
        """Expected of a call, its draft among them where there is one."""
        return self._profile[size] * self._device * self._shape[size] + (self._drafting if size > 1 else 0.0)

    def drafted(self, tree: DraftTree) -> None:
        """Remember a tree of ``largest`` nodes or fewer, to be compared with what is written from its root on."""
        self._waiting.append((tree, [0]))

    def wrote(self, tokens: Sequence[int]) -> None:
        """Compare what was drafted with the tokens that followed, and choose the size anew."""
        for token in tokens:
            waiting = []
            for tree, rows in self._waiting:
                node = tree.child(rows[-1], token)
                if node is None:
                    self._judge(rows)
                else:
                    waiting.append((tree, [*rows, node]))
            self._waiting = waiting
        self._choose()

    def took(self, size: int, milliseconds: float) -> None:
        """Take in how long a call of so many nodes took, its draft not among it.

        Time that changes with the size is the size's, not as profiled; time that changes without it is the device's,
        and all sizes share it. The median of the first calls counts, as one of them may have met something else.
        """
        ratio = milliseconds / (self._profile[size] * self._device)
        if self._first is None:
            self._device *= 1 + (1 - _DEVICE_MEMORY) * (ratio / self._shape[size] - 1)
            return
        self._first.append(ratio)
        self._shape[size] = statistics.median(self._first)
        if len(self._first) == _FIRST_CALLS:
            self._first = None

    def _judge(self, rows: Sequence[int]) -> None:
        """Nodes on a path have rising numbers, so a tree's first s nodes hold the path's first part."""
        for size in self._tokens:
            stood = sum(row < size for row in rows)  # the root stands for the token that follows the last one
            self._tokens[size] += (1 - _TOKENS_MEMORY) * (stood - self._tokens[size])

    def _choose(self) -> None:
        speed = {size: self._tokens[size] / self.milliseconds(size) for size in self._profile}
        best = max(speed, key=lambda size: speed[size])
        if speed[best] > speed[self.size] * _GAIN:
            chosen = best
        elif speed[self.size] < speed[1] * _GAIN:
            chosen = 1  # what does not pay clearly is not done
        else:
            chosen = self.size
        if chosen != self.size:
            self.size, self._first = chosen, []
