"""Latencies counted by bounds."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.runtime.errors import TelemetryError
from adaptrt.runtime.telemetry import LatencyHistogram


def test_a_bound_is_inclusive_and_counts_add_up() -> None:
    histogram = LatencyHistogram((0.001, 0.01))
    for seconds in (0.0, 0.001, 0.0011, 0.01, 5.0):
        histogram.observe(seconds)
    buckets, sum_s = histogram.snapshot()
    assert buckets == [(0.001, 2), (0.01, 4), (math.inf, 5)]
    assert sum_s == pytest.approx(5.0121)


@given(st.lists(st.floats(0, 100), max_size=50))
def test_it_counts_as_numpy_does(latencies: list[float]) -> None:
    histogram = LatencyHistogram()
    for seconds in latencies:
        histogram.observe(seconds)
    buckets, sum_s = histogram.snapshot()
    assert [count for _, count in buckets] == [int(np.sum(np.array(latencies) <= bound)) for bound, _ in buckets]
    assert sum_s == pytest.approx(sum(latencies))


@pytest.mark.parametrize("seconds", [math.nan, -1e-9, -math.inf])
def test_what_is_no_latency_is_not_counted(seconds: float) -> None:
    histogram = LatencyHistogram()
    histogram.observe(seconds)
    assert histogram.snapshot()[0][-1] == (math.inf, 0)


@pytest.mark.parametrize("bounds", [(), (1.0, 1.0), (2.0, 1.0), (math.nan, 1.0)])
def test_bounds_rise(bounds: tuple[float, ...]) -> None:
    with pytest.raises(TelemetryError, match="expected rising numbers"):
        LatencyHistogram(bounds)


def test_threads_lose_no_call() -> None:
    histogram = LatencyHistogram()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(histogram.observe, [0.003] * 4000))
    assert histogram.snapshot()[0][-1][1] == 4000
