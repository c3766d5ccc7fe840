"""Drafted or not, the text is the same: with every drafter, greedy and sampled, good guesses and bad ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.runtime.errors import InputError
from adaptrt.runtime.generation.acceptance import accept
from adaptrt.runtime.generation.decoding import Step
from adaptrt.runtime.generation.drafters.prompt_lookup import PromptLookup
from adaptrt.runtime.generation.drafters.recycling import TokenRecycling
from adaptrt.runtime.generation.sampling import Sampler
from adaptrt.runtime.generation.tree import DraftTree
from tests.runtime.generation.small_model import VOCABULARY, logits_after, logits_of

PROMPT = [3, 1, 4, 1, 5]


def plain(sampler, max_new, stop=()):
    text = list(PROMPT)
    while len(text) < len(PROMPT) + max_new:
        text.append(sampler.choose(logits_after(text)))
        if text[-1] in stop:
            break
    return text[len(PROMPT) :]


def drafted(draft, sampler, max_new, stop=(), observe=None):
    """The new tokens, and the calls that it took."""
    text, calls = list(PROMPT), 0
    while len(text) < len(PROMPT) + max_new:
        tree = draft(text)
        rows = logits_of(tree, text, capacity=128)
        limit = len(PROMPT) + max_new - len(text)
        result = accept(tree, lambda node, _, rows=rows: sampler.choose(rows[node]), stop=stop, limit=limit)
        if observe is not None:
            observe(Step(result.tokens, tree, rows))
        assert [int(tree.tokens[row]) for row in result.rows[1:]] == result.tokens[:-1]
        text += result.tokens
        calls += 1
        if result.stopped:
            break
    return text[len(PROMPT) :], calls


def oracle(text):
    """The next five tokens of the greedy text: always right."""
    tree, ahead = DraftTree(text[-1], VOCABULARY), list(text)
    for _ in range(5):
        ahead.append(int(np.argmax(logits_after(ahead))))
    tree.add_path(ahead[len(text) :])
    return tree


def wrong(text):
    """Everything but the right token, below it the right one."""
    tree, right = DraftTree(text[-1], VOCABULARY), int(np.argmax(logits_after(text)))
    for token in range(VOCABULARY):
        if token != right:
            tree.add(tree.add(0, token), right)
    return tree


def duplicates(text):
    """The right path three times over, in other branches, too."""
    tree, right = oracle(text), oracle(text).tokens[1:]
    for start in range(3):
        tree.add_path([*[0] * start, *right])
    return tree


def nothing(text):
    return DraftTree(text[-1], VOCABULARY)


def at_random(seed=0):
    random = np.random.default_rng(seed)

    def draft(text):
        tree = DraftTree(text[-1], VOCABULARY)
        for _ in range(30):
            tree.add(int(random.integers(len(tree))), int(random.integers(VOCABULARY)))
        return tree

    return draft


DRAFTERS = {"oracle": oracle, "wrong": wrong, "duplicates": duplicates, "nothing": nothing, "random": at_random()}


@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("max_new", [1, 2, 40])
def test_the_greedy_text_is_the_plain_one(name, max_new):
    assert drafted(DRAFTERS[name], Sampler(), max_new)[0] == plain(Sampler(), max_new)


@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("seed", range(5))
def test_the_sampled_text_is_the_plain_one(name, seed):
    """To the token, by the same seed: a draft takes no random number of its own."""
    options = {"temperature": 1.7, "top_k": 9, "top_p": 0.9, "seed": seed}
    assert drafted(DRAFTERS[name], Sampler(**options), 40)[0] == plain(Sampler(**options), 40)


@pytest.mark.parametrize("name", DRAFTERS)
def test_the_text_ends_at_the_first_stop_id(name):
    whole = plain(Sampler(), 40)
    for place in range(1, 12):
        stop = {whole[place]}
        expected = whole[: whole.index(whole[place]) + 1]
        assert drafted(DRAFTERS[name], Sampler(), 40, stop)[0] == expected == plain(Sampler(), 40, stop)


def test_good_guesses_save_calls_and_bad_ones_do_not():
    assert drafted(oracle, Sampler(), 40)[1] == 7  # six at a time
    assert drafted(nothing, Sampler(), 40)[1] == drafted(wrong, Sampler(), 40)[1] == 40


def test_the_comparison_notices_a_wrong_walk():
    """What a bug would look like: the first child is taken, whatever it holds."""

    def broken(text):
        tree = wrong(text)
        tree.child = lambda node, _: next(iter(tree._children[node].values()), None)
        return tree

    with pytest.raises(AssertionError):
        assert drafted(broken, Sampler(), 40)[0] == plain(Sampler(), 40)


def test_recycling_gives_the_plain_text_in_fewer_calls():
    drafter = TokenRecycling(VOCABULARY)

    text, calls = drafted(lambda text: drafter.draft(text, 24), Sampler(), 90, observe=drafter.observe)
    assert text == plain(Sampler(), 90)
    assert calls < 60


def test_prompt_look_up_gives_the_plain_text_in_fewer_calls():
    """A model of three tokens' memory comes round to where it was."""
    drafter = PromptLookup(VOCABULARY)
    text, calls = drafted(lambda text: drafter.draft(text, 12), Sampler(), 120)
    assert text == plain(Sampler(), 120)
    assert calls < 120


def paths(tree):
    return {tuple(tree.path(node)) for node in range(len(tree))}


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), max_size=25), st.lists(st.integers(0, 4), max_size=8))
def test_the_longest_path_is_found(proposals, wanted):
    """Against all paths of the tree."""
    tree = DraftTree(0, 5)
    for parent, token in proposals:
        tree.add(parent % len(tree), token)
    choices = [*wanted, 4]
    result = accept(tree, lambda _, written: choices[len(written)], limit=len(choices))
    longest = max(size for size in range(len(wanted) + 1) if tuple(wanted[:size]) in paths(tree))
    # One more where the token behind `wanted` was drafted, too; it is the last one that may be written.
    assert len(result.tokens) == min(longest + 1, len(choices))
    assert result.tokens == choices[: len(result.tokens)] and len(result.rows) == len(result.tokens)
    assert tree.path(result.rows[-1]) == result.tokens[:-1]


def test_no_room_is_refused():
    with pytest.raises(InputError, match="expected at least 1"):
        accept(DraftTree(0, 5), lambda *_: 0, limit=0)
