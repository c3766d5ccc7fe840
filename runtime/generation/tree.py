"""Drafted tokens as a tree that one call of a decoder verifies.

The graph of a decoder gives out the new rows of its cache and takes the pattern of attention as an input, so a tree
is nothing but positions and a bias: each node sees the cache, its ancestors and itself (SpecInfer, arXiv 2305.09781,
section 4.2, "tree attention").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptrt.runtime.errors import InputError, shown

MASKED = np.float32(-1e9)
"""Added to the scores that must not count; finite, so that a row without a key stays a number."""


class DraftTree:
    """A root, which is the last token of the text, and guesses of what follows; nodes are numbered as they come.

    Siblings hold different tokens: adding a token twice gives the node that is there. So whatever a drafter proposes,
    a path of tokens is one path of nodes.

    Args:
        root: The last token of the text. Its row is not in the cache yet.
        vocabulary: Number of ids.

    Raises:
        InputError: The root is outside the vocabulary.
    """

    def __init__(self, root: int, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._depths: list[int] = []
        self._children: list[dict[int, int]] = []
        self._append(self._checked(root), -1, 0)

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """``[N]``, the root first."""
        return np.array(self._tokens, np.int64)

    @property
    def parents(self) -> npt.NDArray[np.int64]:
        """``[N]``, the number of each node's parent, which is smaller than its own; -1 for the root."""
        return np.array(self._parents, np.int64)

    @property
    def depths(self) -> npt.NDArray[np.int64]:
        """``[N]``, 0 for the root."""
        return np.array(self._depths, np.int64)

    def add(self, parent: int, token: int) -> int:
        """The node of a token below another node; a new one where there is none.

        Raises:
            InputError: There is no such parent, or the token is outside the vocabulary.
        """
        if not 0 <= parent < len(self._tokens):
            raise InputError(
                f"got {shown(parent)} as the parent of a drafted token, expected a node that was added before "
                f"(0 to {len(self._tokens) - 1}); mend the drafter"
            )
        token = self._checked(token)
        node = self._children[parent].get(token)
        return self._append(token, parent, self._depths[parent] + 1) if node is None else node

    def add_path(self, tokens: Sequence[int]) -> int:
        """The last node of a path from the root."""
        node = 0
        for token in tokens:
            node = self.add(node, token)
        return node

    def child(self, node: int, token: int) -> int | None:
        """The child that holds a token."""
        return self._children[node].get(token)

    def path(self, node: int) -> list[int]:
        """The drafted tokens from below the root to a node."""
        tokens: list[int] = []
        while node:
            tokens.append(self._tokens[node])
            node = self._parents[node]
        return tokens[::-1]

    def ancestry(self) -> npt.NDArray[np.bool_]:
        """``[N,N]``, whether the row's node sees the column's: its ancestors and itself."""
        seen = np.eye(len(self._tokens), dtype=np.bool_)
        for node, parent in enumerate(self._parents[1:], start=1):
            seen[node] |= seen[parent]
        return seen

    def position_ids(self, length: int) -> npt.NDArray[np.int64]:
        """``[1,N]``, for a cache that holds ``length`` tokens."""
        return (self.depths + length)[np.newaxis]

    def attention_bias(self, length: int, capacity: int) -> npt.NDArray[np.float32]:
        """``[1,1,N,capacity+N]``: 0 where a node attends, ``MASKED`` elsewhere.

        Args:
            length: Tokens in the cache; all of them come before the root.
            capacity: Rows of the cache, filled or not.

        Raises:
            InputError: The cache holds more than its capacity.
        """
        if not 0 <= length <= capacity:
            raise InputError(f"got {length} tokens in a cache of {capacity} rows, expected 0 to {capacity}")
        bias = np.full((1, 1, len(self), capacity + len(self)), MASKED, np.float32)
        bias[..., :length] = 0
        bias[0, 0, :, capacity:][self.ancestry()] = 0
        return bias

    def _append(self, token: int, parent: int, depth: int) -> int:
        node = len(self._tokens)
        self._tokens.append(token)
        self._parents.append(parent)
        self._depths.append(depth)
        self._children.append({})
        if node:
            self._children[parent][token] = node
        return node

    def _checked(self, token: Any) -> int:
        if isinstance(token, (int, np.integer)) and 0 <= token < self._vocabulary:
            return int(token)
        raise InputError(f"got {shown(token)} as a token, expected an id from 0 to {self._vocabulary - 1}")
