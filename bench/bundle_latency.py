"""Latency of a bundle over its operating points, beside its dense model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptrt.bench.chosen_points import Point, choose_points
from adaptrt.bench.errors import BenchError
from adaptrt.bench.interleave import Case, Spread, Timing, interleave
from adaptrt.bench.machine import describe_machine, describe_source
from adaptrt.bench.result_json import write_json
from adaptrt.bench.session_process import Array, Feed, SessionProcess
from adaptrt.export.reference import GOLDEN_FILE, read_golden
from adaptrt.runtime.bundle import Bundle, TensorSpec, read_bundle
from adaptrt.runtime.bundle_schema import MACS_OUTPUT, PRICE_KNOB
from adaptrt.runtime.inputs import knob_arrays

__all__ = ["BundleLatency", "LatencyRow", "measure_bundle", "write_json"]

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, 0..1."""

_DENSE = "dense"
_SAMPLES = 16  # different samples timed where a batch holds fewer
_SECONDS = 30.0  # that one batch size may take, where rounds are not given
_FEWEST, _MOST = 3, 25  # rounds then
_LONG_SECONDS = 0.6  # a run this long does not notice that another process had the caches


@dataclass(frozen=True)
class LatencyRow:
    """One operating point.

    Attributes:
        price: The price that was fed; None for a bundle without one.
        knobs: All knob values that were fed.
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
    knobs: dict[str, float]
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
        batches: Batch sizes.
        threads: Threads that one operator may use.
        rounds: Rounds per batch size.
        inputs: What was fed: "given", "golden" (the bundle's own samples) or "random".
        rows: Operating points, cheapest first.
        dense: Per batch size, milliseconds of one call of the dense model; None if the bundle has none.
        dense_quality: On the held-out split.
        dense_macs: Multiply-accumulates of one sample in the dense model.
        quality_metric: What qualities count, such as "accuracy".
        machine: What it was measured on.
        source: Command and commit.
    """

    name: str
    batches: tuple[int, ...]
    threads: int
    rounds: dict[int, int]
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
    inputs: Array | None = None,
    progress: Progress | None = None,
) -> BundleLatency:
    """Measure a bundle's latency from its cheapest point to everything running, beside the dense model's.

    The adaptive and the dense graph have a process each, and take turns point by point, round by round.
    The work depends on the input, so a small batch is timed on several different samples (16 of them at
    batch 1), each run in turn: a round's time is the mean over these inputs, and reported are median
    and quartiles over rounds.

    Args:
        folder: A calibrated bundle of one stage and one input.
        batches: Batch sizes.
        threads: Threads that one operator may use.
        points: Operating points, at least 2; see ``choose_points``.
        rounds: None takes as many as fit into half a minute per batch size, 3 to 25.
        inputs: Samples to feed, ``[samples, ...]`` as the bundle's input; spread over all of them. None
            takes the samples in the bundle's ``golden.npz``, or noise, whose work is not typical.
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
    if len(bundle.stages) != 1 or len(bundle.inputs) != 1:
        raise BenchError(
            f"bundle {bundle.name!r} has {len(bundle.stages)} stages and {len(bundle.inputs)} inputs, "
            "expected one of each; measure another"
        )
    chosen = choose_points(bundle, points)
    samples, origin = _samples(folder, bundle, inputs)
    machine = describe_machine()
    tell("loading the graphs", 0.0)
    with ExitStack() as stack:
        adaptive = stack.enter_context(SessionProcess(folder / bundle.stages[0].file, threads=threads))
        dense = None
        if bundle.dense.file is not None:
            dense = stack.enter_context(SessionProcess(folder / bundle.dense.file, threads=threads))
        measurement = _Measurement(bundle, chosen, samples, adaptive, dense)
        measured: dict[int, _Measured] = {}
        for index, batch in enumerate(batches):

            def tell_batch(share: float, index: int = index, batch: int = batch) -> None:
                tell(f"measuring batch {batch}", (index + share) / len(batches))

            measured[batch] = measurement.run(batch, rounds, tell_batch)
    return BundleLatency(
        name=bundle.name,
        batches=tuple(batches),
        threads=threads,
        rounds={batch: each.rounds for batch, each in measured.items()},
        inputs=origin,
        rows=tuple(_row(index, point, measured, dense is not None) for index, point in enumerate(chosen)),
        dense={b: m.timings[_DENSE].seconds.scaled(1e3) for b, m in measured.items()} if dense else None,
        dense_quality=bundle.dense.quality,
        dense_macs=bundle.dense.macs,
        quality_metric=bundle.quality_metric,
        machine=machine,
        source=describe_source(),
    )


@dataclass(frozen=True)
class _Measured:
    """One batch size: rounds made, a timing for each point (by its index) and the dense graph, shares."""

    rounds: int
    timings: Mapping[str, Timing]
    shares: list[float]


class _Measurement:
    """The processes with their points and samples."""

    def __init__(
        self,
        bundle: Bundle,
        chosen: Sequence[Point],
        samples: Array,
        adaptive: SessionProcess,
        dense: SessionProcess | None,
    ) -> None:
        self._input, self._samples = bundle.inputs[0].name, samples
        self._adaptive, self._dense = adaptive, dense
        self._knob_feeds: list[dict[str, str]] = []
        for index, point in enumerate(chosen):
            arrays = knob_arrays(bundle.knobs, point.knobs)
            adaptive.load({f"{name} {index}": array for name, array in arrays.items()})
            self._knob_feeds.append({name: f"{name} {index}" for name in arrays})

    def run(self, batch: int, rounds: int | None, tell: Callable[[float], None]) -> _Measured:
        """Measure all points and the dense graph at one batch size."""
        feeds = self._load(batch)
        points = [[{**feed, **knobs} for feed in feeds] for knobs in self._knob_feeds]
        cases = [Case(str(index), self._adaptive, own) for index, own in enumerate(points)]
        if self._dense is not None:
            cases.append(Case(_DENSE, self._dense, feeds))
        shares = [float(np.mean([self._adaptive.output(MACS_OUTPUT, feed).mean() for feed in own])) for own in points]
        once = cases[-1].process.time(cases[-1].feeds[:1], warm=1, runs=1)[0][0]
        warm = int(once < _LONG_SECONDS)
        if rounds is None:
            # A guess is enough: all the points together take about two thirds of the dense time each.
            round_seconds = once * (len(feeds) + warm) * len(cases) * 2 / 3
            rounds = max(_FEWEST, min(_MOST, round(_SECONDS / round_seconds)))
        done, total = 0, rounds * len(cases)

        def on_turn() -> None:
            nonlocal done
            done += 1
            tell(done / total)

        baseline = cases[-1].name
        timings = interleave(cases, baseline=baseline, rounds=rounds, warm=warm, runs=1, on_turn=on_turn)
        return _Measured(rounds, timings, shares)

    def _load(self, batch: int) -> list[Feed]:
        """Give both processes their inputs: one batch, or several small ones."""
        count = max(1, _SAMPLES // batch)
        have, wanted = len(self._samples), count * batch
        # Spread over all samples, which may be sorted by class; repeated where there are too few.
        picked = np.arange(wanted) * have // wanted if have >= wanted else np.arange(wanted) % have
        parts = self._samples[picked].reshape(count, batch, *self._samples.shape[1:])
        arrays = {f"input {index} of {batch}": part for index, part in enumerate(parts)}
        for process in (self._adaptive, self._dense):
            if process is not None:
                process.load(arrays)
        return [{self._input: name} for name in arrays]


def _silent(_what: str, _share: float) -> None:
    """Progress that nobody watches."""


def _row(index: int, point: Point, measured: Mapping[int, _Measured], has_dense: bool) -> LatencyRow:
    timings = {batch: each.timings[str(index)] for batch, each in measured.items()}
    return LatencyRow(
        price=point.knobs.get(PRICE_KNOB),
        knobs=point.knobs,
        macs_fraction=point.macs_fraction,
        quality=point.quality,
        frontier=point.frontier,
        calibrated=point.calibrated,
        timed_macs_fraction={batch: each.shares[index] for batch, each in measured.items()},
        latency_ms={batch: timing.seconds.scaled(1e3) for batch, timing in timings.items()},
        ratio={batch: timing.ratio for batch, timing in timings.items()} if has_dense else None,
    )


def _samples(folder: Path, bundle: Bundle, inputs: Array | None) -> tuple[Array, str]:
    """Samples to feed and where they come from."""
    spec = bundle.inputs[0]
    if inputs is not None:
        return _checked(np.asarray(inputs), spec), "given"
    golden = folder / GOLDEN_FILE
    if golden.is_file():
        return _checked(read_golden(golden)[0].inputs, spec), "golden"
    sizes = [size for size in spec.shape[1:] if isinstance(size, int)]
    if len(sizes) != len(spec.shape) - 1 or np.dtype(spec.dtype).kind != "f":
        raise BenchError(
            f"cannot make noise for input {spec.name!r} ({spec.dtype} {spec.shape}) of {bundle.name!r}; give inputs"
        )
    return np.random.default_rng(0).random((_SAMPLES, *sizes)).astype(spec.dtype), "random"


def _checked(samples: Array, spec: TensorSpec) -> Array:
    fits = samples.ndim == len(spec.shape) and len(samples) > 0 and samples.dtype == np.dtype(spec.dtype)
    if not fits or any(
        isinstance(size, int) and size != got for size, got in zip(spec.shape[1:], samples.shape[1:], strict=True)
    ):
        raise BenchError(
            f"got inputs {samples.dtype} {list(samples.shape)}, expected at least one sample of "
            f"{spec.name!r}: {spec.dtype} {spec.shape}; give others"
        )
    return samples
