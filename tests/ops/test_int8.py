"""int8 by its definition: near the exact product, each row by itself, and saturation where the range is full."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrt.ops.int8 import (
    FULL,
    REDUCED,
    byte_scale,
    fixed_product,
    int8_product,
    quantize_columns,
    quantize_fixed,
    quantize_rows,
    saturating_product,
)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 90), st.integers(1, 30), st.integers(0, 2**16))
def test_products_are_near_and_rows_independent(rows: int, depth: int, width: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((rows, depth)) * 10.0 ** generator.integers(-3, 4, (rows, 1))
    weight = generator.standard_normal((depth, width))
    for largest in (FULL, REDUCED):
        product = int8_product(x, weight, largest)
        # Half a step of each factor, summed over the depth with the largest of the other.
        steps = np.abs(x).max(1, keepdims=True) / 127, np.abs(weight).max(0) / largest
        bound = 0.5 * (steps[0] * np.abs(weight).sum(0) + steps[1] * np.abs(x).sum(1, keepdims=True))
        bound += 0.25 * depth * steps[0] * steps[1]
        assert (np.abs(product - x @ weight) <= 1.001 * bound).all()
        alone = np.concatenate([int8_product(x[row : row + 1], weight, largest) for row in range(rows)])
        np.testing.assert_array_equal(alone, product)


@settings(max_examples=30, deadline=None)
@given(st.floats(-50, 50), st.floats(-50, 50), st.integers(1, 40), st.integers(0, 2**16))
def test_fixed_scales_hold_their_range_and_zero(one: float, other: float, depth: int, seed: int) -> None:
    low, high = min(one, other, 0.0), max(one, other, 0.0)
    scale = byte_scale(one, other) if one <= other else byte_scale(other, one)
    generator = np.random.default_rng(seed)
    x = generator.uniform(low, high, (7, depth))
    back = (quantize_fixed(x, scale).astype(np.float64) - int(scale.zero)) * scale.scale
    # Rounding zero to a byte may move the range's ends by half a step beyond the last byte.
    assert np.abs(back - x).max() <= 1.001 * float(scale.scale) + 1e-6
    assert quantize_fixed(np.zeros((1, 1)), scale)[0, 0] == scale.zero
    assert quantize_fixed(np.array([[1e9, -1e9]]), scale).tolist() == [[255, 0]]
    weight = generator.standard_normal((depth, 5))
    alone = np.concatenate([fixed_product(x[row : row + 1], weight, scale) for row in range(7)])
    np.testing.assert_array_equal(alone, fixed_product(x, weight, scale))


def test_bytes_and_scales() -> None:
    rows = quantize_rows(np.array([[1.01, -2.0, 0.0], [0.0, 0.0, 0.0]]))
    assert rows.values.tolist() == [[192, 1, 128], [128, 128, 128]]
    assert rows.scale.shape == (2, 1) and (rows.scale > 0).all()
    columns = quantize_columns(np.array([[1.01, 0.0], [-2.0, 0.0]]), REDUCED)
    assert columns.values.tolist() == [[32, 0], [-63, 0]]
    np.testing.assert_allclose(columns.scale, [2 / 63, 1])
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantize_columns(np.array([[np.inf]]), FULL)


def test_the_reduced_range_never_saturates_and_the_full_one_does() -> None:
    worst = np.full((2, 64), 255, np.uint8)
    for largest, exact in ((REDUCED, True), (FULL, False)):
        weight = np.full((64, 3), largest, np.int8)
        wanted = (worst.astype(np.int64) - 128) @ weight.astype(np.int64)
        assert np.array_equal(saturating_product(worst, weight), wanted) == exact
    generator = np.random.default_rng(0)
    values = generator.integers(0, 256, (20, 33)).astype(np.uint8)
    weight = generator.integers(-REDUCED, REDUCED + 1, (33, 5)).astype(np.int8)
    np.testing.assert_array_equal(
        saturating_product(values, weight), (values.astype(np.int64) - 128) @ weight.astype(np.int64)
    )
