"""Token Recycling: what the model nearly wrote after a token is guessed the next time (arXiv 2408.08696).

A table keeps the likeliest successors of each token as the last call gave them, rejected nodes' rows included. The
paper's tree is fixed; here it is grown best first, from how often each rank of the table was right lately.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adaptrt.runtime.generation.decoding import Step
from adaptrt.runtime.generation.drafters.best_first import grow
from adaptrt.runtime.generation.largest_logits import largest_ids
from adaptrt.runtime.generation.tree import DraftTree

BRANCHES = 8
"""Successors kept of a token, as in the paper (section 4.1)."""
_MEMORY = 0.98  # of what was right: some fifty tokens back
_PRIOR = 0.5  # of the first rank, halved from rank to rank


class TokenRecycling:
    """Drafts from the successors seen last.

    Args:
        vocabulary: Number of ids; the table takes 4 bytes for each of ``BRANCHES`` successors.
    """

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._branches = min(BRANCHES, vocabulary)
        self._successors = np.full((vocabulary, self._branches), -1, np.int32)
        self._right = _PRIOR ** np.arange(1, self._branches + 1)

    def draft(self, text: Sequence[int], size: int) -> DraftTree:
        """A tree of at most ``size`` nodes below the last token of the text, the root among them."""
        tree = DraftTree(text[-1], self._vocabulary)
        # A row is read once for each node that ends in it; ranks differ in their chance, tokens do not.
        grow(tree, lambda path: self._after(path[-1] if path else text[-1]), size)
        return tree

    def observe(self, step: Step) -> None:
        """Keep what the model said after each node, and how often which rank was right."""
        before = int(step.tree.tokens[0])
        for following in step.tokens:
            if self._successors[before, 0] >= 0:
                self._right *= _MEMORY
                self._right[self._successors[before] == following] += 1 - _MEMORY
            before = following
        rows = largest_ids(step.logits, self._branches)
        # NumPy does not promise which of several rows for one index is written: a token's last row counts.
        last = {int(token): place for place, token in enumerate(step.tree.tokens)}
        self._successors[list(last)] = rows[list(last.values())]

    def _after(self, token: int) -> list[tuple[int, float]]:
        ranks = np.argsort(-self._right, kind="stable")
        successors = self._successors[token]
        return [(int(successors[rank]), float(self._right[rank])) for rank in ranks if successors[rank] >= 0]
