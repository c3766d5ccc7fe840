"""Trees as the decoder's inputs, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.runtime.errors import InputError
from adaptrt.runtime.generation.drafters.best_first import grow
from adaptrt.runtime.generation.tree import MASKED, DraftTree


def test_a_token_twice_is_one_node():
    tree = DraftTree(9, 10)
    assert tree.add_path([1, 2, 3]) == 3 and tree.add_path([1, 2, 4]) == 4 and tree.add_path([1, 2, 3]) == 3
    assert tree.tokens.tolist() == [9, 1, 2, 3, 4] and tree.parents.tolist() == [-1, 0, 1, 2, 2]
    assert tree.depths.tolist() == [0, 1, 2, 3, 3] and tree.path(4) == [1, 2, 4]


def test_a_node_sees_the_cache_its_ancestors_and_itself():
    tree = DraftTree(9, 10)
    tree.add_path([1, 2])
    tree.add_path([3])
    bias = tree.attention_bias(2, 4)
    assert bias.shape == (1, 1, 4, 8) and bias.dtype == np.float32
    assert set(np.unique(bias)) == {0, MASKED}
    assert (bias[0, 0] == 0).astype(int).tolist() == [
        [1, 1, 0, 0, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 1, 0],
        [1, 1, 0, 0, 1, 0, 0, 1],
    ]
    assert tree.position_ids(2).tolist() == [[2, 3, 4, 3]]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), max_size=40))
def test_ancestry_is_the_walk_up(proposals):
    tree = DraftTree(0, 4)
    for parent, token in proposals:
        tree.add(parent % len(tree), token)
    expected = np.zeros((len(tree), len(tree)), bool)
    for node in range(len(tree)):
        above = node
        while above >= 0:
            expected[node, above] = True
            above = tree.parents[above]
    assert np.array_equal(tree.ancestry(), expected)


@pytest.mark.parametrize("token", [-1, 10, 1.0, None, "1"])
def test_a_drafter_s_garbage_is_refused(token):
    tree = DraftTree(0, 10)
    with pytest.raises(InputError, match="expected an id from 0 to 9"):
        tree.add(0, token)
    with pytest.raises(InputError, match="expected an id from 0 to 9"):
        DraftTree(token, 10)
    assert len(tree) == 1


@pytest.mark.parametrize("parent", [-1, 1])
def test_a_parent_that_is_not_there_is_refused(parent):
    with pytest.raises(InputError, match="as the parent of a drafted token"):
        DraftTree(0, 10).add(parent, 1)


@pytest.mark.parametrize("length,capacity", [(-1, 4), (5, 4)])
def test_more_than_the_cache_holds_is_refused(length, capacity):
    with pytest.raises(InputError, match="in a cache of 4 rows"):
        DraftTree(0, 10).attention_bias(length, capacity)


def best_value(options, size):
    """By trying all trees: the largest sum of the values of `size` nodes that form a tree, root aside."""
    nodes = {(): 1.0}
    for path in [(a,) for a in range(3)] + [(a, b) for a in range(3) for b in range(3)]:
        nodes[path] = nodes[path[:-1]] * options[path[:-1]][path[-1]]

    def best(tree, left):
        if not left:
            return 0.0
        border = [path for path in nodes if path not in tree and path[:-1] in tree]
        return max((nodes[path] + best(tree | {path}, left - 1) for path in border), default=0.0)

    return best(frozenset({()}), size)


@pytest.mark.parametrize("seed", range(6))
def test_best_first_is_the_best_tree_of_every_size(seed):
    random = np.random.default_rng(seed)
    keys = [(), *[(a,) for a in range(3)]]
    options = {key: random.dirichlet(np.ones(4))[:3] for key in keys}

    def candidates(path):
        probabilities = options.get(tuple(path), ())
        return sorted(((token, float(p)) for token, p in enumerate(probabilities)), key=lambda pair: -pair[1])

    tree = DraftTree(0, 3)
    grow(tree, candidates, 6)
    value, total = {(): 1.0}, 0.0
    for node in range(1, 6):
        path = tuple(tree.path(node))
        value[path] = value[path[:-1]] * options[path[:-1]][path[-1]]
        total += value[path]
        assert total == pytest.approx(best_value(options, node))


def test_best_first_ends_where_nothing_is_left():
    tree = DraftTree(0, 3)
    grow(tree, lambda path: [(1, 0.5), (2, 0.0)] if len(path) < 2 else [], 50)
    assert tree.tokens.tolist() == [0, 1, 1]
