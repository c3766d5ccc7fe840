"""A language model of a few ids, in NumPy: its logits depend on the last tokens, and it reads a tree as a decoder does.

A node's context is worked out from the tree's own bias and positions, not from its parents: a wrong bias gives wrong
logits.
"""

from __future__ import annotations

import numpy as np

from adaptrt.runtime.generation.tree import DraftTree

VOCABULARY = 12
_CONTEXT = 3


def logits_after(text) -> np.ndarray:
    """``[V]``, the same for the same last tokens; no two are close."""
    random = np.random.default_rng([7, *text[-_CONTEXT:]])
    return random.permutation(VOCABULARY) * 0.9


def logits_of(tree: DraftTree, text, capacity: int) -> np.ndarray:
    """``[N,V]``, where the cache holds all of the text but its last token, which is the root."""
    cached = len(text) - 1
    bias = tree.attention_bias(cached, capacity)[0, 0]
    positions = np.concatenate([np.arange(capacity), tree.position_ids(cached)[0]])
    tokens = np.concatenate([text[:cached], np.full(capacity - cached, -1), tree.tokens]).astype(int)
    rows = []
    for row in bias:
        seen = np.flatnonzero(row == 0)
        in_order = seen[np.argsort(positions[seen], kind="stable")]
        assert list(positions[in_order]) == list(range(len(in_order))), "a position is missing or there twice"
        rows.append(logits_after(tokens[in_order].tolist()))
    return np.stack(rows)
