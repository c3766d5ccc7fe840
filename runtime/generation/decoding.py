"""Writing a text: the prompt in parts, then call after call, each verifying what was drafted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from adaptrt.runtime.errors import InputError
from adaptrt.runtime.generation.acceptance import accept
from adaptrt.runtime.generation.cache import KeyValueCache
from adaptrt.runtime.generation.sampling import Sampler
from adaptrt.runtime.generation.tree import DraftTree

CHUNK = 256
"""Tokens of a prompt that one call reads."""


class DecoderInputs(NamedTuple):
    """Of one call of a decoder's graph, as ``models/decoder.py`` has them, for one text."""

    input_ids: npt.NDArray[np.int64]
    position_ids: npt.NDArray[np.int64]
    attention_bias: npt.NDArray[np.float32]
    logit_rows: npt.NDArray[np.int64]


Call = Callable[
    [DecoderInputs, Sequence[npt.NDArray[np.float32]]],
    tuple[npt.NDArray[np.float32], Sequence[npt.NDArray[np.float32]]],
]
"""From the inputs and the cache's tensors to logits ``[1, L, V]`` and the new rows, key and value of each layer."""


class Step(NamedTuple):
    """What one call brought.

    Attributes:
        tokens: New tokens of the text, at least one.
        tree: What it verified: the root alone without a draft.
        logits: ``[N, V]``, of its nodes.
    """

    tokens: list[int]
    tree: DraftTree
    logits: npt.NDArray[np.float32]


class Drafter(Protocol):
    """What guesses the next tokens."""

    def draft(self, text: Sequence[int], size: int) -> DraftTree:
        """A tree of at most ``size`` nodes whose root is the last token of the text."""

    def observe(self, step: Step) -> None:
        """Learn from a call, drafted or not."""


def decode(
    call: Call,
    cache: KeyValueCache,
    prompt: Sequence[int],
    *,
    vocabulary: int,
    max_new: int,
    sampler: Sampler | None = None,
    stop: Collection[int] = (),
    drafter: Drafter | None = None,
    size: Callable[[], int] = lambda: 1,
) -> Iterator[Step]:
    """Continue a prompt. The text is the same with every drafter.

    Args:
        call: Runs the decoder.
        cache: An empty one.
        prompt: Ids, at least one.
        vocabulary: Number of ids.
        max_new: Tokens to write, at least 1; fewer where one of ``stop`` comes.
        sampler: None takes the likeliest token.
        stop: Ids that end the text; the first of them is its last token.
        drafter: None drafts nothing.
        size: Nodes of the next call, the root among them; asked before each.

    Yields:
        A step for each call after the prompt's.

    Raises:
        InputError: The prompt is empty, has ids outside the vocabulary, or does not fit into the context together with
            ``max_new``; said before anything is computed.
    """
    _check(cache, prompt, vocabulary, max_new)
    text = [int(token) for token in prompt]
    chooser = Sampler() if sampler is None else sampler
    for start in range(0, len(text) - 1, CHUNK):
        part = DraftTree(text[start], vocabulary)
        part.add_path(text[start + 1 : min(start + CHUNK, len(text) - 1)])
        _, new = _run(call, cache, part, rows=[len(part) - 1])
        cache.commit(new, range(len(part)))
    end = len(text) + max_new
    while len(text) < end:
        nodes = size() if drafter is not None else 1
        tree = DraftTree(text[-1], vocabulary) if drafter is None or nodes < 2 else drafter.draft(text, nodes)
        logits, new = _run(call, cache, tree, rows=range(len(tree)))
        result = accept(tree, lambda node, _, rows=logits: chooser.choose(rows[node]), stop=stop, limit=end - len(text))  # type: ignore[misc]
        cache.commit(new, result.rows)
        text += result.tokens
        step = Step(result.tokens, tree, logits)
        if drafter is not None:
            drafter.observe(step)
        yield step
        if result.stopped:
            return


def _run(
    call: Call, cache: KeyValueCache, tree: DraftTree, rows: Sequence[int]
) -> tuple[npt.NDArray[np.float32], Sequence[npt.NDArray[np.float32]]]:
    inputs = DecoderInputs(
        tree.tokens[np.newaxis],
        tree.position_ids(cache.length),
        tree.attention_bias(cache.length, cache.capacity),
        np.array([rows], np.int64),
    )
    logits, new = call(inputs, cache.tensors)
    return logits[0], new


def _check(cache: KeyValueCache, prompt: Sequence[int], vocabulary: int, max_new: int) -> None:
    if len(prompt) == 0:
        raise InputError("got an empty prompt, expected at least one token; begin with the text's first one")
    if max_new < 1:
        raise InputError(f"got max_new={max_new}, expected at least 1")
    for place, token in enumerate(prompt):
        if not 0 <= token < vocabulary:
            raise InputError(f"got id {token} at place {place} of the prompt, expected 0 to {vocabulary - 1}")
    if len(prompt) + max_new > cache.context:
        raise InputError(
            f"got a prompt of {len(prompt)} tokens and {max_new} new ones, expected at most {cache.context} together, "
            "the model's context; shorten the prompt or ask for fewer"
        )
    if cache.length:
        raise InputError(f"got a cache of {cache.length} tokens, expected an empty one; a text has its own")
