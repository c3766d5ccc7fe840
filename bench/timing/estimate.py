"""Latency that adapting a network would give, measured before any training beside static models of it.

The graphs are the ones that an export of the trained network has; their decisions are random ones that take the wanted
share of the work (``export/pretrained/estimate.py``).
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from adaptrt.bench.errors import BenchError
from adaptrt.bench.rivals.static_models import quantized
from adaptrt.bench.timing.bundle_latency import open_bundle
from adaptrt.bench.timing.engine_choice import EngineChoice
from adaptrt.bench.timing.estimate_result import FLOAT32, INT8, Estimate, EstimateRow, Rival, advise
from adaptrt.bench.timing.interleave import Case, Spread
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.bench.timing.session_process import Array, BundleProcess, Feed, SessionProcess
from adaptrt.export.pretrained.dense_source import full_inputs, load_dense
from adaptrt.export.pretrained.estimate import INT8 as BUILT_INT8
from adaptrt.export.pretrained.estimate import SHARES, Candidate, make_candidates
from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND
from adaptrt.runtime.inputs import knob_arrays

BATCHES = (1, 16)
SECONDS = 120.0
SAMPLES = 16
"""Different inputs, over which shares are met; a small batch is timed on each of them in turn."""

Progress = Callable[[str, float], None]

_FLOAT32 = "float32"
_FEWEST, _MOST = 3, 25  # rounds
_LEAST_PART = 0.4  # of the seconds, for measuring, however long tracing took
_LONG_SECONDS = 0.3  # a run this long hardly notices that another process had the caches


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
        candidates = make_candidates(
            source, inputs, folder, families=families, shares=shares, threads=threads, progress=progress
        )
        with ExitStack() as stack:
            progress("loading the graphs", 0.0)
            rivals, left_out = _open_rivals(candidates[0], folder, threads, stack)
            left_out += [f"{each.name} in int8: {each.no_int8}" for each in candidates if each.no_int8]
            arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
            measurement = _Measurement(rivals, candidates, arrays, threads, stack)
            measured: dict[int, dict[str, list[float]]] = {}
            last = max(begin + seconds, monotonic() + _LEAST_PART * seconds)
            for number, batch in enumerate(batches):
                end = monotonic() + (last - monotonic()) / (len(batches) - number)
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


def _open_rivals(
    first: Candidate, folder: Path, threads: int, stack: ExitStack
) -> tuple[dict[str, SessionProcess], list[str]]:
    """Processes of the dense model in float32, in int8 and on other engines of this machine; what failed, and why."""
    assert first.bundle.dense.file is not None
    graph = first.folder / first.bundle.dense.file
    rivals = {FLOAT32: stack.enter_context(SessionProcess(graph, threads=threads))}
    left_out: list[str] = []

    def attempt(name: str, start: Callable[[], SessionProcess]) -> None:
        try:
            rivals[name] = stack.enter_context(start())
        except BenchError as error:
            left_out.append(f"{name}: {error}")

    attempt(INT8, lambda: SessionProcess(quantized(graph, folder / "int8.onnx"), threads=threads))
    for engine, record in BACKENDS.items():
        if record.dense and record.on_host and engine != DEFAULT_BACKEND and record.installed:
            start = partial(BundleProcess, first.folder, threads=threads, choice=EngineChoice(engine), dense=True)
            attempt(f"dense {record.title}", start)
    return rivals, left_out


class _Measurement:
    """All processes, what each is to run, and their inputs."""

    def __init__(
        self,
        rivals: Mapping[str, SessionProcess],
        candidates: Sequence[Candidate],
        arrays: Mapping[str, Array],
        threads: int,
        stack: ExitStack,
    ) -> None:
        self._arrays = arrays
        self._processes = list(rivals.values())
        self._runs: list[tuple[str, SessionProcess, dict[str, str]]] = [(n, p, {}) for n, p in rivals.items()]
        for candidate, precision in _built(candidates):
            choice = EngineChoice() if precision == _FLOAT32 else EngineChoice(precision=precision)
            opened = open_bundle(candidate.folder, candidate.bundle, threads=threads, choice=choice)
            process = stack.enter_context(opened)
            self._processes.append(process)
            for index, setting in enumerate(candidate.settings):
                if _repeated(candidate, index):
                    continue
                knobs = knob_arrays(candidate.bundle.knobs, setting.knobs)
                process.load({f"{name} {index}": array for name, array in knobs.items()})
                fed = {name: f"{name} {index}" for name in knobs if name in process.inputs}
                self._runs.append((_case(candidate, precision, index), process, fed))

    def run(self, batch: int, end: float, progress: Progress) -> dict[str, list[float]]:
        """Seconds of one call, round by round, until a time of the monotonic clock; three rounds at least.

        All times are relative to the dense model's, so that it has a turn before every other process.
        """
        feeds = self._load(batch)
        cases = [Case(name, process, [{**f, **knobs} for f in feeds]) for name, process, knobs in self._runs]
        dense = cases[0]
        once = dense.process.time(dense.feeds[:1], warm=1, runs=1)[0][0]
        warm, runs = int(once < _LONG_SECONDS), 3 if once * len(feeds) < _LONG_SECONDS else 1
        order = [dense]
        for case in cases[1:]:
            order += [case] if case.process is order[-1].process else [dense, case]
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
            if turn + 1 >= _FEWEST and monotonic() > end:
                break
        return times

    def _load(self, batch: int) -> list[Feed]:
        """Give all processes the samples in batches of one size, repeated where there are too few."""
        count = max(1, -(-SAMPLES // batch))
        parts: dict[str, Array] = {}
        for name, array in self._arrays.items():
            whole = array[np.arange(count * batch) % len(array)]
            parts |= {f"{name} {i} of {batch}": whole[i * batch : (i + 1) * batch] for i in range(count)}
        for process in self._processes:
            process.load(parts)
        return [{name: f"{name} {i} of {batch}" for name in self._arrays} for i in range(count)]


def _built(candidates: Sequence[Candidate]) -> list[tuple[Candidate, str]]:
    """Every candidate in every precision that it has."""
    return [(each, _FLOAT32) for each in candidates] + [(each, BUILT_INT8) for each in candidates if each.int8]


def _case(candidate: Candidate, precision: str, index: int) -> str:
    return f"{candidate.name} {precision} {index}"


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
            case = _case(candidate, precision, index)
            known: dict[int, Any] = {batch: times for batch, times in measured.items() if case in times}
            rows.append(
                EstimateRow(
                    candidate.families,
                    setting.wanted,
                    setting.share,
                    setting.reachable,
                    {batch: Spread.of(times[case]).scaled(1e3) for batch, times in known.items()},
                    {batch: _ratio(times[case], times[FLOAT32]) for batch, times in known.items()},
                    {b: _ratio(times[case], times[INT8]).median for b, times in known.items()} if with_int8 else {},
                    precision,
                )
            )
    return rows
