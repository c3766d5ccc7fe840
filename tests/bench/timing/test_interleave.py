from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.bench.errors import BenchError
from adaptrt.bench.timing.interleave import Case, Spread, interleave, runs_per_turn
from adaptrt.bench.timing.session_process import Feed, SessionProcess

positive = st.floats(1e-6, 1e6)


class Scripted:
    """A process whose times come from a function of how many turns anything had before."""

    def __init__(self, name: str, log: list[str], seconds: Callable[[int], float]) -> None:
        self.name, self.log, self.seconds = name, log, seconds

    def time(self, feeds: Sequence[Feed], *, warm: int = 1, runs: int = 1) -> list[list[float]]:
        assert warm >= 0
        self.log.append(self.name)
        return [[self.seconds(len(self.log))] * runs for _ in feeds]


def constant(seconds: float) -> Callable[[int], float]:
    return lambda _turn: seconds


def test_spread_is_median_and_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)
    with pytest.raises(BenchError, match="at least one"):
        Spread.of([])


@given(st.lists(positive, min_size=1, max_size=30), positive)
def test_spread_keeps_its_order_under_scaling_and_division(values: list[float], number: float) -> None:
    for spread in (Spread.of(values), Spread.of(values).scaled(number), Spread.of(values).into(number)):
        assert spread.low <= spread.median <= spread.high
    assert Spread.of(values).into(number).median == pytest.approx(number / Spread.of(values).median)


def test_every_round_gives_each_case_a_turn_and_reverses_the_order() -> None:
    log: list[str] = []
    turns = []
    cases = [Case(name, Scripted(name, log, constant(1.0)), [{}]) for name in "abc"]
    interleave(cases, baseline="a", rounds=3, on_turn=lambda: turns.append(1))
    assert "".join(log) == "abccbaabc"
    assert len(turns) == 9


def test_ratios_are_of_the_same_round() -> None:
    """A machine that gets twice as slow after round one changes times, and no ratio."""
    log: list[str] = []

    def drift(turn: int) -> float:
        return 1.0 if turn <= 2 else 2.0

    cases = [
        Case("dense", Scripted("dense", log, drift), [{}]),
        Case("half", Scripted("half", log, lambda turn: drift(turn) / 2), [{}]),
    ]
    timings = interleave(cases, baseline="dense", rounds=2)
    assert list(timings) == ["dense", "half"]
    assert timings["half"].ratio == Spread(0.5, 0.5, 0.5)
    assert timings["half"].seconds == Spread(0.75, 0.625, 0.875)
    assert timings["dense"].ratio == Spread(1.0, 1.0, 1.0)


def test_a_turn_is_the_mean_over_feeds_of_the_median_over_runs() -> None:
    class TwoFeeds:
        def time(self, feeds: Sequence[Feed], *, warm: int = 1, runs: int = 1) -> list[list[float]]:
            assert (len(feeds), warm, runs) == (2, 1, 3)
            return [[1.0, 1.0, 100.0], [2.0, 4.0, 3.0]]

    timings = interleave([Case("a", TwoFeeds(), [{}, {}])], baseline="a", rounds=2)
    assert timings["a"].seconds.median == 2.0


@pytest.mark.parametrize(
    ("names", "baseline", "rounds"), [(["a", "a"], "a", 1), (["a"], "b", 1), (["a"], "a", 0), ([], "a", 1)]
)
def test_senseless_comparisons_are_refused(names: list[str], baseline: str, rounds: int) -> None:
    cases = [Case(name, Scripted(name, [], constant(1.0)), [{}]) for name in names]
    with pytest.raises(BenchError, match="expected"):
        interleave(cases, baseline=baseline, rounds=rounds)


@pytest.mark.parametrize(("once", "expected"), [(0.01, 6), (10.0, 1), (1e-6, 32)])
def test_runs_per_turn(once: float, expected: int) -> None:
    assert runs_per_turn(Case("a", Scripted("a", [], constant(once)), [{}]), 0.06) == expected


def test_two_processes_and_two_cases_in_one(doubling: Path) -> None:
    with SessionProcess(doubling) as first, SessionProcess(doubling) as second:
        for process, rows in ((first, 3), (second, 5)):
            process.load({"x": np.ones((rows, 3), np.float32), "y": np.ones((1, 3), np.float32)})
        cases = [
            Case("a", first, [{"x": "x"}]),
            Case("b", second, [{"x": "x"}]),
            Case("c", second, [{"x": "y"}]),
        ]
        timings = interleave(cases, baseline="a", rounds=3, runs=2)
    numbers = [value for t in timings.values() for s in (t.seconds, t.ratio) for value in (s.low, s.median, s.high)]
    assert len(numbers) == 18 and np.isfinite(numbers).all() and min(numbers) > 0
