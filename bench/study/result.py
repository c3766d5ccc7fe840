"""What the study found, as it stands in its JSON file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptrt.bench.reports.result_json import read_json


@dataclass(frozen=True)
class SeedEntry:
    """One way to answer in one seed.

    Attributes:
        name: What it is called.
        method: What it is an example of.
        form: The precision, and how it came to be.
        work: Share of the dense work; None: it is not told.
        quality: On test samples.
        milliseconds: Of one call at batch 1, the median.
        over_dense: That over the dense network's in float32, measured in turns with it.
    """

    name: str
    method: str
    form: str
    work: float | None
    quality: float
    milliseconds: float
    over_dense: float


@dataclass(frozen=True)
class SeedResult:
    """One seed.

    Attributes:
        seed: Its number.
        verdict: Who wins where in it.
        everything: What the adaptive network takes with everything running, by what it is compared with.
        entries: Everything that was measured.
        left_out: What could not be made, and why.
        machine: What it was measured on.
        source: Command and commit.
    """

    seed: int
    verdict: str
    everything: dict[str, float]
    entries: list[SeedEntry]
    left_out: list[str]
    machine: dict[str, Any]
    source: dict[str, Any]


@dataclass(frozen=True)
class Over:
    """A quantity over seeds.

    Attributes:
        mean: Of all seeds.
        deviation: Standard deviation, of a sample; None with one seed.
        seeds: Its value in each.
    """

    mean: float
    deviation: float | None
    seeds: list[float]


@dataclass(frozen=True)
class TimeRow:
    """All methods within the same measured time.

    Attributes:
        over_dense: Share of the time that the dense network takes in float32.
        milliseconds: That share of its mean over the seeds.
        quality: Of each method's best example that takes no longer; those that have none in every seed are left out.
        wins: In how many seeds each method is the best, ties within a hair among them.
        ahead: Quality of the best adaptive one less that of the best rival; None where one of them has none.
    """

    over_dense: float
    milliseconds: float
    quality: dict[str, Over]
    wins: dict[str, int]
    ahead: Over | None


@dataclass(frozen=True)
class StudyResult:
    """All that the study found.

    Attributes:
        benchmark: "study".
        data: Name of the data set.
        metric: What quality counts.
        samples: It was measured on.
        effort: Share of the samples that every epoch saw.
        epochs: Of every network, by phase.
        batch: Samples of a call.
        threads: Threads that one operator may use.
        methods: In the order of the table.
        rows: Fastest first.
        everything: What the adaptive network takes with everything running, by what it is compared with.
        verdict: Where adaptive pays, in one sentence.
        seeds: Each by itself.
        source: Command and commit.
    """

    benchmark: str
    data: str
    metric: str
    samples: int
    effort: float
    epochs: dict[str, dict[str, int]]
    batch: int
    threads: int
    methods: list[str]
    rows: list[TimeRow]
    everything: dict[str, Over]
    verdict: str
    seeds: list[SeedResult]
    source: dict[str, Any]


def read_result(path: Path) -> StudyResult:
    """Read a result back.

    Raises:
        BenchError: There is no such file, or it holds something else.
    """
    return read_json(path, StudyResult, "a result of the study; run it again")
