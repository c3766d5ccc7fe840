"""Whether a stage still fits: from what it took before."""

from __future__ import annotations

import math

import pytest

from adaptrt.runtime.device.stage_times import Deadline, StageTimes


def test_what_never_ran_takes_for_ever():
    times = StageTimes()
    assert times.high(0, 1) == math.inf and not times.knows(1, 1)
    times.add(0, 1, 0.001)
    assert times.high(0, 1) < 0.002 and times.high(1, 1) == math.inf
    assert times.knows(1, 1) and not times.knows(2, 1) and not times.knows(1, 64)


def test_rare_slow_runs_are_counted_in_and_forgotten():
    times = StageTimes()
    for run in range(200):
        times.add(0, 1, 0.010 if run % 50 == 0 else 0.001)
    assert times.high(0, 1) >= 0.010
    for _ in range(300):
        times.add(0, 1, 0.001)
    assert times.high(0, 1) == pytest.approx(0.0011)


def test_fewer_rows_count_as_more_and_more_as_many_times():
    times = StageTimes()
    times.add(0, 8, 0.008)
    assert times.high(0, 3) == times.high(0, 8)
    assert times.high(0, 16) == pytest.approx(2 * times.high(0, 8))
    times.add(0, 64, 0.050)
    assert times.high(0, 33) == pytest.approx(0.055)


def test_a_deadline_counts_from_now():
    now = [0.0]
    times = StageTimes()
    times.add(1, 1, 0.004)
    deadline = Deadline(times, 0.010, lambda: now[0])
    assert deadline.fits(1, 1)
    now[0] = 0.0058
    assert not deadline.fits(1, 1)
    deadline.took(0, 1, 0.002)
    assert times.high(0, 1) == pytest.approx(0.0022)
