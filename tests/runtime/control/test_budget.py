from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt import AdaptrtError
from adaptrt.runtime import Budget, BudgetError

WRONG = [
    math.nan, math.inf, -math.inf, -1e-9, -1, True, False, "0.5", None, [0.5], 1j, Decimal("0.5"),
    np.float32("nan"), np.array([0.5]), 10**400,
]  # fmt: skip


@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("make", [Budget.fraction, Budget.macs])
def test_refuses_what_is_no_amount(make, value):
    with pytest.raises(BudgetError, match="expected") as caught:
        make(value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, AdaptrtError)


@given(st.floats(min_value=0, allow_infinity=False, allow_nan=False))
def test_keeps_every_amount(value):
    assert Budget.fraction(value).value == value
    assert Budget.macs(value).kind == "macs"


@pytest.mark.parametrize("value", [1, np.float32(0.5), np.int64(3), np.float64(0.25), Fraction(1, 2), 0, -0.0])
def test_takes_every_kind_of_real_number(value):
    budget = Budget.fraction(value)
    assert type(budget.value) is float
    assert budget.value == float(value)
    assert math.copysign(1, budget.value) == 1


def test_equal_budgets_are_one_key():
    assert {Budget.fraction(0.5), Budget.fraction(np.float64(0.5)), Budget("fraction", 0.5)} == {Budget.fraction(0.5)}
    assert Budget.fraction(0.5) != Budget.macs(0.5)
    assert Budget("full", 3.0) == Budget.full()


def test_cannot_be_changed():
    with pytest.raises(AttributeError):
        Budget.full().value = 1.0


def test_unknown_kind():
    with pytest.raises(BudgetError, match="latency"):
        Budget("joules", 8.0)


def test_hard():
    assert Budget.fraction(0.5, hard=True).hard and not Budget.fraction(0.5).hard
    assert Budget.macs(2e9, hard=True) != Budget.macs(2e9)
    assert Budget("full", hard=True) == Budget.full()
    for wrong in (1, 0, None, "yes", np.True_):
        with pytest.raises(BudgetError, match=r"got hard=.*; expected True \(each sample\) or False"):
            Budget.fraction(0.5, hard=wrong)


def test_reads_well():
    assert str(Budget.fraction(0.5, hard=True)) == "0.5 of the dense work for each sample"
    assert str(Budget.macs(2e9, hard=True)) == "2e+09 MACs for each sample"
    assert str(Budget.fraction(0.5)) == "0.5 of the dense work"
    assert str(Budget.macs(2e9)) == "2e+09 MACs per sample"
    assert str(Budget.full()) == "full"
