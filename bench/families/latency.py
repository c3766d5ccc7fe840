"""The latency of many networks beside one dense network, all of them in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaptrt.bench.families.points import NetworkPoint
from adaptrt.bench.timing.bundle_latency import open_bundle
from adaptrt.bench.timing.interleave import Case, Spread, interleave
from adaptrt.bench.timing.samples import batches_of
from adaptrt.bench.timing.session_process import Array, SessionProcess
from adaptrt.runtime.bundle.bundle_file import Bundle, read_bundle
from adaptrt.runtime.bundle.schema import MACS_OUTPUT
from adaptrt.runtime.inputs import knob_arrays

_DENSE = "dense"
_WARM = 2

Turn = Callable[[str, int, int], None]
"""Called with what is measured, the turns done and all of them."""


@dataclass(frozen=True)
class Contender:
    """A network to time.

    Attributes:
        name: Of the network.
        file: A bundle's folder, or an ONNX file whose only input is the images.
        points: What to feed.
    """

    name: str
    file: Path
    points: Sequence[NetworkPoint]


@dataclass(frozen=True)
class PointTime:
    """A point at one batch size.

    Attributes:
        timed_share: Mean share of its own dense model's work that the images timed took; None for a
            dense network.
        milliseconds: Of one run, the mean over the images or batches.
        ratio: That time over the dense network's.
    """

    timed_share: float | None
    milliseconds: Spread
    ratio: Spread


@dataclass(frozen=True)
class Times:
    """What was measured: per batch size the dense network's milliseconds, and for each contender its points' times."""

    dense: dict[int, Spread]
    points: dict[int, dict[str, list[PointTime]]]


def measure_times(
    contenders: Sequence[Contender],
    dense: Path,
    images: Array,
    *,
    batches: Sequence[int],
    rounds: int,
    threads: int = 1,
    on_turn: Turn = lambda _what, _done, _total: None,
) -> Times:
    """Time all points of all networks and the dense one in turn, one network per process.

    At batch 1 every image is run by itself; a turn's time is the mean over the images.

    Args:
        contenders: The networks.
        dense: ONNX file of the dense network that times are relative to.
        images: ``[samples, ...]``; every batch size sees all of them.
        batches: Batch sizes.
        rounds: Turns of each point.
        threads: Threads that one operator may use.
        on_turn: Told how far it is.

    Raises:
        BenchError: A process failed.
        BundleError: A bundle is damaged.
    """
    times = Times({}, {})
    with ExitStack() as stack:
        baseline = stack.enter_context(SessionProcess(dense, threads=threads))
        running = []
        for contender in contenders:
            bundle = read_bundle(contender.file) if contender.file.is_dir() else None
            process = stack.enter_context(
                SessionProcess(contender.file, threads=threads)
                if bundle is None
                else open_bundle(contender.file, bundle, threads=threads)
            )
            running.append(_Running(contender, process, bundle))
        for batch in batches:
            parts = batches_of(images, batch, len(images))
            arrays = {f"{index} of {batch}": part for index, part in enumerate(parts)}
            for process in (baseline, *(bench.process for bench in running)):
                process.load(arrays)
            cases = [Case(_DENSE, baseline, [{baseline.inputs[0]: name} for name in arrays])]
            cases += [case for bench in running for case in bench.cases(list(arrays))]
            shares = {
                case.name: bench.share(case) for bench in running for case in cases if case.process is bench.process
            }
            done, total = 0, rounds * len(cases)

            def turn(batch: int = batch, total: int = total) -> None:
                nonlocal done
                done += 1
                on_turn(f"batch {batch}", done, total)

            timings = interleave(cases, baseline=_DENSE, rounds=rounds, warm=_WARM, runs=1, on_turn=turn)
            times.dense[batch] = timings[_DENSE].seconds.scaled(1e3)
            times.points[batch] = {
                bench.contender.name: [
                    PointTime(shares[name], timings[name].seconds.scaled(1e3), timings[name].ratio)
                    for name in bench.names
                ]
                for bench in running
            }
    return times


class _Running:
    """A contender in its process, its knob values loaded."""

    def __init__(self, contender: Contender, process: SessionProcess, bundle: Bundle | None) -> None:
        self.contender, self.process = contender, process
        self.names = [f"{contender.name} {index}" for index in range(len(contender.points))]
        self._input = process.inputs[0] if bundle is None else bundle.inputs[0].name
        self._adaptive = bundle is not None
        self._fed: list[dict[str, str]] = []
        for index, point in enumerate(contender.points):
            arrays = {} if bundle is None else knob_arrays(bundle.knobs, point.knobs)
            fed = {name: f"{name} {index}" for name in arrays if name in process.inputs}
            if fed:
                process.load({fed[name]: arrays[name] for name in fed})
            self._fed.append(fed)

    def cases(self, inputs: Sequence[str]) -> list[Case]:
        """A case for each point, over all inputs that were loaded."""
        return [
            Case(name, self.process, [{self._input: array, **fed} for array in inputs])
            for name, fed in zip(self.names, self._fed, strict=True)
        ]

    def share(self, case: Case) -> float | None:
        """Mean share of its dense model's work over the inputs of a case."""
        if not self._adaptive:
            return None
        return float(np.mean([self.process.output(MACS_OUTPUT, feed).mean() for feed in case.feeds]))
