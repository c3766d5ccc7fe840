from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.bench.chosen_points import choose_points
from adaptrt.bench.errors import BenchError
from adaptrt.runtime.bundle import Bundle, CurvePoint, Dense, Knob, Stage, TensorSpec

EMPTY = Bundle(
    format_version=1,
    name="tiny",
    producer="test",
    inputs=[TensorSpec("x", "float32", ["batch", 2])],
    outputs=[TensorSpec("macs_fraction", "float32", ["batch"])],
    stages=[Stage("model.onnx", "0" * 64)],
    knobs=[Knob("price", "float32", [1], 0.0, 1.0, 0.0)],
    dense=Dense(1000, 10),
)


def calibrated(fractions: list[float]) -> Bundle:
    """A bundle with a point for each share, dearest at price 0."""
    ordered = sorted(fractions, reverse=True)
    prices = np.linspace(0, 1, len(ordered)).astype(np.float32).tolist()
    curve = [
        CurvePoint({"price": price}, fraction, 0.5 + fraction / 4, frontier=index % 2 == 0)
        for index, (price, fraction) in enumerate(zip(prices, ordered, strict=True))
    ]
    return msgspec.structs.replace(EMPTY, curve=curve[::-1])


def test_points_are_spread_evenly() -> None:
    bundle = calibrated([0.2, 0.21, 0.22, 0.3, 0.39, 0.42, 0.6, 0.61, 0.8, 0.97, 1.0])
    points = choose_points(bundle, 5)
    assert [point.macs_fraction for point in points] == [0.2, 0.39, 0.6, 0.8, 1.0]
    assert all(point.calibrated for point in points)


def test_sixty_percent_is_solved_where_no_point_is_near() -> None:
    points = choose_points(calibrated([0.2, 0.5, 0.7, 1.0]), 4)
    solved = [point for point in points if not point.calibrated]
    assert len(solved) == 1 and len(points) == 5
    assert solved[0].macs_fraction == pytest.approx(0.6, abs=1e-6)
    assert solved[0].knobs["price"] == pytest.approx(0.5, abs=1e-6)
    assert solved[0].quality == pytest.approx(0.65, abs=1e-6) and not solved[0].frontier


def test_sixty_percent_is_left_out_where_it_cannot_be_met() -> None:
    assert [point.macs_fraction for point in choose_points(calibrated([0.7, 1.0]), 11)] == [0.7, 1.0]


@given(st.lists(st.floats(0.05, 1.1), min_size=2, max_size=40, unique=True), st.integers(2, 15))
def test_ends_are_always_among_them_and_none_twice(fractions: list[float], count: int) -> None:
    points = choose_points(calibrated(fractions), count)
    shares = [point.macs_fraction for point in points if point.calibrated]
    assert len(shares) == min(count, len(fractions)) and len(set(shares)) == len(shares)
    assert (min(shares), max(shares)) == (min(fractions), max(fractions))
    assert [point.macs_fraction for point in points] == sorted(point.macs_fraction for point in points)
    near = [share for share in shares if abs(share - 0.6) <= 0.01]
    assert near or len(points) == len(shares) + (min(fractions) <= 0.6)


def test_refusals() -> None:
    with pytest.raises(BenchError, match="adaptrt calibrate"):
        choose_points(EMPTY, 11)
    with pytest.raises(BenchError, match="got 1 points"):
        choose_points(calibrated([0.5, 1.0]), 1)
