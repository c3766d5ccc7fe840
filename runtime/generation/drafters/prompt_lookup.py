"""Prompt look-up: what followed the last words where they stood before is guessed to follow again.

Saxena, "Prompt Lookup Decoding" (2023). One chain there; here several places make a tree, the latest first.
"""

from __future__ import annotations

from collections.abc import Sequence

from adaptrt.runtime.generation.decoding import Step
from adaptrt.runtime.generation.tree import DraftTree

_LONGEST = 4  # tokens to be found again
_SHORTEST = 2  # one token is found nearly anywhere
_PLACES = 4
_DEPTH = 16


class PromptLookup:
    """Drafts by copying from the text so far.

    Args:
        vocabulary: Number of ids.
    """

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._text: list[int] = []
        self._ends: dict[tuple[int, ...], list[int]] = {}

    def draft(self, text: Sequence[int], size: int) -> DraftTree:
        """A tree of at most ``size`` nodes below the last token of the text, the root among them.

        A longer match goes first, of equal ones the latest place; what is left of ``size`` goes to the next place.
        """
        tree = DraftTree(text[-1], self._vocabulary)
        self._read(text)
        for length in range(_LONGEST, _SHORTEST - 1, -1):
            for end in reversed(self._ends.get(tuple(text[-length:]), ())):
                node = 0
                for token in text[end : end + _DEPTH]:
                    if len(tree) >= size:
                        return tree
                    node = tree.add(node, token)
        return tree

    def observe(self, step: Step) -> None:
        """Nothing is learned: the text says it all."""

    def _read(self, text: Sequence[int]) -> None:
        """Take in what was written since the last draft; another text than before starts anew."""
        known = len(self._text)
        if len(text) < known or list(text[:known]) != self._text:
            self._text, self._ends, known = [], {}, 0
        # A place counts when something follows it: up to the last but one token.
        for end in range(max(known, 1), len(text)):
            for length in range(_SHORTEST, min(_LONGEST, end) + 1):
                places = self._ends.setdefault(tuple(text[end - length : end]), [])
                places.append(end)
                del places[:-_PLACES]
        self._text = list(text)
