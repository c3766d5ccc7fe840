"""Sweep a bundle's knobs over calibration data into a curve, mark its frontier, report quality on a third split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from adaptrt.export.calibration.combinations import Point, search
from adaptrt.export.calibration.evaluations import Evaluations, Progress, untold
from adaptrt.export.calibration.frontier import mark_frontier, spread_prices
from adaptrt.export.calibration.full_budget import NO_DENSE, DenseOutcomes, beside_dense, in_its_place
from adaptrt.export.calibration.journal import JOURNAL_FILE, Journal, calibration_key
from adaptrt.export.calibration.own_knobs import has_own_knobs, kept_rule, rule_point, search_own
from adaptrt.export.calibration.stage_records import (
    Outcome,
    StagedModel,
    bundle_task,
    record_passes,
    record_stages,
    split_feeds,
)
from adaptrt.export.calibration.workers import chosen_workers, opened
from adaptrt.export.errors import CalibrationError
from adaptrt.export.staging import write_file
from adaptrt.models.tasks import Task
from adaptrt.models.tasks.following import following
from adaptrt.runtime.bundle.bundle_file import BUNDLE_FILE, Bundle, CurvePoint, Knob, encode_bundle, read_bundle
from adaptrt.runtime.bundle.schema import PRICE_KNOB
from adaptrt.runtime.control.budget_rows import budget_table

if TYPE_CHECKING:
    from adaptrt.models.data.split import DataSplits

__all__ = [
    "EVALUATIONS",
    "POINTS",
    "Progress",
    "calibrate_bundle",
    "calibrate_loaded",
    "describe",
    "has_combinations",
    "mark_frontier",
    "price_knob",
    "spread_prices",
    "sweep",
    "untold",
]

POINTS = 25
EVALUATIONS = 120


def calibrate_bundle(
    folder: Path,
    data: DataSplits,
    *,
    points: int = POINTS,
    evaluations: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[CurvePoint]:
    """Calibrate a bundle and write the curve into its ``bundle.json``, atomically.

    Where there is more to combine than one price, every finished pass is kept in a journal in the
    bundle's folder: interrupted and called again, the calibration goes on where it was, and ends with
    the curve that it would have had. The journal is removed at the end.

    Args:
        folder: The bundle.
        data: Labelled data; knobs and frontier come from ``calibration``, the reported quality and
            cost from ``test``.
        points: Points of the curve, of each chain where there are several; at least 2.
        evaluations: Passes over the calibration data at most, ``EVALUATIONS`` unless told; a bundle of
            one stage and with no knob but a price takes ``points``.
        workers: Processes that run the data, one thread each; the result is the same for any number. 1: this process
            does; None: as many as there are cores to use, see ``chosen_workers``. Each holds the network.
        progress: Told how far the calibration is.

    Raises:
        CalibrationError: The data does not fit the bundle's inputs, ``points`` is below 2, ``evaluations`` too few for
            the bundle's chains, ``workers`` below 1, or one of them died.
        BundleError: The bundle is damaged.
        ExportError: The bundle's folder cannot be written.
    """
    journal = folder / JOURNAL_FILE
    bundle = read_bundle(folder, verify_hashes=False)  # the hash is taken where the bytes are used
    count = chosen_workers(workers, calibration_work(bundle, data, points, evaluations))
    with opened(folder, bundle, count) as model:
        bundle = calibrate_loaded(
            model,
            folder,
            data,
            points=points,
            evaluations=evaluations,
            progress=progress or untold,
            journal=journal,
        )
    write_file(folder / BUNDLE_FILE, encode_bundle(bundle))
    journal.unlink(missing_ok=True)
    return bundle.curve


def calibrate_loaded(
    model: StagedModel,
    folder: Path,
    data: DataSplits,
    *,
    points: int = POINTS,
    evaluations: int | None = None,
    progress: Progress = untold,
    journal: Path | None = None,
    task: Task | None = None,
    rule: Sequence[float] | None = None,
) -> Bundle:
    """Calibrate a bundle and give what its ``bundle.json`` is to say; it is not written.

    Arguments and errors are those of ``calibrate_bundle``.

    Args:
        model: The bundle, as ``workers.opened`` gives it.
        folder: Its files; a ``bundle.json`` need not be among them yet.
        data: Labelled data.
        points: Points per chain.
        evaluations: Passes at most; None for the default.
        progress: Told how far the calibration is.
        journal: File to keep finished passes in, and to go on from; None keeps none. It stays where it
            is, for the caller to remove once the result is safe.
        task: What judges the outputs; None: the bundle's own.
        rule: Exit thresholds of the network's own, a point ``rule`` of the curve; None: those of the curve before.
    """
    if points < 2:
        raise CalibrationError(f"got {points} points, expected at least 2")
    task = task or bundle_task(model.bundle)
    if data.follows_dense:
        task = following(task)
    about, dense = describe(data), DenseOutcomes.of(model, folder, data, task)
    if not has_combinations(model.bundle):
        curve = sweep(model, data, points=points, progress=progress, task=task, dense=dense)
    else:
        for split in (data.calibration, data.test):
            split_feeds(model.bundle.inputs, split)
        limit = EVALUATIONS if evaluations is None else evaluations
        curve, done = _searched(model, data, points, limit, progress, journal, task, rule, dense)
        about["evaluations"] = done
    quality = None if dense.test is None else dense.test.quality
    described = msgspec.structs.replace(model.bundle.dense, quality=quality)
    bundle = msgspec.structs.replace(model.bundle, curve=curve, dense=described, quality_metric=task.metric, data=about)
    return msgspec.structs.replace(bundle, budget_table=budget_table(bundle))


def has_combinations(bundle: Bundle) -> bool:
    """Whether a bundle has more to calibrate than one price."""
    return len(bundle.stages) > 1 or not {knob.name for knob in bundle.knobs} <= {PRICE_KNOB}


def calibration_work(bundle: Bundle, data: DataSplits, points: int, evaluations: int | None) -> float:
    """Multiply-accumulates of a calibration, at most and about: most passes run less than everything."""
    passes = points if not has_combinations(bundle) else EVALUATIONS if evaluations is None else evaluations
    return float(passes * (len(data.calibration) + len(data.test)) * bundle.dense.macs)


def describe(data: DataSplits) -> dict[str, object]:
    """What ``bundle.json`` says of the data it was calibrated on."""
    return {"name": data.name, "calibration": len(data.calibration), "test": len(data.test)}


def sweep(
    model: StagedModel,
    data: DataSplits,
    *,
    points: int,
    progress: Progress,
    task: Task | None = None,
    dense: DenseOutcomes = NO_DENSE,
) -> list[CurvePoint]:
    """Measure cost and quality over the price, dearest point last."""
    bundle, knob = model.bundle, price_knob(model.bundle)
    measured: dict[float, Outcome] = {}

    def fraction(price: float) -> float:
        measured[price] = record_stages(model, data.calibration, {PRICE_KNOB: price}, task).outcome()
        progress("calibrating", len(measured) / (2 * points))
        return measured[price].cost

    prices = spread_prices(fraction, knob.minimum, knob.maximum, points)
    prices.sort(key=lambda price: (measured[price].cost, -price))
    stood = [Point("", {PRICE_KNOB: price}, None, measured[price]) for price in prices]
    found = beside_dense(bundle, stood, dense.calibration)
    marks = mark_frontier([point.outcome.cost for point in found], [point.outcome.quality for point in found])
    dearest = found[-1].outcome
    curve = []
    passes = record_passes(model, data.test, [point.knobs for point in found], task)
    for index, (point, on_frontier, records) in enumerate(zip(found, marks, passes, strict=True)):
        held_out = in_its_place(bundle, point.knobs, records.outcome(), dense.test)
        progress("measuring quality on held-out data", 0.5 + (index + 1) / (2 * len(found)))
        curve.append(
            CurvePoint(
                knobs=point.knobs,
                macs_fraction=held_out.cost,
                quality=held_out.quality,
                frontier=on_frontier,
                calibration_macs_fraction=point.outcome.cost,
                calibration_quality=point.outcome.quality,
                setting=point.setting,
                calibration_error=point.outcome.error_against(dearest),
            )
        )
    return curve


def price_knob(bundle: Bundle) -> Knob:
    """The price among a bundle's knobs.

    Raises:
        CalibrationError: It has none.
    """
    for knob in bundle.knobs:
        if knob.name == "price":
            return knob
    raise CalibrationError(f"bundle {bundle.name!r} has no price, expected a knob of that name; nothing to calibrate")


def _searched(
    model: StagedModel,
    data: DataSplits,
    points: int,
    limit: int,
    progress: Progress,
    journal: Path | None,
    task: Task,
    rule: Sequence[float] | None,
    dense: DenseOutcomes,
) -> tuple[list[CurvePoint], int]:
    """The curve of a bundle with several knobs, and the passes over calibration data that it took."""
    with Journal(journal, calibration_key(model.bundle, data)) as kept:
        evaluations = Evaluations(model, data, limit=limit, journal=kept, progress=progress, task=task)
        found = (search_own if has_own_knobs(model.bundle) else search)(evaluations, points=points)
        thresholds = kept_rule(model.bundle.curve) if rule is None else rule
        found += [] if thresholds is None else [rule_point(evaluations, thresholds)]
        found = beside_dense(model.bundle, found, dense.calibration)
        curve = _held_out(evaluations, found, dense.test)
    progress(f"calibrated in {evaluations.done} passes", 1.0)
    return curve, evaluations.done


def _held_out(evaluations: Evaluations, points: Sequence[Point], dense: Outcome | None) -> list[CurvePoint]:
    """Measure on the test split what calibration data chose, and mark both frontiers: the soft and the hard one."""
    marked: dict[int, bool] = {}
    errors: dict[int, float] = {}
    for hard in (False, True):
        places = [place for place, point in enumerate(points) if point.hard is hard]
        outcomes = [points[place].outcome for place in places]
        marks = mark_frontier([own.cost for own in outcomes], [own.quality for own in outcomes])
        marked.update(zip(places, marks, strict=True))
        if outcomes:
            dearest = max(outcomes, key=lambda own: own.cost)
            errors.update((place, own.error_against(dearest)) for place, own in zip(places, outcomes, strict=True))
    curve, bundle = [], evaluations.model.bundle
    held_out = evaluations.held_out([point.passed for point in points])
    for place, (point, records) in enumerate(zip(points, held_out, strict=True)):
        outcome = in_its_place(bundle, point.knobs, records.outcome(point.thresholds), dense)
        curve.append(
            CurvePoint(
                knobs=point.knobs,
                macs_fraction=outcome.cost,
                quality=outcome.quality,
                frontier=marked[place],
                calibration_quality=point.outcome.quality,
                calibration_macs_fraction=point.outcome.cost,
                setting=point.setting,
                hard=point.hard,
                calibration_error=errors[place],
            )
        )
    return curve
