"""Measure several things in turn, round by round, so that a machine's drift hits all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from adaptrt.bench.errors import BenchError
from adaptrt.bench.timing.session_process import Feed


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a measured quantity over rounds."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """The spread of at least one value.

        Raises:
            BenchError: There is none.
        """
        if not values:
            raise BenchError("got no values, expected at least one round")
        low, median, high = (float(quartile) for quartile in np.percentile(values, (25, 50, 75)))
        return Spread(median, low, high)

    def scaled(self, factor: float) -> Spread:
        """The spread of ``factor`` (positive) times the quantity."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)

    def into(self, dividend: float) -> Spread:
        """The spread of ``dividend`` over the quantity; the quartiles change places."""
        return Spread(dividend / self.median, dividend / self.high, dividend / self.low)


class Timer(Protocol):
    """What can be timed: a ``SessionProcess``."""

    def time(self, feeds: Sequence[Feed], *, warm: int = 1, runs: int = 1) -> list[list[float]]:
        """Seconds of every run, a list per feed."""


@dataclass(frozen=True)
class Case:
    """One thing to measure: a process and what to feed it. Several cases may share a process."""

    name: str
    process: Timer
    feeds: Sequence[Feed]


@dataclass(frozen=True)
class Timing:
    """What was measured of a case.

    Attributes:
        seconds: Time of one run.
        ratio: That time over the baseline's of the same round.
    """

    seconds: Spread
    ratio: Spread


def interleave(
    cases: Sequence[Case],
    *,
    baseline: str,
    rounds: int,
    warm: int = 1,
    runs: int = 3,
    on_turn: Callable[[], None] | None = None,
) -> dict[str, Timing]:
    """Measure cases in rounds; in every round each has one turn, and the order is reversed every time.

    A turn's time is the mean over the case's feeds of the median over the runs of each.

    Args:
        cases: What to measure; names differ.
        baseline: Name of the case that ratios are relative to.
        rounds: At least 1.
        warm: Runs before each turn that do not count: another process had the caches.
        runs: Runs of each feed in a turn.
        on_turn: Called after every turn, ``rounds * len(cases)`` times.

    Returns:
        A timing for each case, in the order of ``cases``.

    Raises:
        BenchError: Names repeat, the baseline is none of them, no rounds, or a process failed.
    """
    names = [case.name for case in cases]
    if len(set(names)) < len(names) or baseline not in names:
        raise BenchError(f"got cases {names} and baseline {baseline!r}, expected different names, the baseline in them")
    if rounds < 1:
        raise BenchError(f"got {rounds} rounds, expected at least 1")
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for case in cases if turn % 2 == 0 else reversed(cases):
            seconds = case.process.time(case.feeds, warm=warm, runs=runs)
            times[case.name].append(statistics.fmean(statistics.median(own) for own in seconds))
            if on_turn is not None:
                on_turn()
    against = times[baseline]
    return {
        name: Timing(Spread.of(own), Spread.of([a / b for a, b in zip(own, against, strict=True)]))
        for name, own in times.items()
    }


def runs_per_turn(case: Case, seconds: float, *, most: int = 32) -> int:
    """How many runs of each feed fill ``seconds``, 1..``most``; runs the case to find out."""
    once = sum(own[0] for own in case.process.time(case.feeds, warm=1, runs=1))
    return max(1, min(most, round(seconds / once)))
