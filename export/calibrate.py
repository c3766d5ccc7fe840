"""Sweep the price over calibration data into a curve, mark its frontier, report quality on a third split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnxruntime

from adaptrt.export.errors import CalibrationError
from adaptrt.export.staging import write_file
from adaptrt.runtime import load
from adaptrt.runtime.bundle import BUNDLE_FILE, Bundle, CurvePoint, Knob, TensorSpec, encode_bundle
from adaptrt.runtime.model import AdaptiveModel

if TYPE_CHECKING:
    from adaptrt.models.data import DataSplits, Split

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, 0..1."""


def untold(what: str, share: float) -> None:
    """Progress that nobody wants to hear."""
    del what, share


POINTS = 25
_BATCH = 64


def spread_prices(fraction: Callable[[float], float], minimum: float, maximum: float, points: int) -> list[float]:
    """Choose prices whose shares of work are spread evenly, whatever the scale of the gates.

    The interval with the largest gap in the share of work is halved, again and again.

    Args:
        fraction: Mean share of work at a price; called ``points`` times.
        minimum: Price at which everything runs.
        maximum: Price at which least runs.
        points: Number of prices, at least 2.

    Returns:
        Prices representable in float32, ascending; both limits among them.
    """
    known = {minimum: fraction(minimum), maximum: fraction(maximum)}
    finest = (maximum - minimum) / (8 * points)
    while len(known) < points:
        prices = sorted(known)
        gaps = []
        for low, high in pairwise(prices):
            middle, gap = float(np.float32((low + high) / 2)), known[low] - known[high]
            if gap > 0 and middle not in known:
                # Where the work jumps, halving goes on for ever: the rest of the curve comes first.
                gaps.append((high - low > finest, gap, middle))
        if not gaps:
            break  # the work does not depend on the price in any interval left
        known[max(gaps)[2]] = fraction(max(gaps)[2])
    return sorted(known)


def mark_frontier(costs: Sequence[float], qualities: Sequence[float]) -> list[bool]:
    """Mark the points that no other beats, by less cost at no lower quality or more quality at no higher cost."""
    marks = []
    for cost, quality in zip(costs, qualities, strict=True):
        beaten = any(
            other_cost <= cost and other_quality >= quality and (other_cost < cost or other_quality > quality)
            for other_cost, other_quality in zip(costs, qualities, strict=True)
        )
        marks.append(not beaten)
    return marks


def calibrate_bundle(
    folder: Path, data: DataSplits, *, points: int = POINTS, progress: Progress | None = None
) -> list[CurvePoint]:
    """Sweep the price of a bundle and write the curve into its ``bundle.json``, atomically.

    Args:
        folder: The bundle.
        data: Labelled data; prices and frontier come from ``calibration``, the reported quality and
            cost from ``test``.
        points: Points of the curve, at least 2.
        progress: Told how far the sweep is.

    Raises:
        CalibrationError: The data does not fit the bundle's inputs, or ``points`` is below 2.
        BundleError: The bundle is damaged.
    """
    if points < 2:
        raise CalibrationError(f"got {points} points, expected at least 2")
    bundle = calibrated(folder, data, points=points, progress=progress)
    write_file(folder / BUNDLE_FILE, encode_bundle(bundle))
    return bundle.curve


def calibrated(folder: Path, data: DataSplits, *, points: int, progress: Progress | None) -> Bundle:
    """Sweep the price of a bundle and give what its ``bundle.json`` is to say; nothing is written."""
    model = load(folder)
    curve = sweep(model, data, points=points, progress=progress or untold)
    dense = msgspec.structs.replace(model.bundle.dense, quality=_dense_accuracy(folder, model.bundle, data.test))
    return msgspec.structs.replace(
        model.bundle, curve=curve, dense=dense, quality_metric="accuracy", data=describe(data)
    )


def describe(data: DataSplits) -> dict[str, object]:
    """What ``bundle.json`` says of the data it was calibrated on."""
    return {"name": data.name, "calibration": len(data.calibration), "test": len(data.test)}


def sweep(model: AdaptiveModel, data: DataSplits, *, points: int, progress: Progress) -> list[CurvePoint]:
    """Measure cost and quality over the price, dearest point last."""
    knob = price_knob(model.bundle)
    measured: dict[float, tuple[float, float]] = {}

    def fraction(price: float) -> float:
        measured[price] = measure(model, data.calibration, price)
        progress("calibrating", len(measured) / (2 * points))
        return measured[price][0]

    prices = spread_prices(fraction, knob.minimum, knob.maximum, points)
    prices.sort(key=lambda price: (measured[price][0], -price))
    marks = mark_frontier([measured[p][0] for p in prices], [measured[p][1] for p in prices])
    curve = []
    for index, (price, on_frontier) in enumerate(zip(prices, marks, strict=True)):
        cost, quality = measure(model, data.test, price)
        progress("measuring quality on held-out data", 0.5 + (index + 1) / (2 * len(prices)))
        curve.append(
            CurvePoint(
                knobs={"price": price},
                macs_fraction=cost,
                quality=quality,
                frontier=on_frontier,
                calibration_macs_fraction=measured[price][0],
                calibration_quality=measured[price][1],
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


def require_shape(spec: TensorSpec, split: Split) -> None:
    """Check that a split's inputs fit an input of a bundle.

    Raises:
        CalibrationError: They do not.
    """
    got = split.inputs.shape
    if len(got) != len(spec.shape) or any(
        isinstance(size, int) and size != actual for size, actual in zip(spec.shape, got, strict=True)
    ):
        raise CalibrationError(
            f"got inputs of shape {list(got)}, expected {spec.shape} as input {spec.name}; give data of that shape"
        )


def measure(model: AdaptiveModel, split: Split, price: float) -> tuple[float, float]:
    """Mean share of work and accuracy over a split, at one price."""
    spec = model.bundle.inputs[0]
    require_shape(spec, split)
    spent, correct = 0.0, 0
    for start in range(0, len(split), _BATCH):
        rows = slice(start, start + _BATCH)
        result = model.run({spec.name: split.inputs[rows]}, knobs={"price": price})
        spent += float(result.macs_fraction.sum(dtype=np.float64))
        correct += int((result.outputs["logits"].argmax(1) == split.labels[rows]).sum())
    return spent / len(split), correct / len(split)


def _dense_accuracy(folder: Path, bundle: Bundle, split: Split) -> float | None:
    """Accuracy of the dense model that the bundle carries for comparison; None if it carries none."""
    if bundle.dense.file is None or not (folder / bundle.dense.file).is_file():
        return None
    session = onnxruntime.InferenceSession(str(folder / bundle.dense.file), providers=["CPUExecutionProvider"])
    correct = 0
    for start in range(0, len(split), _BATCH):
        rows = slice(start, start + _BATCH)
        (logits,) = session.run(["logits"], {bundle.inputs[0].name: split.inputs[rows]})
        correct += int((np.asarray(logits).argmax(1) == split.labels[rows]).sum())
    return correct / len(split)
