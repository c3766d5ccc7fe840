"""Makes ``fixtures/exits`` and ``fixtures/tokens``, bundles of several stages (see ``staged_reference``).

``exits`` has three stages that carry a hidden state of fixed size, and inputs that later stages take.
``tokens`` has two, drops tokens in both, and tells what it decided. Run it after a change to the bundle's
schema, from the repository's folder: ``python -m tests.runtime.make_staged_fixtures``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper, parser

from adaptrt.runtime.bundle.bundle_file import (
    FORMAT_VERSION,
    Axis,
    Bundle,
    Carry,
    CurvePoint,
    DecisionSpec,
    Dense,
    Knob,
    Stage,
    TensorSpec,
    TokenSet,
    encode_bundle,
)
from adaptrt.runtime.control.budget_rows import budget_table
from tests.runtime import staged_reference as reference

FIXTURES = Path(__file__).parent / "fixtures"
Array = np.ndarray[Any, Any]

HEAD = """
    probability = Softmax <axis: int = 1> (logits)
    confidence = ReduceMax <keepdims: int = 0> (probability, one_axis)
"""
EXITS = [
    """(float[batch, 6] x, float[1] price)
    => (float[batch, 3] logits, float[batch] macs_fraction, float[batch] confidence, float[batch, 5] next_hidden)
{
    before = MatMul(x, w0)
    hidden = Relu(before)
    total = ReduceSum <keepdims: int = 1> (hidden, one_axis)
    limit = Mul(price, four)
    wanted = Greater(total, limit)
    run = Cast <to: int = 1> (wanted)
    more = Mul(run, v0)
    next_hidden = Add(hidden, more)
    logits = MatMul(next_hidden, head0)
    flat = Squeeze(run, one_axis)
    gate_work = Mul(flat, tenth)
    macs_fraction = Add(gate_work, base)
"""
    + HEAD
    + "}",
    """(float[batch, 5] hidden, float[batch] macs_before, float[1] scale)
    => (float[batch, 3] logits, float[batch] macs_fraction, float[batch] confidence, float[batch, 5] next_hidden)
{
    before = MatMul(hidden, w1)
    scaled = Mul(before, scale)
    next_hidden = Relu(scaled)
    logits = MatMul(next_hidden, head1)
    macs_fraction = Add(macs_before, share1)
"""
    + HEAD
    + "}",
    """(float[batch, 5] hidden, float[batch] macs_before, float[batch, 2] hint, float[1] price)
    => (float[batch, 3] logits, float[batch] macs_fraction, float[batch] confidence)
{
    before = MatMul(hidden, w2)
    active = Relu(before)
    hinted = MatMul(hint, wh)
    state = Add(active, hinted)
    total = ReduceSum <keepdims: int = 1> (state, one_axis)
    limit = Mul(price, four)
    wanted = Greater(total, limit)
    run = Cast <to: int = 1> (wanted)
    more = Mul(run, v2)
    last = Add(state, more)
    logits = MatMul(last, head2)
    flat = Squeeze(run, one_axis)
    gate_work = Mul(flat, tenth)
    stage_work = Add(gate_work, share2)
    macs_fraction = Add(macs_before, stage_work)
"""
    + HEAD
    + "}",
]

_GATE_AND_SELECTION = """
    score = ReduceSum <keepdims: int = 0> (hidden, two_axis)
    dearer = Add(price, one)
    first = Greater(score, price)
    second = Greater(score, dearer)
    first_run = Cast <to: int = 6> (first)
    second_run = Cast <to: int = 6> (second)
    both = Add(first_run, second_run)
    own_capacity = Gather(capacity, gate)
    off = Less(own_capacity, zero_int)
    most = Where(off, nine_int, own_capacity)
    allowed = Min(both, most)
    there = Cast <to: int = 6> (valid)
    k = Mul(allowed, there)
    learners = Reshape(k, flat_shape)
    runs = Cast <to: int = 1> (k)
    runs_each = Unsqueeze(runs, two_axis)
    gain = Mul(runs_each, v)
    richer = Add(hidden, gain)
    floor = Mul(token_price, selection_scale)
    dear = Greater(score, floor)
    is_class = Equal(index, zero_int)
    wished = Or(dear, is_class)
    wanted = And(wished, valid)
    wanted_int = Cast <to: int = 7> (wanted)
    count_long = ReduceSum <keepdims: int = 0> (wanted_int, one_axis)
    widest = ReduceMax <keepdims: int = 0> (count_long)
    size = Reshape(widest, flat_shape)
    shape = Shape(score)
    width = Gather(shape, one_long)
    width_scalar = Squeeze(width)
    columns = Range(zero_long, width_scalar, step_long)
    bonus = Mul(wanted_int, thousand_long)
    key = Sub(bonus, columns)
    _, order = TopK(key, size)
    slots = Range(zero_long, widest, step_long)
    count_column = Unsqueeze(count_long, one_axis)
    next_valid = Less(slots, count_column)
    order_real = Where(next_valid, order, zero_long)
    kept = Cast <to: int = 6> (order_real)
    count = Cast <to: int = 6> (count_long)
    gathered_index = GatherElements <axis: int = 1> (index, order_real)
    next_index = Where(next_valid, gathered_index, zero_int)
    order_each = Unsqueeze(order_real, two_axis)
    order_wide = Expand(order_each, feature_shape)
    gathered = GatherElements <axis: int = 1> (richer, order_wide)
    valid_each = Unsqueeze(next_valid, two_axis)
    next_hidden = Where(valid_each, gathered, zero)
    pooled = ReduceSum <keepdims: int = 0> (next_hidden, one_axis)
    logits = MatMul(pooled, head)
    best = ReduceMax <keepdims: int = 0> (logits, one_axis)
    top = Relu(best)
    more_than_top = Add(top, four)
    confidence = Div(top, more_than_top)
    runs_total = ReduceSum <keepdims: int = 0> (runs, one_axis)
    run_work = Mul(runs_total, run_share)
    count_float = Cast <to: int = 1> (count_long)
    token_work = Mul(count_float, token_share)
    stage_work = Add(run_work, token_work)
    macs_fraction = Add(macs_before, stage_work)
"""
_TOKENS = [
    """(float[batch, 6, 4] x, float[1] price, float[1] token_price, int32[2] capacity)
    => (float[batch, 3] logits, float[batch] macs_fraction, float[batch] confidence,
        float[batch, kept, 4] next_hidden, bool[batch, kept] next_valid, int32[batch, kept] next_index,
        int32[all] learners_0, int32[batch, kept] kept_0, int32[batch] count_0)
{
    hidden = Identity(x)
    ones = ReduceSum <keepdims: int = 0> (x, two_axis)
    nothing = Mul(ones, zero)
    positions = Add(nothing, places)
    index = Cast <to: int = 6> (positions)
    valid = Equal(nothing, zero)
    column = ReduceSum <keepdims: int = 0> (nothing, one_axis)
    macs_before = Add(column, base)
"""
    + _GATE_AND_SELECTION.replace("learners =", "learners_0 =")
    .replace("    kept =", "    kept_0 =")
    .replace("    count =", "    count_0 =")
    + "}",
    """(float[batch, tokens, 4] hidden, bool[batch, tokens] valid, int32[batch, tokens] index,
    float[batch] macs_before, float[1] price, float[1] token_price, int32[2] capacity)
    => (float[batch, 3] logits, float[batch] macs_fraction, float[batch] confidence,
        int32[all] learners_1, int32[batch, kept] kept_1, int32[batch] count_1)
{
"""
    + _GATE_AND_SELECTION.replace("learners =", "learners_1 =")
    .replace("    kept =", "    kept_1 =")
    .replace("    count =", "    count_1 =")
    + "}",
]


def f32(*values: float) -> Array:
    """A float32 vector, or a scalar of one value."""
    return np.array(values if len(values) > 1 else values[0], np.float32)


def make_model(text: str, constants: Mapping[str, Array], place: str | None) -> bytes:
    """An ONNX file from its text, with those of the constants that it uses."""
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> stage {text}')
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items() if name in used
    )
    if place is not None:
        onnx.helper.set_model_props(model, {"adaptrt.stage": place})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def exits_constants() -> dict[str, Array]:
    """Weights and numbers of the stages of ``exits``."""
    return {
        **reference.exits_weights(),
        "one_axis": np.array([1], np.int64),
        "four": f32(4),
        "tenth": f32(0.1),
        "base": f32(0.2),
        "share1": f32(0.3),
        "share2": f32(0.25),
    }


def exits_models() -> list[bytes]:
    """The stages of ``exits``."""
    return [make_model(text, exits_constants(), f"{number}/3") for number, text in enumerate(EXITS)]


def tokens_models() -> list[bytes]:
    """The stages of ``tokens``."""
    weights = reference.tokens_weights()
    constants = {
        "one_axis": np.array([1], np.int64),
        "two_axis": np.array([2], np.int64),
        "flat_shape": np.array([-1], np.int64),
        "feature_shape": np.array([1, 1, 4], np.int64),
        "one_long": np.array([1], np.int64),
        "zero_long": np.array(0, np.int64),
        "step_long": np.array(1, np.int64),
        "thousand_long": np.array(1000, np.int64),
        "zero_int": np.array(0, np.int32),
        "nine_int": np.array(9, np.int32),
        "zero": f32(0),
        "one": f32(1),
        "four": f32(4),
        "base": f32(0.1),
        "places": np.arange(6, dtype=np.float32),
        "run_share": f32(0.02),
        "token_share": f32(0.05),
    }
    models = []
    for number, text in enumerate(_TOKENS):
        own = {
            "v": weights[f"v{number}"],
            "head": weights[f"head{number}"],
            "gate": np.array(number, np.int64),
            "selection_scale": f32(number + 1),
        }
        models.append(make_model(text, constants | own, f"{number}/2"))
    return models


def exits_curve() -> list[CurvePoint]:
    """A chain of thresholds, measured with the reference; quality is agreement with the last head."""
    x, hint = reference.eighths(100, 400, 6), reference.eighths(101, 400, 2)
    samples = [reference.exits_sample(*pair, np.ones(1)) for pair in zip(x, hint, strict=True)]
    points = []
    for low, high in ((0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.7, 0.6), (0.8, 0.8), (0.9, 0.95), (math.inf, math.inf)):
        taken = [sample.exit(np.array([low, high])) for sample in samples]
        share = np.mean([sample.macs_fraction[stage] for sample, stage in zip(samples, taken, strict=True)])
        agree = [
            sample.logits[stage].argmax() == sample.logits[-1].argmax()
            for sample, stage in zip(samples, taken, strict=True)
        ]
        knobs: dict[str, float | list[float]] = {"price": 0.0, "exit_thresholds": [low, high]}
        points.append(
            CurvePoint(knobs, round(float(share), 6), round(float(np.mean(agree)), 6), frontier=True, setting="exits")
        )
    return points


def tokens_curve() -> list[CurvePoint]:
    """Soft points along the price, and hard ones along the capacity with all tokens kept."""
    x = reference.eighths(102, 300, 6, 4)

    def measure(**knobs: Any) -> tuple[float, float]:
        samples = [reference.tokens_sample(row, **knobs) for row in x]
        full = [reference.tokens_sample(row).logits[-1].argmax() for row in x]
        share = np.mean([sample.macs_fraction[-1] for sample in samples])
        agree = np.mean([sample.logits[-1].argmax() == best for sample, best in zip(samples, full, strict=True)])
        return round(float(share), 6), round(float(agree), 6)

    curve = []
    for price in (4.0, 2.0, 1.0, 0.0):
        share, quality = measure(price=price, token_price=price)
        curve.append(CurvePoint({"price": price, "token_price": price}, share, quality, True, setting="tokens"))
    share, quality = measure()
    curve.append(CurvePoint({}, share, quality, True, setting="sample 0"))
    for capacity in ((0, 0), (1, 0), (1, 1), (2, 1), (2, 2)):
        share, quality = measure(price=-99.0, capacity=capacity)
        knobs: dict[str, float | list[float]] = {"price": -99.0, "capacity": [float(number) for number in capacity]}
        curve.append(CurvePoint(knobs, share, quality, True, setting="capacity", hard=True))
    return curve


def write(
    folder: Path, models: list[bytes], exits: Sequence[str | None], stages: list[dict[str, Any]], **rest: Any
) -> None:
    """Write a bundle with these stages and further keys."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for number, (model, head, more) in enumerate(zip(models, exits, stages, strict=True)):
        (folder / f"stage{number}.onnx").write_bytes(model)
        listed.append(Stage(f"stage{number}.onnx", hashlib.sha256(model).hexdigest(), exit=head, **more))
    bundle = Bundle(
        format_version=FORMAT_VERSION,
        name=folder.name,
        producer="adaptrt tests",
        outputs=[TensorSpec("logits", "float32", ["batch", 3]), TensorSpec("macs_fraction", "float32", ["batch"])],
        stages=listed,
        quality_metric="agreement",
        task="classification",
        **{"axes": {"batch": Axis(0)}, **rest},
    )
    bundle = msgspec.structs.replace(bundle, budget_table=budget_table(bundle))
    (folder / "bundle.json").write_bytes(encode_bundle(bundle))


def thresholds(exits: int) -> Knob:
    """The knob for so many exits before the last."""
    return Knob("exit_thresholds", "float32", [exits], minimum=-math.inf, maximum=math.inf, default=math.inf)


def make_exits(folder: Path) -> None:
    """Write ``exits``."""
    work = Carry("macs_before", "macs_fraction", "float32", ["batch"])
    carry = [Carry("hidden", "next_hidden", "float32", ["batch", 5]), work]
    write(
        folder,
        exits_models(),
        ["after_block_1", "after_block_2", "final"],
        [{}, {"carry": carry}, {"carry": carry}],
        inputs=[
            TensorSpec("x", "float32", ["batch", 6]),
            TensorSpec("hint", "float32", ["batch", 2]),
            TensorSpec("scale", "float32", [1]),
        ],
        knobs=[Knob("price", "float32", [1], minimum=0.0, maximum=9.0, default=0.0), thresholds(2)],
        dense=Dense(macs=100, parameters=120),
        curve=exits_curve(),
        exit_criterion="max_softmax",
    )


def told(number: int) -> list[DecisionSpec]:
    """The decisions of a stage with one gate and one selection, both of this number."""
    return [
        DecisionSpec("learners", number, {"runs": f"learners_{number}"}),
        DecisionSpec("selection", number, {"index": f"kept_{number}", "count": f"count_{number}"}),
    ]


def make_tokens(folder: Path) -> None:
    """Write ``tokens``."""
    carry = [
        Carry("hidden", "next_hidden", "float32", ["batch", "tokens", 4]),
        Carry("valid", "next_valid", "bool", ["batch", "tokens"]),
        Carry("index", "next_index", "int32", ["batch", "tokens"]),
        Carry("macs_before", "macs_fraction", "float32", ["batch"]),
    ]
    write(
        folder,
        tokens_models(),
        ["after_block_1", "final"],
        [
            {"decisions": told(0)},
            {"decisions": told(1), "carry": carry},
        ],
        inputs=[TensorSpec("x", "float32", ["batch", 6, 4])],
        knobs=[
            Knob("price", "float32", [1], minimum=-99.0, maximum=99.0, default=0.0),
            Knob("token_price", "float32", [1], minimum=-99.0, maximum=99.0, default=-99.0),
            Knob("capacity", "int32", [2], minimum=-1, maximum=2, default=-1),
            thresholds(1),
        ],
        dense=Dense(macs=200, parameters=32),
        curve=tokens_curve(),
        exit_criterion="certainty",
        tokens={"tokens": TokenSet(valid="valid")},
    )


if __name__ == "__main__":
    make_exits(FIXTURES / "exits")
    make_tokens(FIXTURES / "tokens")
    print(f"wrote {FIXTURES / 'exits'} and {FIXTURES / 'tokens'}")
