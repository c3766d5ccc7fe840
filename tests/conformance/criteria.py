"""Bundles of three stages that differ from the fixture ``exits`` in what their confidence is: entropy and patience.

And one that answers with its dense model where everything would run.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import msgspec
import numpy as np

from adaptrt.runtime import load
from adaptrt.runtime.bundle.bundle_file import Bundle, Carry, CurvePoint, KnobValue, Stage, encode_bundle, read_bundle
from adaptrt.runtime.control.budget_rows import budget_table
from tests.runtime.make_staged_fixtures import EXITS, FIXTURES, HEAD, exits_constants, f32, make_model
from tests.runtime.staged_reference import eighths

_ENTROPY = """
    probability = Softmax <axis: int = 1> (logits)
    logarithm = LogSoftmax <axis: int = 1> (logits)
    weighted = Mul(probability, logarithm)
    negative_entropy = ReduceSum <keepdims: int = 0> (weighted, one_axis)
    relative = Div(negative_entropy, log_classes)
    confidence = Add(relative, one)
"""
_FIRST_PATIENCE = """
    best = ArgMax <axis: int = 1, keepdims: int = 0> (logits)
    best_float = Cast <to: int = 1> (best)
    confidence = Mul(best_float, zero)
"""
_PATIENCE = """
    best = ArgMax <axis: int = 1, keepdims: int = 0> (logits)
    agrees = Equal(best, best_before)
    agreement = Cast <to: int = 1> (agrees)
    longer = Add(streak_before, one)
    confidence = Mul(longer, agreement)
"""
_ADAPTED_FROM = """(float[batch, 6] x) => (float[batch, 3] logits, float[batch] macs_fraction)
{
    logits = MatMul(x, weights)
    positive = Greater(x, zero)
    each = Cast <to: int = 1> (positive)
    summed = ReduceSum <keepdims: int = 0> (each, one_axis)
    part = Mul(summed, sixteenth)
    macs_fraction = Add(part, base)
}"""


def write_entropy(folder: Path) -> None:
    """Write the bundle whose confidence is 1 - entropy / ln(classes)."""
    thresholds = [(-1.0, -1.0), (0.2, -1.0), (0.3, 0.2), (0.5, 0.4), (0.7, 0.7), (0.9, 0.9), (math.inf, math.inf)]
    _write(folder, "entropy", [text.replace(HEAD, _ENTROPY) for text in EXITS], [], thresholds)


def write_patience(folder: Path) -> None:
    """Write the bundle whose confidence is how many heads before, in a row, agree with this one."""
    texts = [text.replace(HEAD, _PATIENCE if number else _FIRST_PATIENCE) for number, text in enumerate(EXITS)]
    texts = [text.replace("float[batch] confidence", "float[batch] confidence, int64[batch] best") for text in texts]
    taken = "float[batch] macs_before, int64[batch] best_before, float[batch] streak_before"
    texts = [text.replace("float[batch] macs_before", taken) for text in texts]
    carry = [
        Carry("best_before", "best", "int64", ["batch"]),
        Carry("streak_before", "confidence", "float32", ["batch"]),
    ]
    thresholds = [(-1.0, -1.0), (0.5, -1.0), (0.5, 0.5), (math.inf, math.inf)]
    _write(folder, "patience", texts, carry, thresholds)


def write_adapted(folder: Path) -> None:
    """Write the bundle with entropy's confidence whose dense model answers full budgets, with work by the sample."""
    write_entropy(folder)
    weights = np.arange(18, dtype=np.float32).reshape(6, 3) / 8 - 1
    numbers = {"zero": f32(0), "sixteenth": f32(1 / 16), "base": f32(13 / 16)}
    constants = {"weights": weights, "one_axis": np.array([1], np.int64), **numbers}
    graph = make_model(_ADAPTED_FROM, constants, None)
    (folder / "dense.onnx").write_bytes(graph)
    of = read_bundle(folder)
    dense = msgspec.structs.replace(
        of.dense, file="dense.onnx", sha256=hashlib.sha256(graph).hexdigest(), answers_full=True
    )
    curve = [point for point in of.curve if point.macs_fraction < 1][:-1]
    full = CurvePoint(
        {"exit_thresholds": [math.inf, math.inf]}, 1.0, 0.95, frontier=True, setting="sample of the dense"
    )
    of = msgspec.structs.replace(of, name="adapted", dense=dense, curve=[*curve, full], budget_table=None)
    _save(folder, msgspec.structs.replace(of, budget_table=budget_table(of)))


def _write(
    folder: Path, criterion: str, texts: list[str], carry: list[Carry], thresholds: list[tuple[float, float]]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    constants = exits_constants() | {"one": f32(1), "zero": f32(0), "log_classes": f32(math.log(3))}
    models = [make_model(text, constants, f"{number}/3") for number, text in enumerate(texts)]
    of = read_bundle(FIXTURES / "exits")
    stages = []
    for number, (model, stage) in enumerate(zip(models, of.stages, strict=True)):
        (folder / stage.file).write_bytes(model)
        carried = [*stage.carry, *carry] if number else []
        stages.append(Stage(stage.file, hashlib.sha256(model).hexdigest(), exit=stage.exit, carry=carried))
    of = msgspec.structs.replace(
        of, name=criterion, stages=stages, exit_criterion=criterion, curve=[], budget_table=None
    )
    _save(folder, of)
    of = msgspec.structs.replace(of, curve=_curve(folder, thresholds))
    _save(folder, msgspec.structs.replace(of, budget_table=budget_table(of)))


def _save(folder: Path, of: Bundle) -> None:
    (folder / "bundle.json").write_bytes(encode_bundle(of))


def _curve(folder: Path, thresholds: list[tuple[float, float]]) -> list[CurvePoint]:
    """Measured on random inputs; quality stands for a trained network's and rises with the work."""
    inputs = {"x": eighths(100, 400, 6), "hint": eighths(101, 400, 2), "scale": np.ones(1, np.float32)}
    model, points = load(folder, threads=1), []
    for pair in thresholds:
        knobs: dict[str, KnobValue] = {"price": 0.0, "exit_thresholds": list(pair)}
        share = round(float(model.run(inputs, knobs=knobs).macs_fraction.mean(dtype=np.float64)), 6)
        points.append(CurvePoint(knobs, share, round(0.5 + 0.4 * share, 6), frontier=True, setting="exits"))
    return points
