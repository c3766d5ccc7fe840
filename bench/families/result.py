"""What the comparison of the families found, as it stands in its JSON file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptrt.bench.reports.result_json import read_json
from adaptrt.bench.timing.interleave import Spread
from adaptrt.runtime.bundle.bundle_file import KnobValue


@dataclass(frozen=True)
class FamilyRow:
    """One setting of one network.

    Attributes:
        knobs: What was fed; knobs not named stood at their defaults.
        macs_fraction: Mean multiply-accumulates on test images over those of the dense network.
        accuracy: On test images.
        timed_macs_fraction: Per batch size, the share of the very images that were timed.
        latency_ms: Per batch size, milliseconds of one run, the mean over the images or batches.
        ratio: That over the dense network's.
    """

    knobs: dict[str, KnobValue]
    macs_fraction: float
    accuracy: float
    timed_macs_fraction: dict[int, float]
    latency_ms: dict[int, Spread]
    ratio: dict[int, Spread]


@dataclass(frozen=True)
class FamilyNetworkRows:
    """One network: its training, in epochs of each phase, and its settings from the cheapest."""

    name: str
    epochs: dict[str, int]
    points: list[FamilyRow]


@dataclass(frozen=True)
class DenseNetwork:
    """The dense network: accuracy on test images, multiply-accumulates of one image, milliseconds per batch size."""

    accuracy: float
    macs: int
    latency_ms: dict[int, Spread]


@dataclass(frozen=True)
class BudgetRow:
    """Every network at one budget.

    Attributes:
        fraction: Share of the dense network's multiply-accumulates that may be used.
        accuracy: On test images, by network; None where it cannot do with so little.
    """

    fraction: float
    accuracy: dict[str, float | None]


@dataclass(frozen=True)
class Result:
    """All that one run of the benchmark found.

    Attributes:
        benchmark: "families".
        data: Name of the data set.
        test_images: On which accuracy was measured.
        timed_images: On which latency was measured.
        batches: Batch sizes.
        threads: Threads that one operator may use.
        rounds: Turns of each point.
        dense: The network that all are compared with.
        networks: The others.
        budgets: All of them at the same budgets.
        machine: What it was measured on.
        source: Command and commit.
    """

    benchmark: str
    data: str
    test_images: int
    timed_images: int
    batches: list[int]
    threads: int
    rounds: int
    dense: DenseNetwork
    networks: list[FamilyNetworkRows]
    budgets: list[BudgetRow]
    machine: dict[str, Any]
    source: dict[str, Any]


def read_result(path: Path) -> Result:
    """Read a result back.

    Raises:
        BenchError: There is no such file, or it holds something else.
    """
    return read_json(path, Result, "a result of this benchmark; measure again")
