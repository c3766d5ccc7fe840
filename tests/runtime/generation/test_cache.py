"""What stands is kept in order; what does not, never comes in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.runtime.errors import InputError
from adaptrt.runtime.generation.cache import BUCKET, KeyValueCache


@given(st.lists(st.lists(st.integers(0, 6), max_size=7, unique=True).map(sorted), max_size=60))
def test_rows_stand_in_the_order_they_came(calls):
    cache, expected = KeyValueCache(2, 1, 1, context=1000), []
    for number, rows in enumerate(calls):
        values = np.arange(7, dtype=np.float32) + 100 * number
        cache.commit([values.reshape(1, 1, 7, 1) + 0.25 * place for place in range(4)], rows)
        expected += values[rows].tolist()
    assert cache.length == len(expected) and cache.capacity % BUCKET == 0
    for place, tensor in enumerate(cache.tensors):
        assert tensor.shape == (1, 1, cache.capacity, 1)
        assert tensor[0, 0, : cache.length, 0].tolist() == [value + 0.25 * place for value in expected]


def test_it_grows_by_buckets_up_to_the_context():
    cache, sizes = KeyValueCache(1, 2, 3, context=600), []
    new = [np.zeros((1, 2, 100, 3), np.float32)] * 2
    for _ in range(6):
        cache.commit(new, range(100))
        sizes.append(cache.capacity)
        assert cache.bytes_for(cache.length) == sum(tensor.nbytes for tensor in cache.tensors)
    assert sizes == [256, 256, 512, 512, 512, 600]
    with pytest.raises(InputError, match="got a text of 601 tokens, expected at most 600"):
        cache.commit(new, [0])
    assert (cache.length, cache.capacity) == (600, 600)
