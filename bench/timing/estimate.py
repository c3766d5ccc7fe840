"""Latency that adapting a network would give, measured before any training beside static models of it.

The graphs are the ones that an export of the trained network has; their decisions are random ones that take the wanted
share of the work (``export/pretrained/estimate.py``).
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptrt.bench.errors import BenchError
from adaptrt.bench.rivals.static_models import quantized
from adaptrt.bench.timing.bundle_latency import open_bundle
from adaptrt.bench.timing.engine_choice import EngineChoice
from adaptrt.bench.timing.estimate_result import FLOAT32, INT8, Estimate, EstimateRow, Rival, advise
from adaptrt.bench.timing.interleave import Case, Spread
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.bench.timing.session_process import Array, BundleProcess, Feed, SessionProcess
from adaptrt.bench.timing.start_together import Start, start_together
from adaptrt.export.pretrained.dense_source import full_inputs, load_dense
from adaptrt.export.pretrained.estimate import INT8 as BUILT_INT8
from adaptrt.export.pretrained.estimate import SHARES, Candidate, make_candidates
from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND
from adaptrt.runtime.inputs import knob_arrays

BATCHES = (1, 16)
SECONDS = 120.0
SAMPLES = 16
"""Different inputs, over which shares are met."""

Progress = Callable[[str, float], None]

_FLOAT32 = "float32"
_FEWEST, _MOST = 3, 25  # rounds
_LEAST_PART = 0.4  # of the seconds, for measuring, however long tracing took
_LONG_SECONDS = 0.3  # a run this long hardly notices that another process had the caches
_TURN_SECONDS = 0.3  # of the dense model's runs in a turn, where they are short
_MOST_RUNS = 3  # of each batch in a turn
_MOST_FEEDS = 4  # batches in a turn: those whose work stands for that of all


def estimate_model(
    model: Path,
    *,
    families: tuple[str, ...] | None = None,
    batches: Sequence[int] = BATCHES,
    threads: int = 1,
    length: int | None = None,
    seconds: float = SECONDS,
    shares: Sequence[float] = SHARES,
    progress: Progress = lambda _what, _share: None,
) -> Estimate:
    """Measure what each family, and all together, would give at each budget.

    Every graph has a process of its own, and they take turns, round by round. Reported are median and quartiles over
    rounds.

    Args:
        model: Folder of a transformers checkpoint or of a network of ours, or the name of a ready model.
        families: Their names; None: all that the network can have.
        batches: Batch sizes.
        threads: Threads that one operator may use.
        length: Tokens of a text; None: 128, or fewer if the model takes no more.
        seconds: To spend, about; two fifths of them are for measuring, however long everything before it takes.
        shares: Budgets, as shares of the dense work.
        progress: Told how far it is.

    Raises:
        AdaptrtError: The model or a family does not fit, a number makes no sense, or a process failed.
    """
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise BenchError(f"got batches {list(batches)}, expected different sizes of at least 1")
    if not 0 < seconds < float("inf"):
        raise BenchError(f"got {seconds:g} seconds, expected a number above 0")
    begin, machine = monotonic(), describe_machine()
    progress("loading the model", 0.0)
    source = load_dense(model, length)
    dense = source.dense
    assert isinstance(dense, AdaptableNetwork)
    inputs = full_inputs(dense, SAMPLES)
    with tempfile.TemporaryDirectory(prefix="adaptrt-estimate-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        candidates = make_candidates(source, inputs, folder, families=families, shares=shares, progress=progress)
        with ExitStack() as stack:
            rivals_first = _rival_starts(candidates[0], folder, threads)
            adapted_next = {_title(*each): _start(*each, threads) for each in _built(candidates)}
            starts = rivals_first | adapted_next
            progress("loading the graphs", 0.0)
            started, errors = start_together(
                starts, stack, lambda count: progress("loading the graphs", count / len(starts))
            )
            for name in (FLOAT32, *adapted_next):
                if name in errors:
                    raise errors[name]
            left_out = [f"{name}: {error}" for name, error in errors.items()]
            left_out += [f"{each.name} in int8: {each.no_int8}" for each in candidates if each.no_int8]
            rivals = {name: process for name, process in started.items() if name in rivals_first}
            adapted = {name: started[name] for name in adapted_next}
            arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
            measurement = _Measurement(rivals, adapted, candidates, arrays)
            measured: dict[int, dict[str, list[float]]] = {}
            last = max(begin + seconds, monotonic() + _LEAST_PART * seconds)
            # Runs of large batches are longer, and fewer.
            parts = [(min(len(_samples_of(batch)), _MOST_FEEDS) * batch) ** 0.5 for batch in batches]
            for number, batch in enumerate(batches):
                end = monotonic() + (last - monotonic()) * parts[number] / sum(parts[number:])
                measured[batch] = measurement.run(batch, end, progress)
            engines = {
                name: (process.engine, BACKENDS[process.backend].target or None) for name, process in rivals.items()
            }
    made = tuple(_rival(name, *engine, measured) for name, engine in engines.items())
    rows = tuple(_rows(candidates, measured, INT8 in rivals))
    return Estimate(
        model=source.name,
        task=dense.task.name,
        tokens=dense.tokens,
        length=dense.work_tokens is not None,
        dense_macs=dense.dense_macs(),
        batches=tuple(batches),
        threads=threads,
        rounds={batch: len(times[FLOAT32]) for batch, times in measured.items()},
        rivals=made,
        rows=rows,
        left_out=tuple(left_out),
        advice=advise(made, rows, sorted(batches)),
        seconds=monotonic() - begin,
        machine=machine,
        source=describe_source(),
    )


def _rival_starts(first: Candidate, folder: Path, threads: int) -> dict[str, Start]:
    """What starts the dense model in float32, in int8 and on other engines of this machine."""
    assert first.bundle.dense.file is not None
    graph = first.folder / first.bundle.dense.file
    starts: dict[str, Start] = {
        FLOAT32: partial(SessionProcess, graph, threads=threads),
        INT8: lambda: SessionProcess(quantized(graph, folder / "int8.onnx"), threads=threads),
    }
    for engine, record in BACKENDS.items():
        if record.dense and record.on_host and engine != DEFAULT_BACKEND and record.installed:
            choice = EngineChoice(engine)
            start = partial(BundleProcess, first.folder, threads=threads, choice=choice, dense=True)
            starts[f"dense {record.title}"] = start
    return starts


def _start(candidate: Candidate, precision: str, threads: int) -> Start:
    """What starts an adapted network, on the runtime where its finished bundle would run there."""
    choice = EngineChoice() if precision == _FLOAT32 else EngineChoice(precision=precision)
    if candidate.full_by_dense:
        return partial(BundleProcess, candidate.folder, threads=threads, choice=choice)
    return partial(open_bundle, candidate.folder, candidate.bundle, threads=threads, choice=choice)


@dataclass(frozen=True)
class _Run:
    """What one process is to run: names of arrays for its knobs, and the work of each sample, where that differs."""

    name: str
    process: SessionProcess
    knobs: dict[str, str] = field(default_factory=dict)
    shares: tuple[float, ...] = (1.0,) * SAMPLES


class _Measurement:
    """All processes, what each is to run, and their inputs."""

    def __init__(
        self,
        rivals: Mapping[str, SessionProcess],
        adapted: Mapping[str, SessionProcess],
        candidates: Sequence[Candidate],
        arrays: Mapping[str, Array],
    ) -> None:
        self._arrays = arrays
        self._processes = [*rivals.values(), *adapted.values()]
        self._runs = [_Run(name, process) for name, process in rivals.items()]
        for candidate, precision in _built(candidates):
            process = adapted[_title(candidate, precision)]
            for index, setting in enumerate(candidate.settings):
                if _repeated(candidate, index) or _by_dense(candidate, precision, index):
                    continue
                knobs = knob_arrays(candidate.bundle.knobs, setting.knobs)
                process.load({f"{name} {index}": array for name, array in knobs.items()})
                fed = {name: f"{name} {index}" for name in knobs if name in process.inputs}
                self._runs.append(_Run(_case(candidate, precision, index), process, fed, setting.shares))

    def run(self, batch: int, end: float, progress: Progress) -> dict[str, list[float]]:
        """Seconds of one call, round by round, until a time of the monotonic clock; three rounds at least.

        Where these would take more than twice the time there are two. All times are relative to the dense model's, so
        that it has a turn before every other process, or before every second one where runs are long.
        """
        feeds = self._load(batch)
        cases = [Case(run.name, run.process, _fed(run, feeds, batch)) for run in self._runs]
        dense = cases[0]
        once = dense.process.time(dense.feeds[:1], warm=1, runs=1)[0][0]
        of_turn = once * len(dense.feeds)
        warm, runs = int(once < _LONG_SECONDS), min(_MOST_RUNS, max(1, round(_TURN_SECONDS / of_turn)))
        order = _in_turn(cases, every=1 if of_turn < _LONG_SECONDS else 2)
        times: dict[str, list[float]] = {case.name: [] for case in cases}
        start = monotonic()
        for turn in range(_MOST):
            taken: dict[str, list[float]] = {case.name: [] for case in cases}
            for number, case in enumerate(order if turn % 2 == 0 else list(reversed(order))):
                seconds = case.process.time(case.feeds, warm=warm, runs=runs)
                taken[case.name].append(statistics.fmean(statistics.median(own) for own in seconds))
                by_time = (monotonic() - start) / max(end - start, 1e-9)
                by_round = (turn + (number + 1) / len(order)) / _FEWEST
                progress(f"measuring batch {batch}", min(by_time, by_round, 1.0))
            for name, of_round in taken.items():
                times[name].append(statistics.median(of_round))
            if enough_rounds(turn + 1, monotonic() - start, end - start):
                break
        return times

    def _load(self, batch: int) -> list[Feed]:
        """Give all processes the samples in batches of one size, repeated where there are too few."""
        parts: dict[str, Array] = {}
        numbers = _samples_of(batch)
        for name, array in self._arrays.items():
            parts |= {f"{name} {i} of {batch}": array[rows] for i, rows in enumerate(numbers)}
        for process in self._processes:
            process.load(parts)
        return [{name: f"{name} {i} of {batch}" for name in self._arrays} for i in range(len(numbers))]


def enough_rounds(rounds: int, spent: float, given: float) -> bool:
    """Whether to stop after so many rounds.

    Args:
        rounds: Done.
        spent: Seconds that they took.
        given: Seconds that there are for all.
    """
    if rounds < _FEWEST:
        return rounds > 1 and spent * (rounds + 1) / rounds > 2 * given
    return spent > given


def _in_turn(cases: Sequence[Case], every: int) -> list[Case]:
    """A round: the dense model, which is the first case, stands before every process, or every few of them."""
    dense, order, others = cases[0], [cases[0]], 0
    for case in cases[1:]:
        if case.process is not order[-1].process:
            if others and others % every == 0:
                order.append(dense)
            others += 1
        order.append(case)
    return order


def _samples_of(batch: int) -> list[npt.NDArray[np.int64]]:
    """Which samples each batch of a size holds."""
    count = max(1, -(-SAMPLES // batch))
    return list((np.arange(count * batch) % SAMPLES).reshape(count, batch))


def _fed(run: _Run, feeds: Sequence[Feed], batch: int) -> list[Feed]:
    """What a turn of a process is fed: those batches that stand for all, with its knobs."""
    shares = np.array(run.shares)
    work = [float(shares[rows].mean()) for rows in _samples_of(batch)]
    return [{**feeds[number], **run.knobs} for number in standing_for_all(work, _MOST_FEEDS)]


def standing_for_all(work: Sequence[float], most: int) -> list[int]:
    """Which batches have together, in the mean, the work of all of them, and differ as these do.

    Args:
        work: Of each.
        most: So many are chosen, where there are more.
    """
    if len(work) <= most:
        return list(range(len(work)))
    chosen = np.array(list(itertools.combinations(range(len(work)), most)))
    every, some = np.array(work), np.array(work)[chosen]
    off = np.abs(some.mean(1) - every.mean()) + np.abs(some.std(1) - every.std())
    return [int(number) for number in chosen[off.argmin()]]


def _built(candidates: Sequence[Candidate]) -> list[tuple[Candidate, str]]:
    """Every candidate in every precision that it has."""
    return [(each, _FLOAT32) for each in candidates] + [(each, BUILT_INT8) for each in candidates if each.int8]


def _title(candidate: Candidate, precision: str) -> str:
    return f"{candidate.name} {precision}"


def _case(candidate: Candidate, precision: str, index: int) -> str:
    return f"{_title(candidate, precision)} {index}"


def _by_dense(candidate: Candidate, precision: str, index: int) -> bool:
    """Whether a finished bundle would run the dense model's graph there, which is timed already."""
    return candidate.full_by_dense and precision == _FLOAT32 and candidate.settings[index].wanted >= 1.0


def _repeated(candidate: Candidate, index: int) -> bool:
    """Whether a setting is the one before: the family can do no less."""
    return index > 0 and candidate.settings[index].knobs == candidate.settings[index - 1].knobs


def _rival(name: str, engine: str, target: str | None, measured: Mapping[int, Mapping[str, list[float]]]) -> Rival:
    return Rival(
        name,
        engine,
        {batch: Spread.of(times[name]).scaled(1e3) for batch, times in measured.items()},
        {batch: _ratio(times[name], times[FLOAT32]) for batch, times in measured.items()},
        target,
    )


def _ratio(times: Sequence[float], against: Sequence[float]) -> Spread:
    """One time over another of the same round."""
    return Spread.of([a / b for a, b in zip(times, against, strict=True)])


def _rows(
    candidates: Sequence[Candidate], measured: Mapping[int, Mapping[str, list[float]]], with_int8: bool
) -> list[EstimateRow]:
    rows = []
    for candidate, precision in _built(candidates):
        for index, setting in enumerate(candidate.settings):
            by_dense = _by_dense(candidate, precision, index)
            case = FLOAT32 if by_dense else _case(candidate, precision, index)
            known: dict[int, Any] = {batch: times for batch, times in measured.items() if case in times}
            rows.append(
                EstimateRow(
                    candidate.families,
                    setting.wanted,
                    1.0 if by_dense else setting.share,
                    by_dense or setting.reachable,
                    {batch: Spread.of(times[case]).scaled(1e3) for batch, times in known.items()},
                    {batch: _ratio(times[case], times[FLOAT32]) for batch, times in known.items()},
                    {b: _ratio(times[case], times[INT8]).median for b, times in known.items()} if with_int8 else {},
                    precision,
                    by_dense,
                )
            )
    return rows
