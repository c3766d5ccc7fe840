"""Latency of a bundle over its operating points, beside its dense model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adaptrt.bench.errors import BenchError
from adaptrt.bench.reports.result_json import write_json
from adaptrt.bench.timing.chosen_points import Point, choose_points
from adaptrt.bench.timing.engine_choice import EngineChoice, calibrated_bundle
from adaptrt.bench.timing.interleave import Case, Spread, Timing, interleave
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.bench.timing.samples import batches_of, cut_to_length, find_inputs
from adaptrt.bench.timing.session_process import Array, BundleProcess, Feed, SessionProcess
from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND
from adaptrt.runtime.bundle.bundle_file import Bundle, KnobValue, read_bundle
from adaptrt.runtime.bundle.schema import MACS_OUTPUT, PRICE_KNOB
from adaptrt.runtime.inputs import knob_arrays

__all__ = ["BundleLatency", "LatencyRow", "measure_bundle", "open_bundle", "write_json"]

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, 0..1."""

_USUAL = EngineChoice()
_DENSE = "dense"
_SAMPLES = 16  # different samples timed where a batch holds fewer
_EXIT_SAMPLES = 64  # where they may leave early: what one takes says little of the mean
_EXIT_RUNS = 3  # of each of these in a turn
_SECONDS = 30.0  # that one batch size may take, where rounds are not given
_FEWEST, _MOST = 3, 25  # rounds then
_LONG_SECONDS = 0.6  # a run this long does not notice that another process had the caches


@dataclass(frozen=True)
class LatencyRow:
    """One operating point.

    Attributes:
        price: The price that was fed; None for a bundle without one.
        knobs: All knob values that were fed; those not named stood at their defaults.
        macs_fraction: Mean share of the dense MACs on the held-out split.
        quality: On the held-out split; None where it was not measured.
        frontier: Whether no other point of the curve beats it on the calibration data.
        calibrated: False for a point that the runtime solved between two of the curve; its share and
            quality are then the expected ones.
        timed_macs_fraction: Per batch size, the mean share of the very inputs that were timed.
        latency_ms: Per batch size, milliseconds of one call.
        ratio: Per batch size, that time over the dense model's; None without a dense model.
    """

    price: float | None
    knobs: dict[str, KnobValue]
    macs_fraction: float
    quality: float | None
    frontier: bool
    calibrated: bool
    timed_macs_fraction: dict[int, float]
    latency_ms: dict[int, Spread]
    ratio: dict[int, Spread] | None


@dataclass(frozen=True)
class BundleLatency:
    """What ``measure_bundle`` measured.

    Attributes:
        name: The bundle's.
        stages: Its number of stages; on ONNX Runtime a plain session ran a single one, the runtime all others.
        backend: Which of the runtime's backends ran it.
        engine: That engine with its version, and its precision where it has several.
        batches: Batch sizes.
        threads: Threads that one operator may use.
        rounds: Rounds per batch size.
        samples: Per batch size, samples that were timed.
        inputs: What was fed: "given", "golden" (the bundle's own samples) or "random".
        rows: Operating points, cheapest first.
        dense: Per batch size, milliseconds of one call of the dense model on the same engine; None if the bundle
            has none, or the engine is one that would have to be built from it.
        dense_quality: On the held-out split.
        dense_macs: Multiply-accumulates of one sample in the dense model.
        quality_metric: What qualities count, such as "accuracy".
        machine: What it was measured on.
        source: Command and commit.
    """

    name: str
    stages: int
    backend: str
    engine: str
    batches: tuple[int, ...]
    threads: int
    rounds: dict[int, int]
    samples: dict[int, int]
    inputs: str
    rows: tuple[LatencyRow, ...]
    dense: dict[int, Spread] | None
    dense_quality: float | None
    dense_macs: int
    quality_metric: str | None
    machine: dict[str, Any]
    source: dict[str, Any]


def measure_bundle(
    folder: Path,
    *,
    batches: Sequence[int] = (1, 64),
    threads: int = 1,
    points: int = 11,
    rounds: int | None = None,
    inputs: Array | Mapping[str, Array] | None = None,
    length: int | None = None,
    choice: EngineChoice = _USUAL,
    progress: Progress | None = None,
) -> BundleLatency:
    """Measure a bundle's latency from its cheapest point to everything running, beside the dense model's.

    The adaptive and the dense graph have a process each, and take turns point by point, round by round.
    The work depends on the input, so a small batch is timed on several different samples (16 of them at
    batch 1), each run in turn: a round's time is the mean over these inputs, and reported are median
    and quartiles over rounds. Where samples may leave early it depends on the input more than anything
    else: there they are 64, and a round's time is the mean over them of the median of three runs of each.

    Args:
        folder: A calibrated bundle.
        batches: Batch sizes.
        threads: Threads that one operator may use.
        points: Operating points, at least 2; see ``choose_points``.
        rounds: None takes as many as fit into half a minute per batch size, 3 to 25.
        inputs: Samples to feed, ``[samples, ...]`` as the bundle's input, or by name; spread over all of them. None
            takes the samples in the bundle's ``golden.npz``, or noise, whose work is not typical.
        length: Tokens that all samples are cut to, shorter ones being left out; None: they stay as they are.
        choice: The engine. TensorRT's have no engine of the dense model: there is nothing beside them.
        progress: Told how far it is.

    Raises:
        BenchError: The bundle is not calibrated or not of that kind, ``inputs`` do not fit it, a number
            makes no sense, or a process failed.
        BundleError: The bundle is damaged.
        ExportError: Its ``golden.npz`` is damaged.
    """
    tell = progress or _silent
    folder, bundle = Path(folder), read_bundle(folder)
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise BenchError(f"got batches {list(batches)}, expected different sizes of at least 1")
    bundle = calibrated_bundle(folder, bundle, choice)
    chosen = choose_points(bundle, points)
    samples, origin = find_inputs(folder, bundle, inputs)
    if length is not None:
        samples = cut_to_length(samples, bundle, length)
    machine = describe_machine()
    tell("loading the graphs", 0.0)
    with ExitStack() as stack:
        adaptive = stack.enter_context(open_bundle(folder, bundle, threads=threads, choice=choice))
        dense = _open_dense(folder, bundle, threads, replace(choice, backend=adaptive.backend))
        if dense is not None:
            stack.enter_context(dense)
        measurement = _Measurement(bundle, chosen, samples, adaptive, dense)
        measured: dict[int, _Measured] = {}
        for index, batch in enumerate(batches):

            def tell_batch(share: float, index: int = index, batch: int = batch) -> None:
                tell(f"measuring batch {batch}", (index + share) / len(batches))

            measured[batch] = measurement.run(batch, rounds, tell_batch)
    return BundleLatency(
        name=bundle.name,
        stages=len(bundle.stages),
        backend=adaptive.backend,
        engine=adaptive.engine,
        batches=tuple(batches),
        threads=threads,
        rounds={batch: each.rounds for batch, each in measured.items()},
        samples={batch: each.samples for batch, each in measured.items()},
        inputs=origin,
        rows=tuple(_row(index, point, measured, dense is not None) for index, point in enumerate(chosen)),
        dense={b: m.timings[_DENSE].seconds.scaled(1e3) for b, m in measured.items()} if dense else None,
        dense_quality=bundle.dense.quality,
        dense_macs=bundle.dense.macs,
        quality_metric=bundle.quality_metric,
        machine=machine,
        source=describe_source(),
    )


def open_bundle(folder: Path, bundle: Bundle, *, threads: int = 1, choice: EngineChoice = _USUAL) -> SessionProcess:
    """A process that runs a bundle: a stage of its own on ONNX Runtime as a plain session, all else on the runtime.

    Raises:
        BenchError: It does not start.
    """
    if len(bundle.stages) > 1 or not choice.portable or bundle.dense.runs_everything:
        return BundleProcess(folder, threads=threads, choice=choice)
    outputs = [spec.name for spec in bundle.outputs]
    return SessionProcess(folder / bundle.stages[0].file, threads=threads, outputs=outputs)


def _open_dense(folder: Path, bundle: Bundle, threads: int, choice: EngineChoice) -> SessionProcess | None:
    """A process that runs the dense model on the same engine; None where there is no model, or no engine of it."""
    if bundle.dense.file is None:
        return None
    if choice.backend == DEFAULT_BACKEND:
        return SessionProcess(folder / bundle.dense.file, threads=threads)
    choice = replace(
        choice, precision=None if choice.precision == "int8" else choice.precision
    )  # there is no such file
    return BundleProcess(folder, threads=threads, choice=choice, dense=True) if BACKENDS[choice.backend].dense else None


@dataclass(frozen=True)
class _Measured:
    """One batch size: rounds, samples timed, a timing for each point (by its index) and the dense graph, shares."""

    rounds: int
    samples: int
    timings: Mapping[str, Timing]
    shares: list[float]


class _Measurement:
    """The processes with their points and samples."""

    def __init__(
        self,
        bundle: Bundle,
        chosen: Sequence[Point],
        samples: Mapping[str, Array],
        adaptive: SessionProcess,
        dense: SessionProcess | None,
    ) -> None:
        self._samples = samples
        self._exits = len(bundle.stages) > 1
        self._adaptive, self._dense = adaptive, dense
        self._knob_feeds: list[dict[str, str]] = []
        for index, point in enumerate(chosen):
            arrays = knob_arrays(bundle.knobs, point.knobs)
            adaptive.load({f"{name} {index}": array for name, array in arrays.items()})
            self._knob_feeds.append({name: f"{name} {index}" for name in arrays if name in adaptive.inputs})

    def run(self, batch: int, rounds: int | None, tell: Callable[[float], None]) -> _Measured:
        """Measure all points and the dense graph at one batch size."""
        feeds = self._load(batch)
        points = [[{**feed, **knobs} for feed in feeds] for knobs in self._knob_feeds]
        cases = [Case(str(index), self._adaptive, own) for index, own in enumerate(points)]
        if self._dense is not None:
            known = self._dense.inputs
            cases.append(
                Case(_DENSE, self._dense, [{n: key for n, key in feed.items() if n in known} for feed in feeds])
            )
        shares = [float(np.mean([self._adaptive.output(MACS_OUTPUT, feed).mean() for feed in own])) for own in points]
        once = cases[-1].process.time(cases[-1].feeds[:1], warm=1, runs=1)[0][0]
        warm = int(once < _LONG_SECONDS)
        runs = _EXIT_RUNS if self._exits and len(feeds) > 1 else 1
        if rounds is None:
            # A guess is enough: all the points together take about two thirds of the dense time each.
            round_seconds = once * (len(feeds) * runs + warm) * len(cases) * 2 / 3
            rounds = max(_FEWEST, min(_MOST, round(_SECONDS / round_seconds)))
        done, total = 0, rounds * len(cases)

        def on_turn() -> None:
            nonlocal done
            done += 1
            tell(done / total)

        baseline = cases[-1].name
        timings = interleave(cases, baseline=baseline, rounds=rounds, warm=warm, runs=runs, on_turn=on_turn)
        return _Measured(rounds, len(feeds) * batch, timings, shares)

    def _load(self, batch: int) -> list[Feed]:
        """Give both processes their inputs: one batch, or several small ones."""
        most = _EXIT_SAMPLES if self._exits else _SAMPLES
        feeds: list[dict[str, str]] = []
        for name, samples in self._samples.items():
            arrays = {f"{name} {index} of {batch}": part for index, part in enumerate(batches_of(samples, batch, most))}
            for process in (self._adaptive, self._dense):
                if process is not None:
                    process.load(arrays)
            feeds = feeds or [{} for _ in arrays]
            for feed, key in zip(feeds, arrays, strict=True):
                feed[name] = key
        return [*feeds]


def _silent(_what: str, _share: float) -> None:
    """Progress that nobody watches."""


def _row(index: int, point: Point, measured: Mapping[int, _Measured], has_dense: bool) -> LatencyRow:
    timings = {batch: each.timings[str(index)] for batch, each in measured.items()}
    return LatencyRow(
        price=_price(point),
        knobs=point.knobs,
        macs_fraction=point.macs_fraction,
        quality=point.quality,
        frontier=point.frontier,
        calibrated=point.calibrated,
        timed_macs_fraction={batch: each.shares[index] for batch, each in measured.items()},
        latency_ms={batch: timing.seconds.scaled(1e3) for batch, timing in timings.items()},
        ratio={batch: timing.ratio for batch, timing in timings.items()} if has_dense else None,
    )


def _price(point: Point) -> float | None:
    value = point.knobs.get(PRICE_KNOB)
    return value[0] if isinstance(value, list) else value
