"""fp8 by its definition: every number of E4M3, ties, what is too large, and rows by themselves."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrt.ops.fp8 import MOST, e4m3_columns, e4m3_product, e4m3_scale, round_e4m3

BYTES = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
NUMBERS = np.unique(BYTES[np.isfinite(BYTES)])


def test_its_numbers_stay_what_they_are() -> None:
    np.testing.assert_array_equal(round_e4m3(NUMBERS), NUMBERS)
    assert NUMBERS.max() == MOST and len(NUMBERS) == 253  # 256 bytes less two NaN and one of two zeros


def test_between_two_the_nearer_and_in_the_middle_the_even_one() -> None:
    middles = (NUMBERS[:-1] + NUMBERS[1:]) / 2
    for x in (middles, np.nextafter(middles, np.float32(-1e9)), np.nextafter(middles, np.float32(1e9))):
        np.testing.assert_array_equal(round_e4m3(x), x.astype(ml_dtypes.float8_e4m3fn).astype(np.float32))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-448, 448, width=32), min_size=1))
def test_it_rounds_as_others_do(numbers: list[float]) -> None:
    x = np.array(numbers, np.float32)
    np.testing.assert_array_equal(round_e4m3(x), x.astype(ml_dtypes.float8_e4m3fn).astype(np.float32))


def test_what_is_too_large_becomes_the_largest_and_nan_stays() -> None:
    assert round_e4m3(np.array([1e9, -np.inf, 460.0, 448.0])).tolist() == [448, -448, 448, 448]
    assert np.isnan(round_e4m3(np.array([np.nan]))).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**16))
def test_products_are_near_and_rows_independent(rows: int, depth: int, width: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, weight = generator.standard_normal((rows, depth)), generator.standard_normal((depth, width))
    scale = e4m3_scale(float(np.abs(x).max()))
    product = e4m3_product(x, weight, scale)
    # A sixteenth of each factor, or half of the least step, which is a 2**-18th of the largest number.
    least = [np.abs(x).max() / 448 * 2.0**-10, np.abs(weight).max(0) / 448 * 2.0**-10]
    error = np.abs(x) / 16 + least[0], np.abs(weight) / 16 + least[1]
    bound = error[0] @ np.abs(weight) + np.abs(x) @ error[1] + error[0] @ error[1]
    assert (np.abs(product - x @ weight) <= 1.001 * bound).all()
    alone = np.concatenate([e4m3_product(x[row : row + 1], weight, scale) for row in range(rows)])
    np.testing.assert_allclose(alone, product, rtol=1e-12, atol=1e-12)


def test_columns_of_zeros_and_of_what_is_no_number() -> None:
    columns = e4m3_columns(np.array([[0.0, 2.0], [0.0, -4.0]]))
    assert columns.scale.tolist() == [1.0, np.float32(4) / MOST]
    np.testing.assert_allclose(columns.values * columns.scale, [[0, 2], [0, -4]], rtol=1e-6)
    with pytest.raises(ValueError, match="got weights .1, 1. with NaN or infinite numbers"):
        e4m3_columns(np.array([[np.nan]]))
    assert e4m3_scale(0.0) > 0
