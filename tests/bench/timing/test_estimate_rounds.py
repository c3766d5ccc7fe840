"""How an estimate spends its time: which batches are timed, how many rounds, which processes start together."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from adaptrt.bench.errors import BenchError
from adaptrt.bench.timing.estimate import _in_turn, enough_rounds, standing_for_all
from adaptrt.bench.timing.interleave import Case
from adaptrt.bench.timing.start_together import start_together


def test_few_batches_stand_for_all() -> None:
    work = np.random.default_rng(0).uniform(0.2, 1.0, 16).round(3)
    chosen = standing_for_all(work.tolist(), 4)
    assert len(set(chosen)) == 4
    some = work[chosen]
    assert some.mean() == pytest.approx(work.mean(), abs=0.01) and some.std() == pytest.approx(work.std(), abs=0.02)
    left_early = [0.3] * 8 + [1.0] * 8
    assert sum(left_early[number] for number in standing_for_all(left_early, 4)) == pytest.approx(2 * 0.3 + 2 * 1.0)
    assert standing_for_all([0.5, 0.1, 0.9], 4) == [0, 1, 2]


@pytest.mark.parametrize(
    ("rounds", "spent", "given", "enough"),
    [
        (1, 50.0, 1.0, False),  # one time has no spread
        (2, 10.0, 30.0, False),
        (2, 50.0, 30.0, True),  # a third would end after 75 seconds
        (2, 35.0, 30.0, False),
        (3, 20.0, 30.0, False),
        (3, 31.0, 30.0, True),
    ],
)
def test_rounds_end_in_time(rounds: int, spent: float, given: float, enough: bool) -> None:
    assert enough_rounds(rounds, spent, given) is enough


def test_the_dense_model_has_its_turns_between_the_others() -> None:
    dense, one, two, three = (object() for _ in range(4))
    processes: list[Any] = [dense, one, one, two, two, three]
    names = ["dense", "a", "a2", "b", "b2", "c"]
    cases = [Case(name, process, [{}]) for name, process in zip(names, processes, strict=True)]
    assert [case.name for case in _in_turn(cases, 1)] == ["dense", "a", "a2", "dense", "b", "b2", "dense", "c"]
    assert [case.name for case in _in_turn(cases, 2)] == ["dense", "a", "a2", "b", "b2", "dense", "c"]


class _Process:
    ended = 0

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        _Process.ended += 1


def _refuse() -> Any:
    raise BenchError("got no engine")


def _break() -> Any:
    raise KeyboardInterrupt


def test_processes_that_start_are_ended_and_others_are_named() -> None:
    _Process.ended = 0
    counts: list[int] = []
    starts: dict[str, Any] = {"a": _Process, "b": _refuse, "c": _Process}
    with ExitStack() as stack:
        started, errors = start_together(starts, stack, counts.append)
        assert list(started) == ["a", "c"] and str(errors["b"]) == "got no engine"
        assert counts == [1, 2, 3] and _Process.ended == 0
    assert _Process.ended == 2


def test_an_interrupted_start_leaves_no_process() -> None:
    _Process.ended = 0
    with ExitStack() as stack, pytest.raises(KeyboardInterrupt):
        start_together({"a": _Process, "b": _break}, stack)
    assert _Process.ended == 1
