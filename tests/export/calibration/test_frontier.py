"""Prices that spread the work, and a frontier that nothing beats."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrt.export.calibration.frontier import mark_frontier, spread_prices

unit = st.floats(0, 1, allow_nan=False)


@settings(deadline=None)
@given(steepness=st.floats(0.1, 40), middle=unit, points=st.integers(2, 40))
def test_prices_spread_the_work(steepness: float, middle: float, points: int) -> None:
    asked: list[float] = []

    def fraction(price: float) -> float:
        asked.append(price)
        return float(1 / (1 + np.exp(steepness * (price - middle))))

    prices = spread_prices(fraction, 0.0, 1.0, points)
    assert prices == sorted(set(prices)) and prices[0] == 0 and prices[-1] == 1
    assert len(prices) == points == len(asked)
    assert all(float(np.float32(price)) == price for price in prices)
    works = [fraction(price) for price in prices]
    span = works[0] - works[-1]
    if points >= 20:
        assert max(a - b for a, b in itertools.pairwise(works)) <= span * 4 / (points - 1)


def test_a_jump_in_the_work_does_not_take_all_points() -> None:
    def fraction(price: float) -> float:
        return 0.9 - 0.2 * price - (0.5 if price > 0.5 else 0.0)

    prices = spread_prices(fraction, 0.0, 1.0, 25)
    assert sum(price > 0.6 for price in prices) >= 4 and sum(price < 0.4 for price in prices) >= 4


def test_work_that_ignores_the_price_is_not_swept_in_vain() -> None:
    assert spread_prices(lambda _: 0.5, 0.0, 1.0, 30) == [0.0, 1.0]


@settings(deadline=None)
@given(typical=st.floats(0.05, 5), points=st.integers(12, 40))
def test_a_limit_far_out_does_not_take_the_points_of_bent_prices(typical: float, points: int) -> None:
    asked: list[float] = []

    def fraction(price: float) -> float:
        asked.append(price)
        return 1 / (1 + price / typical)

    prices = spread_prices(fraction, 0.0, 1000.0, points, bent=True)
    assert sorted(asked) == prices == sorted(set(prices))
    assert prices[0] == 0 and prices[-1] == 1000 and len(prices) == points
    assert all(float(np.float32(price)) == price for price in prices)
    works = [fraction(price) for price in prices]
    assert max(a - b for a, b in itertools.pairwise(works)) <= 6 / points


@settings(deadline=None)
@given(st.lists(st.tuples(unit, unit), min_size=1, max_size=30))
def test_nothing_beats_the_frontier_and_it_beats_the_rest(points: list[tuple[float, float]]) -> None:
    costs, qualities = [p[0] for p in points], [p[1] for p in points]
    marks = mark_frontier(costs, qualities)
    assert any(marks)

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a != b and a[0] <= b[0] and a[1] >= b[1]

    for point, marked in zip(points, marks, strict=True):
        assert marked != any(beats(other, point) for other in points)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_points_of_equal_cost_or_quality(points: list[tuple[int, int]]) -> None:
    marks = mark_frontier([p[0] for p in points], [p[1] for p in points])
    for (cost, quality), marked in zip(points, marks, strict=True):
        beaten = any((c < cost and q >= quality) or (c == cost and q > quality) for c, q in points)
        assert marked != beaten


def test_no_points_have_no_frontier() -> None:
    assert mark_frontier([], []) == []
