"""A soft budget whose calls take more than was calibrated says so; one that is obeyed does not."""

from __future__ import annotations

import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from adaptrt import AdaptrtWarning
from adaptrt.runtime import Budget, load
from adaptrt.runtime.work_check import SoftBudgetCheck
from tests.runtime.conftest import FIXTURES
from tests.runtime.test_stages import exits_inputs


def said(shares, expected=0.5, batch=1):
    check = SoftBudgetCheck()
    shares = np.asarray(shares, np.float32)
    return [check.observe(expected, shares[i : i + batch]) for i in range(0, len(shares), batch)]


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_everything_running_is_noticed_after_a_few_samples(batch):
    found = said(np.ones(64), 0.256, batch)
    assert found[-1] is not None and "\n" not in found[-1]
    assert "take 1 of the dense work on average over the last 6" in found[-1] and "expected 0.256 as calib" in found[-1]
    if batch == 1:
        assert [text is None for text in found] == [True] * 7 + [False] * 57


@pytest.mark.parametrize("scatter", [0.05, 0.2, 0.3])
@pytest.mark.parametrize("batch", [1, 8])
def test_what_scatters_around_the_expected_is_hardly_ever_an_excess(scatter, batch):
    shares = [np.clip(np.random.default_rng(seed).normal(0.5, scatter, 400), 0.05, 1.05) for seed in range(200)]
    wrong = sum(any(text is not None for text in said(each, 0.5, batch)) for each in shares)
    assert wrong <= 10  # three standard errors, looked at some forty times in each of 200 runs


def test_a_small_lasting_excess_is_noticed_and_forgotten_again():
    generator = np.random.default_rng(0)
    check = SoftBudgetCheck()
    for mean, expected in ((0.56, True), (0.5, False)):
        for _ in range(12_000):
            text = check.observe(0.5, generator.normal(mean, 0.2, 1).astype(np.float32))
        assert (text is not None) is expected


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_work_that_is_no_number_is_left_out(odd):
    shares = np.ones(32, np.float32)
    shares[1] = odd
    assert said(shares, 0.3)[-1] is not None and said(shares, 0.3, batch=4)[-1] is not None


def test_one_budget_says_nothing_of_another():
    check = SoftBudgetCheck()
    for _ in range(40):
        over = check.observe(0.5, np.full(8, 0.6, np.float32))
        obeyed = check.observe(0.37, np.full(16, 0.37, np.float32))
    assert obeyed is None and "take 0.6 of the dense work" in over and "expected 0.5" in over


def test_less_work_is_no_matter():
    assert set(said(np.full(100, 0.1))) == {None}


@pytest.fixture
def strange(tmp_path, edit):
    """As calibrated with a confidence that is no probability, and thresholds cut off where none of it leaves."""
    folder = Path(shutil.copytree(FIXTURES / "exits", tmp_path / "exits"))

    def cut(content):
        content["curve"] = content["curve"][:1]
        content["curve"][0]["knobs"]["exit_thresholds"] = [5.0, 5.0]

    edit(folder, cut)
    return load(folder, threads=1)


def test_a_budget_that_is_not_obeyed_says_so_once(strange):
    strange.budget = Budget.fraction(0.3)
    inputs = exits_inputs(4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = [strange.run(inputs) for _ in range(10)]
    assert [result.message is None for result in results] == [True] + [False] * 9
    assert "not like the calibration data" in results[-1].message and results[-1].reachable
    assert [warning.category for warning in caught] == [AdaptrtWarning]
    strange.budget = Budget.fraction(0.3)
    assert strange.run(inputs).message is None, "a new budget begins anew"


def test_what_obeys_or_promises_nothing_is_left_alone(strange, exits_model):
    inputs = exits_inputs(40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for share in (0.35, 0.5, 0.7, 0.9, 2.0):
            assert exits_model.run(inputs, budget=Budget.fraction(share)).message is None
        assert strange.run(inputs).message is None
        assert strange.run(inputs, knobs={"exit_thresholds": math.inf}).message is None
        assert strange.run({name: array[:0] if len(array) > 1 else array for name, array in inputs.items()},
                           budget=Budget.fraction(0.3)).message is None  # fmt: skip
