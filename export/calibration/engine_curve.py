"""The points of a bundle's curve measured again on one of its engines, whose decisions fall otherwise at times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from adaptrt.export.calibration.calibrate import calibration_work, describe
from adaptrt.export.calibration.evaluations import Progress, untold
from adaptrt.export.calibration.frontier import mark_frontier
from adaptrt.export.calibration.full_budget import DenseOutcomes, answered_by_dense
from adaptrt.export.calibration.stage_records import (
    Knobs,
    Outcome,
    StagedModel,
    StageRecords,
    bundle_task,
    record_passes,
    split_feeds,
)
from adaptrt.export.calibration.worker_process import EngineOptions
from adaptrt.export.calibration.workers import chosen_workers, opened
from adaptrt.export.errors import CalibrationError
from adaptrt.export.staging import write_file
from adaptrt.models.tasks import Task
from adaptrt.models.tasks.following import following
from adaptrt.runtime.bundle.bundle_file import Bundle, CurvePoint, read_bundle
from adaptrt.runtime.bundle.engine_calibration import CALIBRATION_FILE, encode_calibration
from adaptrt.runtime.bundle.engine_files import engine_folder
from adaptrt.runtime.bundle.schema import THRESHOLDS_KNOB
from adaptrt.runtime.bundle.target_table import TARGETS
from adaptrt.runtime.control.budget_rows import budget_table

if TYPE_CHECKING:
    from adaptrt.models.data.split import DataSplits, Split


def calibrate_engine(
    folder: Path,
    data: DataSplits,
    engine: EngineOptions,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[CurvePoint]:
    """Measure the bundle's own points on an engine that was built of it, and keep them beside the engine.

    Args:
        folder: The bundle, calibrated.
        data: Labelled data, as for ``calibrate_bundle``.
        engine: Which one.
        workers: As for ``calibrate_bundle``.
        progress: Told how far it is.

    Raises:
        CalibrationError: The bundle has no curve, the data does not fit, or nothing is built for this engine.
        BundleError: The bundle or what was built is damaged, or of another export.
        BackendError: The engine is missing or refuses the graphs.
        ExportError: The folder cannot be written.
    """
    tell, bundle = progress or untold, read_bundle(folder, verify_hashes=False)
    place = calibrated_folder(folder, engine)
    if not bundle.curve:
        raise CalibrationError(
            f"{folder} has no curve, expected points to measure again; run `adaptrt calibrate` first"
        )
    task = following(bundle_task(bundle)) if data.follows_dense else bundle_task(bundle)
    for split in (data.calibration, data.test):
        split_feeds(bundle.inputs, split)
    passes = len(set(map(_setting, bundle.curve)))
    with opened(
        folder, bundle, chosen_workers(workers, calibration_work(bundle, data, passes, passes)), engine
    ) as model:
        chosen = _recorded(model, data.calibration, bundle.curve, task, tell, 0.0)
        tested = _recorded(model, data.test, bundle.curve, task, tell, 0.5)
        dense = DenseOutcomes.on_engine(model, folder, data, task, engine)
    chosen = _as_run(bundle, chosen, dense.calibration)
    tested = _as_run(bundle, tested, dense.test)
    curve = _measured(bundle.curve, chosen, tested)
    own = msgspec.structs.replace(bundle, curve=curve, quality_metric=task.metric, data=describe(data))
    own = msgspec.structs.replace(own, budget_table=budget_table(own))
    write_file(place / CALIBRATION_FILE, encode_calibration(own))
    return curve


def calibrated_folder(folder: Path, engine: EngineOptions) -> Path:
    """Where the curve of an engine is kept.

    Raises:
        CalibrationError: The backend runs the portable files in this precision, or nothing is built.
    """
    record, precision = engine.record, engine.computes_in
    target = record.built_for(precision)
    if not target or precision not in TARGETS[target].precisions:
        raise CalibrationError(
            f"got backend {engine.backend!r} in {precision}, expected one that runs what `adaptrt build` made; leave "
            "--backend and --precision out to calibrate the bundle itself"
        )
    place = engine_folder(folder, target, precision)
    if not place.is_dir():
        raise CalibrationError(
            f"no {place.relative_to(folder)} in {folder}, expected an engine to calibrate; run `adaptrt build {folder} "
            f"--target {target} --precision {precision}`"
        )
    return place


def _fed(point: CurvePoint) -> Knobs:
    """The knobs that graphs take; thresholds are the runtime's."""
    return {name: value for name, value in point.knobs.items() if name != THRESHOLDS_KNOB}


def _setting(point: CurvePoint) -> str:
    """The same for points that one pass serves."""
    return repr(sorted(_fed(point).items()))


def _recorded(
    model: StagedModel, split: Split, points: Sequence[CurvePoint], task: Task, tell: Progress, begin: float
) -> list[Outcome]:
    """What every point costs and gives on a split, each setting of the knobs run once."""
    every = {_setting(point): _fed(point) for point in points}
    found: dict[str, StageRecords] = {}
    for name, records in zip(every, record_passes(model, split, list(every.values()), task), strict=True):
        found[name] = records
        tell("measuring the curve on the engine", begin + 0.5 * len(found) / len(every))
    return [found[_setting(point)].outcome(_thresholds(point, model.bundle)) for point in points]


def _as_run(bundle: Bundle, outcomes: Sequence[Outcome], dense: Outcome | None) -> list[Outcome]:
    """What the points cost and give where the engine has the dense model's graph, which then answers full budgets."""
    return [
        outcome if dense is None or not answered_by_dense(bundle, point.knobs) else dense
        for point, outcome in zip(bundle.curve, outcomes, strict=True)
    ]


def _thresholds(point: CurvePoint, bundle: Bundle) -> list[float] | None:
    value = point.knobs.get(THRESHOLDS_KNOB)
    if value is None:
        return None
    return list(value) if isinstance(value, list) else [float(value)] * (len(bundle.stages) - 1)


def _measured(points: Sequence[CurvePoint], chosen: Sequence[Outcome], tested: Sequence[Outcome]) -> list[CurvePoint]:
    curve = list(points)
    for hard in (False, True):
        places = [place for place, point in enumerate(points) if point.hard is hard]
        if not places:
            continue
        marks = mark_frontier([chosen[place].cost for place in places], [chosen[place].quality for place in places])
        dearest = max((chosen[place] for place in places), key=lambda own: own.cost)
        for place, mark in zip(places, marks, strict=True):
            curve[place] = msgspec.structs.replace(
                points[place],
                macs_fraction=tested[place].cost,
                quality=tested[place].quality,
                frontier=mark,
                calibration_macs_fraction=chosen[place].cost,
                calibration_quality=chosen[place].quality,
                calibration_error=chosen[place].error_against(dearest),
            )
    return curve
