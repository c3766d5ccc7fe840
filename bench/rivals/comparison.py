"""An adaptive bundle beside static models, all on the same samples and in turns: who is best within how much time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptrt.bench.errors import BenchError
from adaptrt.bench.rivals.static_models import FLOAT32, open_static_models
from adaptrt.bench.timing.bundle_latency import open_bundle
from adaptrt.bench.timing.chosen_points import Point, choose_points
from adaptrt.bench.timing.engine_choice import EngineChoice, calibrated_bundle
from adaptrt.bench.timing.interleave import Case, Spread, interleave
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.bench.timing.samples import batches_of, cut_to_length, find_inputs
from adaptrt.bench.timing.session_process import SessionProcess
from adaptrt.export.calibration.stage_records import batches_by_length, bundle_task, split_feeds
from adaptrt.models.data.padding import mask_name, only_axis
from adaptrt.models.data.split import DataSplits
from adaptrt.models.tasks import Task
from adaptrt.models.tasks.following import following
from adaptrt.runtime import load
from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND
from adaptrt.runtime.bundle.bundle_file import Bundle, KnobValue, read_bundle
from adaptrt.runtime.bundle.engine_files import engine_folder
from adaptrt.runtime.bundle.schema import MACS_OUTPUT
from adaptrt.runtime.inputs import knob_arrays

Array = npt.NDArray[Any]
Tell = Callable[[str, float], None]

SAMPLES = 512
"""Of the test split, on which quality is measured."""
CLEARLY = 0.0005
"""By how much a quality has to be above another one's to be the better."""
_TIMED, _EXIT_TIMED = 16, 64  # samples that a small batch is timed on; more where they may leave early
_SECONDS = 60.0
_FEWEST, _MOST = 3, 15  # rounds


@dataclass(frozen=True)
class Entry:
    """One way to answer.

    Attributes:
        name: ``adaptive``, ``adaptive int8`` or what the static model is called.
        adaptive: Whether it is a point of the bundle's.
        budget: Share of the dense work that was asked for; None of static models.
        work: That was done on the samples quality was measured on; None of static models.
        knobs: That were fed.
        quality: Mean over the samples.
        standard_error: Of that mean.
        latency_ms: Per batch size, milliseconds of one call.
        over_dense: Per batch size, that time over the dense model's in float32, of the same round.
    """

    name: str
    adaptive: bool
    budget: float | None
    work: float | None
    knobs: dict[str, KnobValue]
    quality: float
    standard_error: float
    latency_ms: dict[int, Spread]
    over_dense: dict[int, Spread]


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


@dataclass(frozen=True)
class _Judge:
    """Samples, and what judges answers to them."""

    task: Task
    feeds: dict[str, Array]
    labels: Array
    data: str


def compare_rivals(
    folder: Path,
    data: DataSplits | None,
    *,
    batches: Sequence[int] = (1, 16),
    threads: int = 1,
    points: int = 7,
    samples: int = SAMPLES,
    inputs: Array | Mapping[str, Array] | None = None,
    length: int | None = None,
    progress: Tell = lambda _what, _share: None,
) -> RivalComparison:
    """Measure quality and latency of a bundle's points, in float32 and where it is built in int8, and of static models.

    Args:
        folder: A calibrated bundle with its dense model.
        data: Whose test split quality is measured on; None: the golden inputs, by the dense model's answers to them.
        batches: Batch sizes.
        threads: Threads that one operator may use.
        points: Of the curve.
        samples: Of the test split at most, spread over it.
        inputs: Samples to time, as ``measure_bundle`` takes them.
        length: Tokens that these are cut to, likewise.
        progress: Told how far it is.

    Raises:
        AdaptrtError: The bundle is not calibrated, the data does not fit it, or a process failed.
    """
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise BenchError(f"got batches {list(batches)}, expected different sizes of at least 1")
    if samples < 1:
        raise BenchError(f"got {samples} samples, expected at least 1")
    folder, bundle = Path(folder), read_bundle(folder)
    choose_points(bundle, points)  # refuses a bundle without a curve before anything is made
    timed, _ = find_inputs(folder, bundle, inputs)
    if length is not None:
        timed = cut_to_length(timed, bundle, length)
    golden, _ = find_inputs(folder, bundle, None)
    machine = describe_machine()
    with (
        tempfile.TemporaryDirectory(prefix="adaptrt-rivals-", ignore_cleanup_errors=True) as scratch,
        ExitStack() as on,
    ):
        static = open_static_models(folder, bundle, golden, Path(scratch), threads, on, progress)
        judge = _judge(bundle, data, golden, static.processes[FLOAT32], samples)
        choices = {"adaptive": EngineChoice()}
        if engine_folder(folder, BACKENDS[DEFAULT_BACKEND].prepared, "int8").is_dir():
            choices["adaptive int8"] = EngineChoice(precision="int8")
        chosen = {
            name: choose_points(calibrated_bundle(folder, bundle, choice), points) for name, choice in choices.items()
        }
        adaptive = {
            name: on.enter_context(open_bundle(folder, bundle, threads=threads, choice=choice))
            for name, choice in choices.items()
        }
        every = len(static.processes) + sum(map(len, chosen.values()))
        qualities: dict[str, tuple[Array, float | None]] = {}

        def told(name: str) -> None:
            progress(f"quality of {name}", len(qualities) / every)

        for name, process in static.processes.items():
            told(name)
            qualities[name] = _quality_of_process(bundle, judge, process), None
        for name, choice in choices.items():
            told(name)
            for number, each in enumerate(_qualities_of_points(folder, judge, chosen[name], choice)):
                qualities[f"{name} {number}"] = each
        timing = _Timing(bundle, chosen, timed, static.processes, adaptive)
        measured = {}
        for number, batch in enumerate(batches):

            def tell(share: float, number: int = number, batch: int = batch) -> None:
                progress(f"timing batch {batch}", (number + share) / len(batches))

            measured[batch] = timing.run(batch, tell)
    entries = _entries(chosen, static.processes, qualities, measured)
    return RivalComparison(
        name=bundle.name,
        metric=judge.task.metric,
        samples=len(judge.labels),
        data=judge.data,
        batches=tuple(batches),
        threads=threads,
        rounds={batch: rounds for batch, (rounds, _) in measured.items()},
        entries=entries,
        left_out=tuple(static.left_out),
        verdicts={batch: verdict(entries, batch) for batch in batches},
        machine=machine,
        source=describe_source(),
    )


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


def _judge(
    bundle: Bundle, data: DataSplits | None, golden: Mapping[str, Array], dense: SessionProcess, samples: int
) -> _Judge:
    task = bundle_task(bundle)
    if data is None:
        feeds = dict(golden)
        followed = following(task)
        make_labels = task.answers
        assert make_labels is not None
        labels = make_labels(_answers(bundle, dense, feeds), _real(bundle, feeds))
        return _Judge(followed, feeds, np.asarray(labels), "golden inputs")
    whole = split_feeds(bundle.inputs, data.test)
    count = len(data.test.labels)
    rows = np.arange(min(samples, count)) * count // min(samples, count)
    judged = following(task) if data.follows_dense else task
    return _Judge(judged, {name: array[rows] for name, array in whole.items()}, data.test.labels[rows], data.name)


def _real(bundle: Bundle, feeds: Mapping[str, Array]) -> Array | None:
    """Which tokens are no padding, bool ``[samples, tokens]``; None: all."""
    name = mask_name(bundle.inputs, only_axis(bundle.inputs))
    return None if name is None else np.asarray(feeds[name], bool)


def _answers(bundle: Bundle, process: SessionProcess, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What a static model gives for some samples, by output."""
    known = {name: array for name, array in feeds.items() if name in process.inputs}
    process.load({f"asked {name}": array for name, array in known.items()})
    feed = {name: f"asked {name}" for name in known}
    sizes = {
        axis: size
        for spec in bundle.inputs
        for axis, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
        if isinstance(axis, str)
    }
    given = {}
    for spec in bundle.outputs:
        if spec.name != MACS_OUTPUT:
            shape = [size if isinstance(size, int) else sizes[size] for size in spec.shape]
            given[spec.name] = process.output(spec.name, feed).reshape(shape).astype(spec.dtype)
    return given


def _quality_of_process(bundle: Bundle, judge: _Judge, process: SessionProcess) -> Array:
    quality = np.empty(len(judge.labels), np.float64)
    for rows, inputs in batches_by_length(bundle, judge.feeds):
        answers = _answers(bundle, process, inputs)
        quality[rows] = judge.task.judge(answers, judge.labels[rows]).quality
    return quality


def _qualities_of_points(
    folder: Path, judge: _Judge, chosen: Sequence[Point], choice: EngineChoice
) -> list[tuple[Array, float]]:
    """Quality of every sample, and the mean work, at every point."""
    model = load(folder, precision=choice.precision)
    found = []
    for point in chosen:
        quality, work = np.empty(len(judge.labels), np.float64), np.empty(len(judge.labels), np.float64)
        for rows, inputs in batches_by_length(model.bundle, judge.feeds):
            result = model.run(inputs, knobs=point.knobs)
            quality[rows] = judge.task.judge(result.outputs, judge.labels[rows]).quality
            work[rows] = result.macs_fraction
        found.append((quality, float(work.mean())))
    return found


class _Timing:
    """All processes, and what each is to run."""

    def __init__(
        self,
        bundle: Bundle,
        chosen: Mapping[str, Sequence[Point]],
        samples: Mapping[str, Array],
        static: Mapping[str, SessionProcess],
        adaptive: Mapping[str, SessionProcess],
    ) -> None:
        self._samples, self._most = samples, _EXIT_TIMED if len(bundle.stages) > 1 else _TIMED
        self._processes = [*static.values(), *adaptive.values()]
        self._runs: list[tuple[str, SessionProcess, dict[str, str]]] = [(n, p, {}) for n, p in static.items()]
        for name, process in adaptive.items():
            for number, point in enumerate(chosen[name]):
                arrays = knob_arrays(bundle.knobs, point.knobs)
                process.load({f"{knob} {number}": array for knob, array in arrays.items()})
                fed = {knob: f"{knob} {number}" for knob in arrays if knob in process.inputs}
                self._runs.append((f"{name} {number}", process, fed))

    def run(self, batch: int, tell: Callable[[float], None]) -> tuple[int, dict[str, Any]]:
        """Rounds, and a timing of every case."""
        feeds: list[dict[str, str]] = []
        for name, samples in self._samples.items():
            arrays = {f"{name} {n} of {batch}": part for n, part in enumerate(batches_of(samples, batch, self._most))}
            for process in self._processes:
                process.load(arrays)
            feeds = feeds or [{} for _ in arrays]
            for feed, key in zip(feeds, arrays, strict=True):
                feed[name] = key
        cases = [
            Case(name, process, [{k: v for k, v in {**feed, **knobs}.items() if k in process.inputs} for feed in feeds])
            for name, process, knobs in self._runs
        ]
        once = cases[0].process.time(cases[0].feeds[:1], warm=1, runs=1)[0][0] * len(feeds)
        rounds = max(_FEWEST, min(_MOST, round(_SECONDS / (0.6 * once * len(cases)))))
        done, total = 0, rounds * len(cases)

        def on_turn() -> None:
            nonlocal done
            done += 1
            tell(done / total)

        return rounds, interleave(cases, baseline=FLOAT32, rounds=rounds, runs=1, on_turn=on_turn)


def _entries(
    chosen: Mapping[str, Sequence[Point]],
    static: Mapping[str, SessionProcess],
    qualities: Mapping[str, tuple[Array, float | None]],
    measured: Mapping[int, tuple[int, Mapping[str, Any]]],
) -> tuple[Entry, ...]:
    cases = [
        (name, f"{name} {number}", point) for name, points in chosen.items() for number, point in enumerate(points)
    ]
    found = []
    for name, case, point in [*cases, *((name, name, None) for name in static)]:
        quality, work = qualities[case]
        found.append(
            Entry(
                name=name,
                adaptive=point is not None,
                budget=None if point is None else point.macs_fraction,
                work=work,
                knobs={} if point is None else point.knobs,
                quality=float(quality.mean()),
                standard_error=float(quality.std() / max(1.0, len(quality) ** 0.5)),
                latency_ms={batch: timings[case].seconds.scaled(1e3) for batch, (_, timings) in measured.items()},
                over_dense={batch: timings[case].ratio for batch, (_, timings) in measured.items()},
            )
        )
    return tuple(found)
