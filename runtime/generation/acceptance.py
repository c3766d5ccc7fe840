"""Which drafted tokens stand: those that plain decoding would have written.

A node's row of logits is what the model says after the text and the node's path. Walking down from the root, a token
is chosen from each row as plain decoding would choose it, and the walk goes on where a child holds that token. Each
step takes one choice, in the order of the text, so a seeded sampler draws the same numbers with and without drafts and
writes the same text: stronger than equal in distribution (SpecInfer, arXiv 2305.09781, algorithm 2, gives the latter).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from adaptrt.runtime.errors import InputError
from adaptrt.runtime.generation.tree import DraftTree

Choose = Callable[[int, Sequence[int]], int]
"""From a node's number and the tokens written since the root (none at the root) to the next token."""


class Accepted(NamedTuple):
    """What a call brought.

    Attributes:
        tokens: New tokens of the text, at least one: the drafted ones that stand, then the one that follows them.
        rows: Nodes whose rows belong into the cache, the root first; all but the last of ``tokens`` have theirs there.
        stopped: Whether the last token is one to stop at.
    """

    tokens: list[int]
    rows: list[int]
    stopped: bool


def accept(tree: DraftTree, choose: Choose, *, stop: Collection[int] = (), limit: int) -> Accepted:
    """Walk down the tree as far as the choices go.

    Args:
        tree: What was verified.
        choose: Called once for each new token.
        stop: Ids to stop at; the text ends with the first of them, also inside a drafted path.
        limit: Tokens that may still be written, at least 1.

    Raises:
        InputError: The limit is below 1.
    """
    if limit < 1:
        raise InputError(f"got room for {limit} tokens, expected at least 1")
    tokens: list[int] = []
    rows: list[int] = []
    node: int | None = 0
    while node is not None and len(tokens) < limit:
        rows.append(node)
        token = choose(node, tuple(tokens))
        tokens.append(token)
        if token in stop:
            return Accepted(tokens, rows, stopped=True)
        node = tree.child(node, token)
    return Accepted(tokens, rows, stopped=False)
