"""An adaptive bundle beside static models, all on the same samples and in turns: who is best within how much time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy.typing as npt

from adaptrt.bench.errors import BenchError
from adaptrt.bench.rivals.further_networks import add_rivals, read_rivals
from adaptrt.bench.rivals.judging import Judge, make_judge
from adaptrt.bench.rivals.result import Entry, RivalComparison, verdict
from adaptrt.bench.rivals.series import ADAPTIVE, DENSE, BundleOf, Series, Setting
from adaptrt.bench.rivals.static_models import FLOAT32, FLOAT32_FORM, INT8_FORM, StaticModels
from adaptrt.bench.timing.bundle_latency import open_bundle
from adaptrt.bench.timing.chosen_points import choose_points
from adaptrt.bench.timing.engine_choice import EngineChoice, calibrated_bundle
from adaptrt.bench.timing.interleave import Case, Timing, interleave
from adaptrt.bench.timing.machine import describe_machine, describe_source, usable_cores
from adaptrt.bench.timing.samples import batches_of, cut_to_length, find_inputs
from adaptrt.models.data.split import DataSplits
from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND
from adaptrt.runtime.bundle.bundle_file import Bundle, read_bundle
from adaptrt.runtime.bundle.engine_files import engine_folder
from adaptrt.runtime.inputs import knob_arrays

Array = npt.NDArray[Any]
Tell = Callable[[str, float], None]

SAMPLES = 512
"""Of the test split, on which quality is measured."""
_TIMED, _EXIT_TIMED = 16, 64  # samples that a small batch is timed on; more where they may leave early
_SECONDS = 60.0
_FEWEST, _MOST = 3, 15  # rounds
_DENSE_CASE = f"{FLOAT32} 0"
_NO_RIVALS: Mapping[str, Path] = {}


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
    rivals: Mapping[str, Path] = _NO_RIVALS,
    progress: Tell = lambda _what, _share: None,
) -> RivalComparison:
    """Measure quality and latency of a bundle's points, in float32 and where it is built in int8, and of static models.

    Args:
        folder: A calibrated bundle with its dense model.
        data: Whose test split quality is measured on; None: the golden inputs, by the dense model's answers to them.
        batches: Batch sizes.
        threads: Threads that one operator may use.
        points: Of the curve, and settings of further networks that have several.
        samples: Of the test split at most, spread over it.
        inputs: Samples to time, as ``measure_bundle`` takes them.
        length: Tokens that these are cut to, likewise.
        rivals: Further networks by name, each the folder of a trained network or an exported bundle.
        progress: Told how far it is.

    Raises:
        AdaptrtError: The bundle is not calibrated, the data or a further network does not fit it, or a process failed.
    """
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise BenchError(f"got batches {list(batches)}, expected different sizes of at least 1")
    if samples < 1:
        raise BenchError(f"got {samples} samples, expected at least 1")
    folder, bundle = Path(folder), read_bundle(folder)
    choose_points(bundle, points)  # refuses a bundle without a curve before anything is made
    further = read_rivals(rivals, bundle)
    timed, _ = find_inputs(folder, bundle, inputs)
    if length is not None:
        timed = cut_to_length(timed, bundle, length)
    golden, _ = find_inputs(folder, bundle, None)
    machine = describe_machine()
    with (
        tempfile.TemporaryDirectory(prefix="adaptrt-rivals-", ignore_cleanup_errors=True) as scratch,
        ExitStack() as on,
    ):
        static = StaticModels(folder, golden, Path(scratch), threads, on, progress)
        if bundle.dense.file is None:
            raise BenchError(f"got {folder} without its dense model, expected one to compare with; export it again")
        static.add_dense(DENSE, folder / bundle.dense.file)
        static.add_uniform_widths(bundle)
        add_rivals(static, bundle, further, points)
        judge = make_judge(bundle, data, golden, static.series[0].process, samples)
        series = [*_adaptive_series(folder, bundle, points, threads, on), *static.series]
        qualities = _judged(judge, series, progress)
        timing = _Timing(bundle, series, timed)
        measured = {}
        for number, batch in enumerate(batches):

            def tell(share: float, number: int = number, batch: int = batch) -> None:
                progress(f"timing batch {batch}", (number + share) / len(batches))

            measured[batch] = timing.run(batch, tell)
    entries = _entries(series, qualities, measured)
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


def _adaptive_series(folder: Path, bundle: Bundle, points: int, threads: int, on: ExitStack) -> list[Series]:
    """The bundle in float32 and, where it was built, in int8."""
    choices = {FLOAT32_FORM: EngineChoice()}
    if engine_folder(folder, BACKENDS[DEFAULT_BACKEND].prepared, "int8").is_dir():
        choices[INT8_FORM] = EngineChoice(precision="int8")
    found = []
    for form, choice in choices.items():
        chosen = choose_points(calibrated_bundle(folder, bundle, choice), points)
        process = on.enter_context(open_bundle(folder, bundle, threads=threads, choice=choice))
        name = ADAPTIVE if choice.portable else f"{ADAPTIVE} {form}"
        settings = [Setting(point.knobs, point.macs_fraction) for point in chosen]
        found.append(Series(name, ADAPTIVE, form, process, settings, BundleOf(folder, bundle, choice.precision)))
    return found


def _judged(judge: Judge, series: Sequence[Series], progress: Tell) -> dict[str, list[tuple[Array, float | None]]]:
    """What every series is worth at every setting; graphs answer side by side, for nothing is timed here."""
    found: dict[str, list[tuple[Array, float | None]]] = {}
    graphs = [each for each in series if each.runs is None]
    with ThreadPoolExecutor(max(1, min(len(graphs), usable_cores()))) as pool:
        answered = pool.map(lambda each: _qualities(judge, each), graphs)
        for each in graphs:
            progress("judging the answers", len(found) / len(series))
            found[each.name] = next(answered)
    for each in series:
        if each.runs is not None:
            progress("judging the answers", len(found) / len(series))
            found[each.name] = _qualities(judge, each)
    return found


def _qualities(judge: Judge, series: Series) -> list[tuple[Array, float | None]]:
    """Quality of every sample and the share of the dense work, at every setting."""
    if series.runs is None:
        return [(judge.of_graph(series.process), series.work)]
    of = series.runs
    found = judge.of_bundle(of.folder, [setting.knobs for setting in series.settings], of.precision)
    return [(quality, work * of.scale) for quality, work in found]


class _Timing:
    """All processes, and what each is to run."""

    def __init__(self, bundle: Bundle, series: Sequence[Series], samples: Mapping[str, Array]) -> None:
        self._samples, self._most = samples, _EXIT_TIMED if len(bundle.stages) > 1 else _TIMED
        self._processes = [each.process for each in series]
        self._runs: list[tuple[Series, int, dict[str, str]]] = []
        for each in series:
            for number, setting in enumerate(each.settings):
                arrays = {} if each.runs is None else knob_arrays(each.runs.bundle.knobs, setting.knobs)
                if arrays:
                    each.process.load({f"{knob} {number}": array for knob, array in arrays.items()})
                fed = {knob: f"{knob} {number}" for knob in arrays if knob in each.process.inputs}
                self._runs.append((each, number, fed))

    def run(self, batch: int, tell: Callable[[float], None]) -> tuple[int, Mapping[str, Timing]]:
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
            Case(
                _case(each, number),
                each.process,
                [{k: v for k, v in {**feed, **knobs}.items() if k in each.process.inputs} for feed in feeds],
            )
            for each, number, knobs in self._runs
        ]
        dense = next(case for case in cases if case.name == _DENSE_CASE)
        once = dense.process.time(dense.feeds[:1], warm=1, runs=1)[0][0] * len(feeds)
        rounds = max(_FEWEST, min(_MOST, round(_SECONDS / (0.6 * once * len(cases)))))
        done, total = 0, rounds * len(cases)

        def on_turn() -> None:
            nonlocal done
            done += 1
            tell(done / total)

        return rounds, interleave(cases, baseline=dense.name, rounds=rounds, runs=1, on_turn=on_turn)


def _case(series: Series, number: int) -> str:
    return f"{series.name} {number}"


def _entries(
    series: Sequence[Series],
    qualities: Mapping[str, Sequence[tuple[Array, float | None]]],
    measured: Mapping[int, tuple[int, Mapping[str, Timing]]],
) -> tuple[Entry, ...]:
    found = []
    for each in series:
        for number, setting in enumerate(each.settings):
            quality, work = qualities[each.name][number]
            timings = {batch: timings[_case(each, number)] for batch, (_, timings) in measured.items()}
            found.append(
                Entry(
                    name=each.name,
                    adaptive=each.adaptive,
                    budget=setting.budget,
                    work=work,
                    knobs=dict(setting.knobs),
                    quality=float(quality.mean()),
                    standard_error=float(quality.std() / max(1.0, len(quality) ** 0.5)),
                    latency_ms={batch: timing.seconds.scaled(1e3) for batch, timing in timings.items()},
                    over_dense={batch: timing.ratio for batch, timing in timings.items()},
                    network=each.network,
                    form=each.form,
                )
            )
    return tuple(found)
