"""The tree of a given size that holds the most expected tokens (DySpec, arXiv 2410.11744, algorithm 1)."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from adaptrt.runtime.generation.tree import DraftTree

Candidates = Callable[[Sequence[int]], Sequence[tuple[int, float]]]
"""From a path of drafted tokens to the tokens that may follow it, the likeliest first, each with its probability."""


def grow(tree: DraftTree, candidates: Candidates, size: int) -> None:
    """Add nodes to a root, the likeliest path next, until the tree has ``size`` nodes or nothing is left.

    A node's value is the probability that its whole path stands, and a tree's is the sum, which is the number of
    drafted tokens to be expected. No path is likelier than its parent, so taking the likeliest first gives the best
    tree of every size: the first s nodes are the best tree of s.
    """
    waiting: list[tuple[float, int, int, int, Sequence[tuple[int, float]]]] = []
    added = 0  # breaks ties: of equal values the earlier one first

    def wait(value: float, parent: int, place: int, options: Sequence[tuple[int, float]]) -> None:
        nonlocal added
        if place < len(options) and (probability := options[place][1]) > 0:
            heapq.heappush(waiting, (-value * probability, added, parent, place, options))
            added += 1

    wait(1.0, 0, 0, candidates(()))
    while waiting and len(tree) < size:
        negative, _, parent, place, options = heapq.heappop(waiting)
        token, probability = options[place]
        node = tree.add(parent, token)
        wait(-negative / probability, parent, place + 1, options)
        if len(tree) < size:
            wait(-negative, node, 0, candidates(tree.path(node)))
