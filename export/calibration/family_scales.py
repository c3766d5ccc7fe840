"""Fit the price scales of a model with several families, on its own graphs with raw prices."""

from __future__ import annotations

from pathlib import Path

from adaptrt.export.calibration.evaluations import Progress
from adaptrt.export.calibration.price_scale import sweep_family
from adaptrt.export.calibration.stage_records import Outcome
from adaptrt.export.calibration.workers import chosen_workers, opened
from adaptrt.export.description import describe_bundle
from adaptrt.export.graph.stage_files import save_stages, trace_stages
from adaptrt.models.data.split import DataSplits
from adaptrt.models.families.price_scale import PriceScale
from adaptrt.models.folder import LoadedModel
from adaptrt.runtime.bundle.bundle_file import Dense
from adaptrt.runtime.bundle.schema import PRICE_KNOB

SWEEP_POINTS = 13
SWEEP_SAMPLES = 2_000


def fit_family_scales(
    source: LoadedModel,
    scratch: Path,
    data: DataSplits,
    *,
    workers: int | None = None,
    progress: Progress,
) -> None:
    """Give a model the scales by which one price steers all its families.

    ACMs and token selections each have a price of their own making. Each is swept alone on calibration
    data, and mapped to the reduction of the loss that a share of the dense work buys there. A model with
    a single family keeps its own price.

    Args:
        source: Its model is changed in place: ``price_scales`` are set.
        scratch: Folder for the graphs with raw prices.
        data: Its calibration part is swept, 2,000 samples at most.
        workers: Processes that run it; see ``calibrate_bundle``.
        progress: Told what is being done.
    """
    model, priced = source.model, source.model.priced()
    if not priced or len(priced) + (model.exits is not None) < 2:
        return
    model.set_price_scales({})
    stages, ops = trace_stages(model, debug=False, progress=lambda what, share: progress(f"{what}, raw prices", share))
    dense = Dense(macs=model.dense_macs(), parameters=1)
    bundle = describe_bundle(source, stages, save_stages(stages, scratch), ops, dense)
    split = data.calibration.part(slice(SWEEP_SAMPLES))
    scales: dict[str, PriceScale] = {}
    knobs = [PRICE_KNOB, *(family.own_price for family in priced[1:])]
    known: dict[str, Outcome] = {}
    work = float(SWEEP_POINTS * len(priced) * len(split) * dense.macs)
    with opened(scratch, bundle, chosen_workers(workers, work)) as running:
        for family, knob in zip(priced, knobs, strict=True):
            progress(f"sweeping {family.scale} alone", len(scales) / len(priced))
            off = {other: 0.0 for other in knobs if other != knob}
            fitted = sweep_family(running, split, knob, off=off, points=SWEEP_POINTS, known=known).scale()
            scales[family.scale] = PriceScale(fitted.prices, fitted.values)
    model.set_price_scales(scales)
