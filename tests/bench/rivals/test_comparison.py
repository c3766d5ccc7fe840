"""Who wins where: the sentence follows from the figures; every way to answer is judged on the same samples."""

from __future__ import annotations

import pytest

from adaptrt.bench.rivals.result import Entry, verdict
from adaptrt.bench.timing.interleave import Spread


def entry(name: str, milliseconds: float, quality: float) -> Entry:
    spread = Spread(milliseconds, milliseconds, milliseconds)
    adaptive = name.startswith("adaptive")
    return Entry(name, adaptive, None, None, {}, quality, 0.0, {1: spread}, {1: spread.scaled(0.1)})


DENSE, INT8 = entry("dense float32", 10, 0.99), entry("dense int8", 4, 0.985)
NARROW = entry("uniform width 1/4", 2, 0.90)


def test_adaptive_wins_between() -> None:
    points = [
        entry("adaptive int8", ms, quality) for ms, quality in ((1.5, 0.89), (2.5, 0.95), (3, 0.97), (4.5, 0.985))
    ]
    assert verdict([*points, DENSE, INT8, NARROW], 1) == (
        "At batch 1 adaptive pays here between 1.50 and 3.00 ms (adaptive int8); above that take dense int8 (4.00 ms)."
    )
    assert verdict([*points[1:], DENSE, INT8, NARROW], 1) == (
        "At batch 1 adaptive pays here between 2.50 and 3.00 ms (adaptive int8); above that take dense int8 (4.00 ms); "
        "below that uniform width 1/4 (2.00 ms, 0.9000)."
    )


def test_a_point_between_that_loses_is_told() -> None:
    points = [entry("adaptive", 1.5, 0.8), entry("adaptive", 2.2, 0.9), entry("adaptive", 3, 0.95)]
    assert verdict([*points, DENSE, INT8, NARROW], 1).endswith("; 1 of its points between are beaten.")


def test_it_does_not_pay() -> None:
    points = [entry("adaptive", 5, 0.985), entry("adaptive", 11, 0.989)]
    assert verdict([*points, DENSE, INT8, NARROW], 1) == (
        "At batch 1 it does not pay here: take dense int8 (4.00 ms, 0.9850)."
    )


@pytest.mark.parametrize("more", [0.0004, 0.0006])
def test_as_good_is_not_better(more: float) -> None:
    said = verdict([entry("adaptive", 4.1, INT8.quality + more), DENSE, INT8], 1)
    assert ("does not pay" in said) == (more < 0.0005)
