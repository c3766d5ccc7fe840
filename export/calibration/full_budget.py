"""Where everything runs a bundle may answer with its dense model's graph: what that costs and gives, on the curve."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from adaptrt.export.calibration.combinations import Point
from adaptrt.export.calibration.own_knobs import RULE
from adaptrt.export.calibration.stage_records import Outcome, StagedModel, batches_by_length, run_calls, split_feeds
from adaptrt.export.calibration.worker_process import Call, EngineOptions
from adaptrt.models.tasks import Task
from adaptrt.runtime.backends.stage_programs import dense_program
from adaptrt.runtime.bundle.schema import MACS_OUTPUT, SNAPPING_SETTING, Bundle, KnobValue
from adaptrt.runtime.plan import runs_everything

if TYPE_CHECKING:
    from adaptrt.models.data.split import DataSplits, Split

FULL_SETTING = f"{SNAPPING_SETTING} of the dense model"
"""Of the point where the dense model answers. Nothing is interpolated towards it: just below it the stages run, and
those cost more there than it does."""


def dense_outcome(model: StagedModel, split: Split, task: Task) -> Outcome:
    """What the dense model's graph costs and gives on a split, on the engine that a model runs on."""
    bundle = model.bundle
    batches = list(batches_by_length(bundle, split_feeds(bundle.inputs, split)))
    answers = run_calls(model, (Call("run_dense", inputs) for _, inputs in batches))
    costs, losses, qualities = (np.empty(len(split), np.float32) for _ in range(3))
    for (rows, _), outputs in zip(batches, answers, strict=True):
        judged = task.judge({name: each for name, each in outputs.items() if name != MACS_OUTPUT}, split.labels[rows])
        costs[rows], losses[rows], qualities[rows] = outputs.get(MACS_OUTPUT, 1.0), judged.loss, judged.quality
    return Outcome(float(costs.mean(dtype=np.float64)), float(losses.mean(dtype=np.float64)), qualities)


class DenseOutcomes(NamedTuple):
    """What the dense model costs and gives on two splits; None where the bundle has no file of it.

    Attributes:
        calibration: That budgets are solved with; at most all of the dense work. None as well where the runtime never
            runs it.
        test: That qualities are reported on.
    """

    calibration: Outcome | None
    test: Outcome | None

    @staticmethod
    def of(model: StagedModel, folder: Path, data: DataSplits, task: Task) -> DenseOutcomes:
        """Run the dense model where it is needed."""
        dense = model.bundle.dense
        if dense.file is None or not (folder / dense.file).is_file():
            return NO_DENSE
        chosen = _solved_with(dense_outcome(model, data.calibration, task)) if dense.runs_everything else None
        return DenseOutcomes(chosen, dense_outcome(model, data.test, task))

    @staticmethod
    def on_engine(
        model: StagedModel, folder: Path, data: DataSplits, task: Task, engine: EngineOptions
    ) -> DenseOutcomes:
        """The same on an engine; None on both splits where the stages answer full budgets on it."""
        if dense_program(engine.record, folder, model.bundle, engine.computes_in) is None:
            return NO_DENSE
        chosen = _solved_with(dense_outcome(model, data.calibration, task))
        return DenseOutcomes(chosen, dense_outcome(model, data.test, task))


def _solved_with(outcome: Outcome) -> Outcome:
    """At most all of the dense work: that budget is to run the dense model.

    Texts drawn for calibration may be longer than the one that work is a share of, by chance.
    """
    return dataclasses.replace(outcome, cost=min(outcome.cost, 1.0))


NO_DENSE = DenseOutcomes(None, None)


def answered_by_dense(bundle: Bundle, knobs: Mapping[str, KnobValue]) -> bool:
    """Whether a runtime runs the dense model's graph at some knobs."""
    return bundle.dense.runs_everything and runs_everything(bundle.knobs, knobs)


def in_its_place(bundle: Bundle, knobs: Mapping[str, KnobValue], stages: Outcome, dense: Outcome | None) -> Outcome:
    """What a point costs and gives as it is run.

    Args:
        bundle: Of the point.
        knobs: The point's.
        stages: What the stages cost and gave there.
        dense: What the dense model does.
    """
    if not answered_by_dense(bundle, knobs) or dense is None:
        return stages
    # One that stands for the stages was proved to give what they give: only what it costs is another.
    return dense if bundle.dense.answers_full else dataclasses.replace(stages, cost=dense.cost)


def beside_dense(bundle: Bundle, points: Sequence[Point], dense: Outcome | None) -> list[Point]:
    """Points as they are run.

    What costs more than the dense model, because hardly anything is left out, is nobody's choice any more.

    Args:
        bundle: Of the points.
        points: As the stages were measured.
        dense: What the dense model costs and gives on the same data.
    """
    if not bundle.dense.runs_everything or dense is None:
        return list(points)
    found: list[Point] = []
    full: dict[bool, Point] = {}  # every chain begins there
    for point in points:
        if answered_by_dense(bundle, point.knobs):
            outcome = in_its_place(bundle, point.knobs, point.outcome, dense)
            full.setdefault(point.hard, dataclasses.replace(point, outcome=outcome, setting=FULL_SETTING))
        elif point.outcome.cost <= dense.cost or point.setting == RULE:
            found.append(point)
    return [*found, *full.values()]
