"""The latency of a bundle with exits: never exiting against one file, exiting against the expected cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from adaptrt.bench.errors import BenchError
from adaptrt.bench.timing.bundle_worker import EXIT_OUTPUT
from adaptrt.bench.timing.chosen_points import Point, points_at
from adaptrt.bench.timing.interleave import Case, Spread, Timing, interleave
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.bench.timing.samples import batches_of, find_samples
from adaptrt.bench.timing.session_process import Array, BundleProcess, FreshProcess, SessionProcess
from adaptrt.export.calibration.combinations import EXITS
from adaptrt.models.data.split import Split
from adaptrt.runtime import Budget
from adaptrt.runtime.bundle.bundle_file import Bundle, KnobValue, read_bundle
from adaptrt.runtime.bundle.schema import MACS_OUTPUT, THRESHOLDS_KNOB
from adaptrt.runtime.inputs import knob_arrays

SPLIT_LIMIT = 1.03
EXIT_LIMIT = 1.07
BUDGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BATCHES = (1, 64)

_DENSE, _UNSPLIT, _STAGES = "dense", "unsplit", "stages"
_SPLIT_SAMPLES = 16  # different images where a batch holds fewer
_SPLIT_RUNS = 3
_WARM = 16  # every turn's process is new
_SPLIT_ROUNDS, _EXIT_ROUNDS = 15, 5
_CHECK_BATCH = 64
_SAME = 1e-3  # largest difference of logits between both forms of one network

Turn = Callable[[str, int, int], None]
"""Called with what is measured, the turns done and all of them."""


@dataclass(frozen=True)
class SplitRow:
    """Never exiting, against the same network in one file.

    Attributes:
        setting: What runs.
        batch: Images.
        unsplit: Milliseconds of one run of the one file, in a plain session.
        stages: Of the stages, on the runtime.
        ratio: Stages over one file.
        limit: That its median is to stay under.
    """

    setting: str
    batch: int
    unsplit: Spread
    stages: Spread
    ratio: Spread
    limit: float


@dataclass(frozen=True)
class ExitRow:
    """One operating point at batch 1.

    Attributes:
        families: "exits" alone, or "all" that the runtime chooses from.
        knobs: What was fed; knobs not named stood at their defaults.
        expected_cost: Mean share of the dense work that calibration lets expect.
        timed_cost: Mean share of the very images that were timed.
        exits: Share of these that left at each stage.
        accuracy: On these.
        milliseconds: Mean time of one image.
        over_dense: That over the dense model's time.
        over_expected: That over the expected cost.
        over_timed: ``over_dense`` over the timed cost.
        limit: That the median of ``over_expected`` is to stay under.
    """

    families: str
    knobs: dict[str, KnobValue]
    expected_cost: float
    timed_cost: float
    exits: list[float]
    accuracy: float
    milliseconds: Spread
    over_dense: Spread
    over_expected: Spread
    over_timed: Spread
    limit: float


@dataclass(frozen=True)
class Result:
    """All that one run of the benchmark measured.

    ``dense`` is milliseconds of one image in the dense model.
    """

    benchmark: str
    bundle: str
    exit_criterion: str | None
    images: int
    threads: int
    split_rows: tuple[SplitRow, ...]
    exit_rows: tuple[ExitRow, ...]
    dense: Spread
    machine: dict[str, Any]
    source: dict[str, Any]


def measure(
    folder: Path,
    unsplit: Path,
    split: Split,
    *,
    budgets: Sequence[float] = BUDGETS,
    batches: Sequence[int] = BATCHES,
    threads: int = 1,
    rounds: int | None = None,
    on_turn: Turn = lambda _what, _done, _total: None,
) -> Result:
    """Measure a bundle with exits.

    Args:
        folder: The bundle, calibrated, with its dense model.
        unsplit: The same network in one ONNX file.
        split: Images to time, each by itself, with their labels.
        budgets: Shares of the dense work to choose operating points for.
        batches: Batch sizes at which never exiting is measured.
        threads: Threads that one operator may use.
        rounds: None takes 15 of never exiting and 5 over all images.
        on_turn: Told how far it is.

    Raises:
        BenchError: The bundle has no exits, no dense model or no curve, the other file computes something
            else, the images do not fit, or a process failed.
        BundleError: The bundle is damaged.
    """
    bundle, machine = read_bundle(folder), describe_machine()
    dense_file = require_exits(bundle)
    images, _ = find_samples(folder, bundle, split.inputs)
    points = _points(bundle, budgets)
    outputs = [spec.name for spec in bundle.outputs]
    with ExitStack() as stack:

        def started(start: Callable[[], SessionProcess]) -> Started:
            return Started(start, stack.enter_context(start()))

        staged = started(partial(BundleProcess, folder, threads=threads))
        whole = started(partial(SessionProcess, unsplit, threads=threads, outputs=outputs))
        dense = started(partial(SessionProcess, folder / dense_file, threads=threads))
        bench = _Bench(bundle, staged, whole, dense, images, split.labels)
        split_rows = bench.never_exiting(batches, rounds or _SPLIT_ROUNDS, on_turn)
        exit_rows, dense_time = bench.exiting(points, rounds or _EXIT_ROUNDS, on_turn)
    return Result(
        benchmark="early_exit",
        bundle=bundle.name,
        exit_criterion=bundle.exit_criterion,
        images=len(images),
        threads=threads,
        split_rows=tuple(split_rows),
        exit_rows=tuple(exit_rows),
        dense=dense_time,
        machine=machine,
        source=describe_source(),
    )


@dataclass(frozen=True)
class Started:
    """How a form of the network is started, and one process of it that is not timed but asked for results."""

    start: Callable[[], SessionProcess]
    held: SessionProcess


class _Bench:
    """Three forms of one network in their processes: stages, one file, dense."""

    def __init__(
        self,
        bundle: Bundle,
        staged: Started,
        whole: Started,
        dense: Started,
        images: Array,
        labels: Array,
    ) -> None:
        self._bundle, self._input = bundle, bundle.inputs[0].name
        self._staged, self._whole, self._dense = staged, whole, dense
        self._images, self._labels = images, labels

    def require_same(self, knobs: Mapping[str, KnobValue]) -> None:
        """Check that both forms of the network compute the same where nobody leaves."""
        difference = self._difference(knobs)
        if not difference <= _SAME:
            raise BenchError(
                f"the logits of bundle {self._bundle.name!r} and of the network in one file differ by "
                f"{difference:.2g}, expected at most {_SAME:g}; name the model that the bundle was exported from"
            )

    def _difference(self, knobs: Mapping[str, KnobValue]) -> float:
        """The largest difference of both forms' logits where nobody leaves."""
        logits = []
        for process in (self._staged.held, self._whole.held):
            fed = self._knob_arrays(process, knobs)
            process.load({self._input: self._images[:_CHECK_BATCH], **fed})
            logits.append(process.output("logits", {name: name for name in (self._input, *fed)}))
        return float(np.abs(logits[0] - logits[1]).max()) if logits[0].shape == logits[1].shape else np.inf

    def never_exiting(self, batches: Sequence[int], rounds: int, on_turn: Turn) -> list[SplitRow]:
        """Compare the stages with one file, nobody leaving: everything running, and what a budget of half runs."""
        settings: dict[str, dict[str, KnobValue]] = {"everything": {}}
        for point in points_at(self._bundle, [Budget.fraction(0.5)]):
            settings["what 50% runs"] = {n: v for n, v in point.knobs.items() if n != THRESHOLDS_KNOB}
        for knobs in settings.values():
            self.require_same(knobs)
        rows, done = [], 0
        total = len(settings) * len(batches) * rounds * 2

        def turn() -> None:
            nonlocal done
            done += 1
            on_turn("never exiting", done, total)

        for batch in batches:
            parts = batches_of(self._images, batch, _SPLIT_SAMPLES)
            arrays = {f"{index} of {batch}": part for index, part in enumerate(parts)}
            for setting, knobs in settings.items():
                cases = [
                    self._case(name, process, arrays, knobs)
                    for name, process in ((_UNSPLIT, self._whole), (_STAGES, self._staged))
                ]
                timings = interleave(
                    cases, baseline=_UNSPLIT, rounds=rounds, warm=max(2, _WARM // batch), runs=_SPLIT_RUNS, on_turn=turn
                )
                milliseconds = {name: timing.seconds.scaled(1e3) for name, timing in timings.items()}
                ratio = timings[_STAGES].ratio
                rows.append(SplitRow(setting, batch, milliseconds[_UNSPLIT], milliseconds[_STAGES], ratio, SPLIT_LIMIT))
        return rows

    def exiting(self, points: Sequence[tuple[str, Point]], rounds: int, on_turn: Turn) -> tuple[list[ExitRow], Spread]:
        """Time every image by itself at every point, beside the dense model."""
        arrays = {f"image {index}": image[None] for index, image in enumerate(self._images)}
        cases = [self._case(_DENSE, self._dense, arrays, {})]
        for index, (_, point) in enumerate(points):
            cases.append(self._case(str(index), self._staged, arrays, point.knobs))
        done, total = 0, rounds * len(cases)

        def turn() -> None:
            nonlocal done
            done += 1
            on_turn("exiting", done, total)

        timings = interleave(cases, baseline=_DENSE, rounds=rounds, warm=_WARM, runs=1, on_turn=turn)
        rows = [self._row(*pair, timings[str(index)]) for index, pair in enumerate(points)]
        return rows, timings[_DENSE].seconds.scaled(1e3)

    def _row(self, families: str, point: Point, timing: Timing) -> ExitRow:
        shares, exits, right = self._results(point.knobs)
        cost, stages = float(shares.mean()), len(self._bundle.stages)
        return ExitRow(
            families=families,
            knobs=point.knobs,
            expected_cost=point.macs_fraction,
            timed_cost=cost,
            exits=[float((exits == stage).mean()) for stage in range(stages)],
            accuracy=float(right.mean()),
            milliseconds=timing.seconds.scaled(1e3),
            over_dense=timing.ratio,
            over_expected=timing.ratio.scaled(1 / point.macs_fraction),
            over_timed=timing.ratio.scaled(1 / cost),
            limit=EXIT_LIMIT,
        )

    def _case(self, name: str, process: Started, arrays: Mapping[str, Array], knobs: Mapping[str, KnobValue]) -> Case:
        """All of ``arrays`` at some knobs, every turn in a process of its own."""
        fed = self._knob_arrays(process.held, knobs)
        fresh = FreshProcess(process.start, {**arrays, **fed})
        return Case(name, fresh, [{self._input: array, **{knob: knob for knob in fed}} for array in arrays])

    def _results(self, knobs: dict[str, KnobValue]) -> tuple[Array, Array, Array]:
        """Share of work, exit and correctness of every image; batches give the same and take less time."""
        process = self._staged.held
        fed = self._knob_arrays(process, knobs)
        feed = {name: name for name in (self._input, *fed)}
        found: list[list[Array]] = []
        for start in range(0, len(self._images), _CHECK_BATCH):
            images = self._images[start : start + _CHECK_BATCH]
            process.load({self._input: images, **fed})
            count = len(images)
            logits = process.output("logits", feed).reshape(count, -1)
            right = logits.argmax(1) == self._labels[start : start + count]
            found.append([process.output(MACS_OUTPUT, feed), process.output(EXIT_OUTPUT, feed), right])
        shares, exits, right = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return shares, exits, right

    def _knob_arrays(self, process: SessionProcess, knobs: Mapping[str, KnobValue]) -> dict[str, Array]:
        """Knob values that a process takes, those not named at their defaults."""
        return {n: a for n, a in knob_arrays(self._bundle.knobs, knobs).items() if n in process.inputs}


def require_exits(bundle: Bundle) -> str:
    """The file of the dense model of a bundle that can be measured.

    Raises:
        BenchError: It has no exits, several inputs, no curve or no dense model.
    """
    if len(bundle.stages) < 2:
        raise BenchError(f"bundle {bundle.name!r} has one stage, expected exits; measure another, or use adaptrt bench")
    if len(bundle.inputs) != 1:
        raise BenchError(f"bundle {bundle.name!r} has {len(bundle.inputs)} inputs, expected 1; measure another")
    if not bundle.curve:
        raise BenchError(f"bundle {bundle.name!r} has no calibrated curve; run `adaptrt calibrate` on it first")
    if bundle.dense.file is None:
        raise BenchError(f"bundle {bundle.name!r} has no dense model, expected one to compare with; export it with one")
    return bundle.dense.file


def _points(bundle: Bundle, budgets: Sequence[float]) -> list[tuple[str, Point]]:
    """Exits alone and whatever the runtime chooses, at every budget within reach."""
    asked = [Budget.fraction(share) for share in budgets]
    alone = [point for point in bundle.curve if point.setting == EXITS]
    found = []
    if alone:
        found = [("exits", point) for point in points_at(msgspec.structs.replace(bundle, curve=alone), asked)]
    known = [point.knobs for _, point in found]
    found += [("all", point) for point in points_at(bundle, asked) if point.knobs not in known]
    if not found:
        raise BenchError(f"bundle {bundle.name!r} reaches none of the budgets {list(budgets)}; give larger ones")
    return found
