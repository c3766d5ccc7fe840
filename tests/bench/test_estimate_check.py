"""An estimate beside the bundle: interpolated at equal work, and nothing compared where the bundle has no point."""

from __future__ import annotations

from typing import Any

import pytest

from adaptrt.bench.errors import BenchError
from adaptrt.bench.estimate_check import Result as Check
from adaptrt.bench.estimate_check import compare, tabulate
from adaptrt.bench.timing.bundle_latency import BundleLatency, LatencyRow
from adaptrt.bench.timing.estimate_result import Estimate, EstimateRow
from adaptrt.bench.timing.interleave import Spread


def spread(value: float) -> Spread:
    return Spread(value, value, value)


def row(families: tuple[str, ...], share: float, time: float, **rest: Any) -> EstimateRow:
    known: dict[str, Any] = {"reachable": True, **rest}
    return EstimateRow(families, share, share, known.pop("reachable"), {}, {1: spread(time)}, {}, **known)


def estimate(*rows: EstimateRow) -> Estimate:
    return Estimate("m", "t", 128, True, 1, (1,), 1, {1: 3}, (), rows, (), (), 1.0, {}, {})


def bundle(points: dict[float, float], ratio: bool = True) -> BundleLatency:
    rows = tuple(
        LatencyRow(
            {}, None, work, None, True, True, {1: 2 * work}, {1: spread(1.0)}, {1: spread(time)} if ratio else None
        )
        for work, time in points.items()
    )
    return BundleLatency("b", 1, "o", "o", (1,), 1, {1: 3}, {1: 4}, "golden", rows, None, None, 1, None, {}, {})


BOTH = ("acm", "exits")


def test_times_are_compared_at_equal_work() -> None:
    given = estimate(
        row(("acm",), 0.5, 0.9),
        row(BOTH, 1.0, 1.0, by_dense=True),
        row(BOTH, 1.02, 1.1),
        row(BOTH, 0.5, 0.6),
        row(BOTH, 0.75, 0.9),
        row(BOTH, 0.1, 0.2),
        row(BOTH, 0.3, 0.5, reachable=False),
        row(BOTH, 0.5, 0.3, precision="int8"),
    )
    rows = compare(given, bundle({0.25: 0.4, 0.5: 0.5, 1.0: 1.0}))
    assert [each.wanted for each in rows] == [1.02, 0.5, 0.75, 0.1]
    everything, half, between, below = rows
    assert everything.measured == pytest.approx(1.0) and everything.off == pytest.approx(0.1)
    assert half.measured == pytest.approx(0.5) and half.off == pytest.approx(0.2)
    assert between.measured == pytest.approx(0.75) and between.off == pytest.approx(0.2)
    assert below.measured is None and below.off is None
    table = tabulate(Check("m", "b", BOTH, 128, rows, 0.2, 0.1, {}, {}))
    assert table.row_count == 4


def test_what_cannot_be_compared() -> None:
    with pytest.raises(BenchError, match="without its dense model"):
        compare(estimate(row(BOTH, 0.5, 0.6)), bundle({0.5: 0.5}, ratio=False))
    with pytest.raises(BenchError, match="was it made of that model"):
        compare(estimate(row(BOTH, 0.5, 0.6)), bundle({0.9: 0.9, 1.0: 1.0}))
