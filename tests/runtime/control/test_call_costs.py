from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.runtime.control.call_costs import CallCosts, RecentQuantile
from adaptrt.runtime.errors import BudgetError


def test_between_measured_batches_and_beyond_them() -> None:
    costs = CallCosts({1: 2.0, 4: 5.0, 8: 9.0})
    assert [costs.scale(n) for n in (1, 4, 6, 8)] == [1.0, 2.5, 3.5, 4.5]
    assert costs.scale(12) == pytest.approx(6.5)
    assert costs.scale(2) == pytest.approx(1.5)


def test_one_measured_batch_is_in_proportion() -> None:
    assert CallCosts({4: 8.0}).scale(2) == 0.5


@pytest.mark.parametrize("measured", [{}, {0: 1.0}, {1: 0.0}, {1: math.nan}, {1: math.inf}])
def test_what_cannot_be_measured_is_refused(measured: dict[int, float]) -> None:
    with pytest.raises(BudgetError, match="expected sizes and times above 0"):
        CallCosts(measured)


@given(
    st.dictionaries(st.integers(1, 64), st.floats(0.1, 100), min_size=2, max_size=6),
    st.integers(1, 200),
    st.integers(0, 50),
)
def test_more_samples_never_take_less(measured: dict[int, float], samples: int, more: int) -> None:
    costs = CallCosts(measured)
    assert costs.scale(samples) <= costs.scale(samples + more) * (1 + 1e-9)


def test_samples_of_another_size_are_learned_once() -> None:
    costs = CallCosts({1: 1.0, 2: 2.0})
    assert not costs.learn(1, 1.0, 3.0)
    assert costs.scale(1, 4.0) == 4.0
    for _ in range(16):
        assert costs.learn(2, 4.0, 6.0)
    assert not costs.learn(2, 4.0, 100.0)
    assert costs.scale(1, 4.0) == 3.0


def test_the_quantile_of_the_latest_values() -> None:
    recent = RecentQuantile(0.9, kept=10)
    assert recent.value == 0.0
    for value in [math.nan, math.inf, -1.0, *range(100)]:
        recent.observe(float(value))
    assert recent.value == 98.0
