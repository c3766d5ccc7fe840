"""What a call takes over its work: interpolated, never falling, and turned round."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.runtime import BudgetError
from adaptrt.runtime.control.response_curve import ResponseCurve


@given(
    times=st.lists(st.floats(0.1, 100), min_size=1, max_size=8),
    share=st.floats(0, 2),
    other=st.floats(0, 2),
)
def test_more_work_never_takes_less_time(times, share, other):
    curve = ResponseCurve(tuple(0.1 * (step + 1) for step in range(len(times))), tuple(times))
    low, high = sorted((share, other))
    assert 0 <= curve.at(low) <= curve.at(high) + 1e-9


@given(times=st.lists(st.floats(0.5, 100), min_size=2, max_size=8, unique=True), response=st.floats(0.5, 100))
def test_the_share_for_a_time_takes_that_time(times, response):
    curve = ResponseCurve(tuple(0.1 * (step + 1) for step in range(len(times))), tuple(sorted(times)))
    share = curve.fraction_for(response)
    if 0 < share < math.inf:
        assert curve.at(share) == pytest.approx(response, rel=1e-6)


def test_times_that_fall_are_pooled():
    assert ResponseCurve((0.1, 0.2, 0.3, 0.4), (1.0, 4.0, 2.0, 5.0)).responses == (1.0, 3.0, 3.0, 5.0)


def test_one_point():
    curve = ResponseCurve((0.5,), (3.0,))
    assert curve.at(0.1) == curve.at(1.0) == 3.0
    assert curve.fraction_for(3.0) == math.inf and curve.fraction_for(2.9) == 0.0


@pytest.mark.parametrize(
    ("shares", "times"),
    [((), ()), ((0.1,), ()), ((0.1, 0.1), (1, 2)), ((0.2, 0.1), (1, 2)), ((0.1,), (0.0,)), ((math.nan,), (1.0,))],
)
def test_what_is_no_curve(shares, times):
    with pytest.raises(BudgetError, match="expected"):
        ResponseCurve(shares, times)
