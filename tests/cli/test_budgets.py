from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt import AdaptrtError
from adaptrt.cli.budgets import parse_budget
from adaptrt.runtime import Budget


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("0.5", Budget.fraction(0.5)),
        ("0", Budget.fraction(0)),
        ("1.1", Budget.fraction(1.1)),
        ("50%", Budget.fraction(0.5)),
        ("90M", Budget.macs(90e6)),
        ("1.5G", Budget.macs(1.5e9)),
        ("7k", Budget.macs(7e3)),
        ("2e9 MACs", Budget.macs(2e9)),
        ("57%", Budget.fraction(0.57)),
        ("8ms", Budget.latency(8)),
        ("40mJ", Budget.energy(40)),
        ("10W", Budget.power(10)),
        ("2T", Budget.macs(2e12)),
        ("full", Budget.full()),
        (" FULL ", Budget.full()),
    ],
)
def test_forms(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    ("text", "budget"),
    [("50%", Budget.fraction(0.5, hard=True)), ("90M", Budget.macs(90e6, hard=True)), ("1", Budget.fraction(1, True))],
)
def test_hard(text, budget):
    assert parse_budget(text, hard=True) == budget
    assert parse_budget(text) != budget


def test_full_is_not_hard():
    with pytest.raises(AdaptrtError, match=r"got --hard with budget full.*leave --hard out"):
        parse_budget("full", hard=True)


@pytest.mark.parametrize(
    "text",
    ["", " ", "half", "nan", "-1", "-0.5", "inf", "nan%", "-1M", "M", "%", "90000000", "1e9", "9Q", "0x1"],
)
def test_refused(text):
    with pytest.raises(AdaptrtError, match=r"got .*expected"):
        parse_budget(text)


@given(st.text(max_size=12))
def test_any_text_is_a_budget_or_refused(text):
    try:
        assert isinstance(parse_budget(text), Budget)
    except AdaptrtError as error:
        assert "expected" in str(error)
