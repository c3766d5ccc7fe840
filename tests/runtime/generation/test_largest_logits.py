"""The largest logits, beside sorting all of them."""

from __future__ import annotations

import numpy as np
import pytest

from adaptrt.runtime.generation.largest_logits import largest_ids


@pytest.mark.parametrize("vocabulary", [1, 8, 9, 1023, 2047, 2048, 2049, 5000, 49_152])
@pytest.mark.parametrize("count", [1, 8])
def test_they_are_the_first_of_the_sorted_row(vocabulary, count):
    random = np.random.default_rng(vocabulary)
    logits = np.stack([random.permutation(vocabulary) for _ in range(5)]).astype(np.float32)
    count = min(count, vocabulary)
    assert np.array_equal(largest_ids(logits, count), np.argsort(-logits, axis=1)[:, :count])


def test_equal_logits_give_ids_that_differ():
    logits = np.zeros((2, 5000), np.float32)
    assert all(len(set(row)) == 8 for row in largest_ids(logits, 8).tolist())
