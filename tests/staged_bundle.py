"""A small bundle of all families, written by hand: gates, token selection and an exit over 4 x 4 grey images.

A class token and four patches of 2 x 2 pixels. A gate runs 0 to 2 learners for a token, the more the
brighter it is; a selection then drops dark patches. Every stage does both and ends with a head.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper, parser

from adaptrt.runtime import load
from adaptrt.runtime.bundle.bundle_file import (
    FORMAT_VERSION,
    Axis,
    Bundle,
    Carry,
    CurvePoint,
    DecisionSpec,
    Dense,
    ImagePreprocessing,
    Knob,
    KnobValue,
    Stage,
    TensorSpec,
    TokenSet,
    encode_bundle,
)
from adaptrt.runtime.control.budget_rows import budget_table

TOKENS, LEARNERS, WIDTH, CLASSES = 5, 2, 4, 3
Array = np.ndarray[Any, Any]

_EMBEDDING = """
    deep = SpaceToDepth <blocksize: int = 2> (pixels)
    columns_first = Reshape(deep, patch_shape)
    patches = Transpose <perm: ints = [0, 2, 1]> (columns_first)
    class_token = ReduceMean <keepdims: int = 1> (patches, one_axis)
    hidden = Concat <axis: int = 1> (class_token, patches)
    sums = ReduceSum <keepdims: int = 0> (hidden, two_axis)
    nothing = Mul(sums, zero)
    positions = Add(nothing, places)
    index = Cast <to: int = 6> (positions)
    valid = Equal(nothing, zero)
    column = ReduceSum <keepdims: int = 0> (nothing, one_axis)
    macs_before = Add(column, base)
"""
_STAGE = """
    score = ReduceMean <keepdims: int = 0> (hidden, two_axis)
    dearer = Add(price, quarter)
    first = Greater(score, price)
    second = Greater(score, dearer)
    first_run = Cast <to: int = 6> (first)
    second_run = Cast <to: int = 6> (second)
    wished_k = Add(first_run, second_run)
    own_capacity = Gather(capacity, gate)
    off = Less(own_capacity, zero_int)
    same_k = Expand(own_capacity, one_by_one)
    chosen_k = Where(off, wished_k, same_k)
    there = Cast <to: int = 6> (valid)
    k = Mul(chosen_k, there)
    learners_STAGE = Reshape(k, flat_shape)
    runs = Cast <to: int = 1> (k)
    runs_each = Unsqueeze(runs, two_axis)
    gain = Mul(runs_each, v)
    richer = Add(hidden, gain)
    follows = Less(token_price, zero)
    floor = Where(follows, price, token_price)
    bright = Greater(score, floor)
    is_class = Equal(index, zero_int)
    wanted_or = Or(bright, is_class)
    wanted = And(wanted_or, valid)
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
    best_keys, order = TopK(key, size)
    slots = Range(zero_long, widest, step_long)
    count_column = Unsqueeze(count_long, one_axis)
    next_valid = Less(slots, count_column)
    order_real = Where(next_valid, order, zero_long)
    kept_STAGE = Cast <to: int = 6> (order_real)
    count_STAGE = Cast <to: int = 6> (count_long)
    gathered_index = GatherElements <axis: int = 1> (index, order_real)
    next_index = Where(next_valid, gathered_index, zero_int)
    order_each = Unsqueeze(order_real, two_axis)
    order_wide = Expand(order_each, feature_shape)
    gathered = GatherElements <axis: int = 1> (richer, order_wide)
    valid_each = Unsqueeze(next_valid, two_axis)
    next_hidden = Where(valid_each, gathered, zero)
    pooled = ReduceSum <keepdims: int = 0> (next_hidden, one_axis)
    logits = MatMul(pooled, head)
    probability = Softmax <axis: int = 1> (logits)
    confidence = ReduceMax <keepdims: int = 0> (probability, one_axis)
    runs_total = ReduceSum <keepdims: int = 0> (runs, one_axis)
    run_work = Mul(runs_total, run_share)
    count_float = Cast <to: int = 1> (count_long)
    token_work = Mul(count_float, token_share)
    stage_work = Add(run_work, token_work)
    macs_fraction = Add(macs_before, stage_work)
"""
_KNOBS = "float[1] price, float[1] token_price, int32[2] capacity"
_TOLD = """float[batch, 3] logits, float[batch] macs_fraction, float[batch] confidence,
    int32[all] learners_STAGE, int32[batch, kept] kept_STAGE, int32[batch] count_STAGE"""
_HANDED = "float[batch, kept, 4] next_hidden, bool[batch, kept] next_valid, int32[batch, kept] next_index"
_TAKEN = (
    "float[batch, tokens, 4] hidden, bool[batch, tokens] valid, int32[batch, tokens] index, float[batch] macs_before"
)
_DENSE = (
    "(float[batch, 1, 4, 4] pixels) => (float[batch, 3] logits) { flat = Flatten(pixels) logits = MatMul(flat, dense) }"
)


def images(count: int, seed: int = 0) -> Array:
    """Float32 [count, 1, 4, 4] in 0..1: some bright, some dark."""
    generator = np.random.default_rng(seed)
    brightness = generator.random((count, 1, 1, 1))
    return (generator.random((count, 1, 4, 4)) * brightness).astype(np.float32)


def write_staged(folder: Path, *, stages: int = 2, calibrated: bool = True) -> Bundle:
    """Write the bundle, of two stages or of one.

    Its curve, measured on noise, has the settings ``price``, ``exits`` (with two stages) and ``hard``.
    Quality stands for that of a trained network: it rises with the work. With random weights more work is seldom
    better, and budgets would run next to nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"(float[batch, 1, 4, 4] pixels, {_KNOBS}) => ({_TOLD}, {_HANDED}) {{ {_EMBEDDING} {_STAGE} }}"]
    if stages == 2:
        texts.append(f"({_TAKEN}, {_KNOBS}) => ({_TOLD}) {{ {_STAGE} }}")
    files = []
    for number, text in enumerate(texts):
        place = f"{number}/2" if stages == 2 else None
        model = _model(text.replace("STAGE", str(number)), _constants(number), place)
        name = "model.onnx" if stages == 1 else f"stage{number}.onnx"
        (folder / name).write_bytes(model)
        told = [
            DecisionSpec("learners", number, {"runs": f"learners_{number}"}),
            DecisionSpec("selection", number, {"index": f"kept_{number}", "count": f"count_{number}"}),
        ]
        files.append(Stage(name, _sha256(model), decisions=told))
    if stages == 2:
        files[0] = msgspec.structs.replace(files[0], exit="after_block_1")
        files[1] = msgspec.structs.replace(files[1], exit="final", carry=_carried())
    dense = _model(_DENSE, {"dense": _weights(0)["dense"]}, None)
    (folder / "dense.onnx").write_bytes(dense)
    knobs = [
        Knob("price", "float32", [1], minimum=0.0, maximum=9.0, default=0.0),
        Knob("token_price", "float32", [1], minimum=-1.0, maximum=9.0, default=-1.0),
        Knob("capacity", "int32", [2], minimum=-1, maximum=LEARNERS, default=-1),
    ]
    if stages == 2:
        knobs.append(Knob("exit_thresholds", "float32", [1], minimum=-math.inf, maximum=math.inf, default=math.inf))
    pixels = TensorSpec("pixels", "float32", ["batch", 1, 4, 4], ImagePreprocessing(channels=1, height=4, width=4))
    bundle = Bundle(
        format_version=FORMAT_VERSION,
        name="staged",
        producer="adaptrt tests",
        axes={"batch": Axis(0)},
        inputs=[pixels],
        outputs=[TensorSpec("logits", "float32", ["batch", 3]), TensorSpec("macs_fraction", "float32", ["batch"])],
        stages=files,
        knobs=knobs,
        dense=Dense(macs=1000, parameters=48, quality=0.9, file="dense.onnx", sha256=_sha256(dense)),
        quality_metric="accuracy",
        data={"name": "noise"},
        exit_criterion="max_softmax" if stages == 2 else None,
        tokens={"tokens": TokenSet(valid="valid" if stages == 2 else None)},
        task="classification",
    )
    (folder / "bundle.json").write_bytes(encode_bundle(bundle))
    if calibrated:
        bundle = msgspec.structs.replace(bundle, curve=_curve(folder, several=stages == 2))
        bundle = msgspec.structs.replace(bundle, budget_table=budget_table(bundle))
        (folder / "bundle.json").write_bytes(encode_bundle(bundle))
    return bundle


def write_unsplit(path: Path) -> None:
    """Write both stages as one network in one file, nobody leaving."""
    made = re.findall(r"^ *(\w+(?:, \w+)*) =", _EMBEDDING + _STAGE, re.MULTILINE)
    names = {name for group in made for name in group.split(", ")}

    def renamed(text: str, names: Mapping[str, str]) -> str:
        return re.sub(r"\b(" + "|".join(names) + r")\b", lambda found: names[found[0]], text)

    first = renamed(
        (_EMBEDDING + _STAGE).replace("STAGE", "0"), {name.replace("STAGE", "0"): f"a_{name}" for name in names}
    )
    handed = {
        "hidden": "a_next_hidden",
        "valid": "a_next_valid",
        "index": "a_next_index",
        "macs_before": "a_macs_fraction",
    }
    second = renamed(_STAGE.replace("STAGE", "1"), {**handed, "gate": "second_gate"})
    outputs = "float[batch, 3] logits, float[batch] macs_fraction"
    text = f"(float[batch, 1, 4, 4] pixels, {_KNOBS}) => ({outputs}) {{ {first} {second} }}"
    constants = {**_constants(0), "second_gate": np.array(1, np.int64)}
    path.write_bytes(_model(text, constants, None))


def _curve(folder: Path, *, several: bool) -> list[CurvePoint]:
    model, x = load(folder, threads=1), {"pixels": images(200, seed=9)}
    found = []

    def add(setting: str, knobs: dict[str, KnobValue], *, hard: bool = False) -> None:
        result = model.run(x, knobs=knobs)
        share = float(result.macs_fraction.mean())
        quality = round(0.5 + 0.4 * share, 6)
        found.append(CurvePoint(knobs, share, quality, frontier=not hard, setting=setting, hard=hard))

    for price, threshold in ((9.0, -1.0), (0.6, 0.5), (0.3, 0.6), (0.1, 0.8), (0.0, math.inf)):
        add("price", {"price": price, **({"exit_thresholds": [threshold]} if several else {})})
    for threshold in (-1.0, 0.7, 0.85, 0.95, math.inf) if several else ():
        add("exits", {"price": 0.0, "token_price": 0.0, "exit_thresholds": [threshold]})
    for capacity in ((0, 0), (1, 0), (1, 1), (2, 1), (2, 2)):
        add("hard", {"price": 0.0, "token_price": 0.0, "capacity": [float(n) for n in capacity]}, hard=True)
    return found


def _carried() -> list[Carry]:
    return [
        Carry("hidden", "next_hidden", "float32", ["batch", "tokens", 4]),
        Carry("valid", "next_valid", "bool", ["batch", "tokens"]),
        Carry("index", "next_index", "int32", ["batch", "tokens"]),
        Carry("macs_before", "macs_fraction", "float32", ["batch"]),
    ]


def _weights(number: int) -> dict[str, Array]:
    drawn = np.random.RandomState(number)
    sizes = {"v": (WIDTH,), "head": (WIDTH, CLASSES), "dense": (16, CLASSES)}
    return {name: drawn.standard_normal(shape).astype(np.float32) for name, shape in sizes.items()}


def _constants(number: int) -> dict[str, Array]:
    numbers = {"zero": 0.0, "quarter": 0.25, "base": 0.1, "run_share": 0.02, "token_share": 0.05}
    longs = {"zero_long": 0, "step_long": 1, "thousand_long": 1000, "gate": number}
    lists = {"one_axis": [1], "two_axis": [2], "flat_shape": [-1], "feature_shape": [1, 1, WIDTH], "one_long": [1]}
    return {
        **_weights(0),
        **{name: np.array(value, np.float32) for name, value in numbers.items()},
        **{name: np.array(value, np.int64) for name, value in longs.items()},
        **{name: np.array(value, np.int64) for name, value in lists.items()},
        "patch_shape": np.array([0, WIDTH, TOKENS - 1], np.int64),
        "one_by_one": np.array([1, 1], np.int64),
        "places": np.arange(TOKENS, dtype=np.float32),
        "zero_int": np.array(0, np.int32),
    }


def _model(text: str, constants: Mapping[str, Array], place: str | None) -> bytes:
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> stage {text}')
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items() if name in used
    )
    if place is not None:
        onnx.helper.set_model_props(model, {"adaptrt.stage": place})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
