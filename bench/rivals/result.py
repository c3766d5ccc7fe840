"""What a comparison with static models found, and who wins where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptrt.bench.reports.result_json import read_json
from adaptrt.bench.timing.interleave import Spread

CLEARLY = 0.0005
"""By how much a quality has to be above another one's to be the better."""


@dataclass(frozen=True)
class Entry:
    """One way to answer.

    Attributes:
        name: ``adaptive``, ``adaptive int8`` or what the static model is called.
        adaptive: Whether it is a point of the bundle's.
        budget: Share of the dense work that was asked for; None of static models.
        work: Share of the bundle's dense work: what was done on the samples quality was measured on; of a further
            network that always does the same, that. None of the bundle's own dense model and its uniform widths.
        knobs: That were fed.
        quality: Mean over the samples.
        standard_error: Of that mean.
        latency_ms: Per batch size, milliseconds of one call.
        over_dense: Per batch size, that time over the dense model's in float32, of the same round.
        network: Whose weights it has: ``adaptive``, ``dense``, ``uniform width`` or a further network's name.
        form: What was made of them: the precision, and how it came to be where there are several ways.
    """

    name: str
    adaptive: bool
    budget: float | None
    work: float | None
    knobs: dict[str, Any]
    quality: float
    standard_error: float
    latency_ms: dict[int, Spread]
    over_dense: dict[int, Spread]
    network: str = ""
    form: str = ""


@dataclass(frozen=True)
class RivalComparison:
    """What ``compare_rivals`` measured.

    Attributes:
        name: The bundle's.
        metric: What quality counts.
        samples: It was measured on.
        data: Where these come from.
        batches: Batch sizes.
        threads: Threads that one operator may use.
        rounds: Per batch size.
        entries: Adaptive points, cheapest first, then static models.
        left_out: Static models that could not be made, and why.
        verdicts: Per batch size, in one sentence.
        machine: What it was measured on.
        source: Command and commit.
    """

    name: str
    metric: str
    samples: int
    data: str
    batches: tuple[int, ...]
    threads: int
    rounds: dict[int, int]
    entries: tuple[Entry, ...]
    left_out: tuple[str, ...]
    verdicts: dict[int, str]
    machine: dict[str, Any]
    source: dict[str, Any]


def read_comparison(path: Path) -> RivalComparison:
    """Read a comparison back.

    Raises:
        BenchError: There is no such file, or it holds something else.
    """
    return read_json(path, RivalComparison, "a comparison with rivals; measure again")


def verdict(entries: Sequence[Entry], batch: int) -> str:
    """Where adaptive points beat every static model that is as fast, in one sentence."""
    static = sorted((e for e in entries if not e.adaptive), key=lambda e: e.latency_ms[batch].median)
    adaptive = sorted((e for e in entries if e.adaptive), key=lambda e: e.latency_ms[batch].median)
    won = [each for each in adaptive if each.quality > _best_within(static, each, batch) + CLEARLY]
    best = max(static, key=lambda e: (round(e.quality, 3), -e.latency_ms[batch].median))
    if not won:
        fast = [e for e in static if e.quality >= best.quality - 0.01]
        instead = min(fast, key=lambda e: e.latency_ms[batch].median)
        return (
            f"At batch {batch} it does not pay here: take {instead.name} ({instead.latency_ms[batch].median:.2f} ms, "
            f"{instead.quality:.4f})."
        )
    low, high = won[0].latency_ms[batch].median, won[-1].latency_ms[batch].median
    names = " and ".join(dict.fromkeys(each.name for each in won))
    said = f"At batch {batch} adaptive pays here between {low:.2f} and {high:.2f} ms ({names})"
    above = [e for e in static if e.latency_ms[batch].median > high and e.quality > won[-1].quality + CLEARLY]
    below = [e for e in static if e.latency_ms[batch].median < low]
    if above:
        said += f"; above that take {above[0].name} ({above[0].latency_ms[batch].median:.2f} ms)"
    if below:
        take = max(below, key=lambda e: e.quality)
        said += f"; below that {take.name} ({take.latency_ms[batch].median:.2f} ms, {take.quality:.4f})"
    lost = [
        e for e in adaptive if low < e.latency_ms[batch].median < high and e not in won and not _beaten(e, won, batch)
    ]
    if lost:
        said += f"; {len(lost)} of its points between are beaten"
    return f"{said}."


def _best_within(static: Sequence[Entry], point: Entry, batch: int) -> float:
    """The best quality of a static model that takes no longer."""
    time = point.latency_ms[batch].median
    return max((e.quality for e in static if e.latency_ms[batch].median <= time), default=-np.inf)


def _beaten(point: Entry, others: Sequence[Entry], batch: int) -> bool:
    """Whether another adaptive point is at least as good and as fast, so that nobody would run this one."""
    time = point.latency_ms[batch].median
    return any(o.quality >= point.quality and o.latency_ms[batch].median <= time for o in others)
