"""Small bundles with exits whose outputs are no scores of classes, written by hand.

``maps`` gives a map of its image, float32 [batch, 2, height, width], and a whole number for each sample; its second
stage takes the image once more. ``tags`` gives scores for each token; ``pooled`` has three stages, of which the later
ones take the mask of the tokens from the bundle's inputs and are handed the tokens cut behind the last real one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from adaptrt.runtime.bundle.bundle_file import (
    FORMAT_VERSION,
    Axis,
    Bundle,
    Carry,
    CurvePoint,
    Dense,
    Knob,
    Stage,
    TensorSpec,
    TokenSet,
    encode_bundle,
)
from adaptrt.runtime.control.budget_rows import budget_table
from tests.runtime.make_staged_fixtures import f32, make_model

Array = np.ndarray[Any, Any]
WORDS, LONGEST = 20, 9

_GATED_MAP = """
    weight = Conv <pads: ints = [1, 1, 1, 1]> (hidden, kernel)
    brightness = ReduceMean <keepdims: int = 1> (hidden, map_axes)
    wanted = Greater(brightness, price_each)
    run = Cast <to: int = 1> (wanted)
    more = Mul(weight, run)
    next_hidden = Add(hidden, more)
    summed = ReduceSum <keepdims: int = 0> (next_hidden, map_axes)
    scaled = Mul(summed, hundred)
    floored = Floor(scaled)
    level = Cast <to: int = 7> (floored)
    largest = ReduceMax <keepdims: int = 0> (next_hidden, map_axes)
    half = Add(largest, one)
    confidence = Div(largest, half)
    run_flat = Reshape(run, flat_shape)
    run_work = Mul(run_flat, run_share)
    macs_fraction = Add(macs_before, run_work)
"""
_MAPS = [
    """(float[batch, 2, height, width] image, float[1] price)
    => (float[batch, 2, height, width] map, int64[batch] level, float[batch] macs_fraction, float[batch] confidence,
        float[batch, 2, height, width] next_hidden)
{
    price_each = Reshape(price, single_shape)
    hidden = Mul(image, half_float)
    nothing = Mul(image, zero)
    column = ReduceSum <keepdims: int = 0> (nothing, map_axes)
    macs_before = Add(column, base)
"""
    + _GATED_MAP
    + """
    map = Identity(next_hidden)
}""",
    """(float[batch, 2, height, width] hidden, float[batch, 2, height, width] image_again, float[batch] macs_before,
        float[1] price)
    => (float[batch, 2, height, width] map, int64[batch] level, float[batch] macs_fraction, float[batch] confidence)
{
    price_each = Reshape(price, single_shape)
"""
    + _GATED_MAP
    + """
    map = Add(next_hidden, image_again)
}""",
]

_WORDS = """
    hidden = Gather(table, words)
    valid = Identity(mask)
    real_first = Cast <to: int = 1> (mask)
    nothing = Mul(real_first, zero)
    column = ReduceSum <keepdims: int = 0> (nothing, one_axis)
    macs_before = Add(column, base)
"""
_BLOCK = """
    real = Cast <to: int = 1> (valid)
    real_each = Unsqueeze(real, two_axis)
    moved = MatMul(hidden, mix)
    active = Relu(moved)
    bumped = Add(hidden, active)
    next_hidden = Mul(bumped, real_each)
    pooled = ReduceSum <keepdims: int = 0> (next_hidden, one_axis)
    scores = MatMul(pooled, head)
    top = ReduceMax <keepdims: int = 0> (scores, one_axis)
    positive = Relu(top)
    above = Add(positive, one)
    confidence = Div(positive, above)
    macs_fraction = Add(macs_before, run_share)
"""
_TAGS = """
    tags = MatMul(next_hidden, head)
    word_count_float = ReduceSum <keepdims: int = 0> (real, one_axis)
    word_count = Cast <to: int = 6> (word_count_float)
"""
_TEXT_IN = "int64[batch, length] words, bool[batch, length] mask"
_HANDED_IN = "float[batch, length, 4] hidden, bool[batch, length] valid, float[batch] macs_before"
_STATE_OUT = "float[batch] macs_fraction, float[batch] confidence, float[batch, length, 4] next_hidden"
_TAGS_OUT = "float[batch, length, 3] tags, int32[batch] word_count"


def constants() -> dict[str, Array]:
    """Every weight and number of the graphs; exact in few bits, so that no sum depends on its order."""
    drawn = np.random.RandomState(5)

    def eighths(*shape: int) -> Array:
        return (np.round(drawn.standard_normal(shape) * 4) / 8).astype(np.float32)

    numbers = {"zero": 0.0, "one": 1.0, "hundred": 100.0, "half_float": 0.5, "run_share": 0.25, "base": 0.125}
    lists = {"one_axis": [1], "two_axis": [2], "map_axes": [1, 2, 3], "flat_shape": [-1], "single_shape": [1, 1, 1, 1]}
    return {
        "kernel": eighths(2, 2, 3, 3),
        "table": eighths(WORDS, 4),
        "mix": eighths(4, 4),
        "head": eighths(4, 3),
        **{name: f32(value) for name, value in numbers.items()},
        **{name: np.array(value, np.int64) for name, value in lists.items()},
    }


def _write(folder: Path, texts: list[str], carries: list[list[Carry]], **rest: Any) -> Bundle:
    folder.mkdir(parents=True, exist_ok=True)
    stages = []
    for number, (text, carry) in enumerate(zip(texts, carries, strict=True)):
        model = make_model(text, constants(), f"{number}/{len(texts)}")
        file = f"stage{number}.onnx"
        (folder / file).write_bytes(model)
        stages.append(Stage(file, hashlib.sha256(model).hexdigest(), exit=f"head {number}", carry=carry))
    exits = [len(texts) - 1]
    never = Knob("exit_thresholds", "float32", exits, minimum=-math.inf, maximum=math.inf, default=math.inf)
    bundle = Bundle(
        format_version=FORMAT_VERSION,
        name=folder.name,
        producer="adaptrt tests",
        stages=stages,
        dense=Dense(macs=1000, parameters=100),
        exit_criterion="certainty",
        **{**rest, "knobs": [*rest.get("knobs", []), never]},
    )
    bundle = msgspec.structs.replace(bundle, budget_table=budget_table(bundle))
    (folder / "bundle.json").write_bytes(encode_bundle(bundle))
    return bundle


def write_maps(folder: Path, *, size: int | None = None) -> Bundle:
    """Write ``maps``; of images of one size, or of any from 2 to 8 a side."""
    texts, sides = list(_MAPS), ["height", "width"]
    if size is not None:
        texts = [text.replace("height, width", f"{size}, {size}") for text in texts]
    shape: list[int | str] = ["batch", 2, *(sides if size is None else [size, size])]
    work = Carry("macs_before", "macs_fraction", "float32", ["batch"])
    carried = [Carry("hidden", "next_hidden", "float32", shape), Carry("image_again", "image", "float32", shape), work]
    points = [(9.0, -1.0, 0.125, 0.5), (0.2, 0.25, 0.2, 0.7), (0.1, 0.35, 0.35, 0.8), (0.0, math.inf, 0.6, 0.9)]
    return _write(
        folder,
        texts,
        [[], carried],
        inputs=[TensorSpec("image", "float32", shape)],
        outputs=[
            TensorSpec("map", "float32", shape),
            TensorSpec("level", "int64", ["batch"]),
            TensorSpec("macs_fraction", "float32", ["batch"]),
        ],
        knobs=[Knob("price", "float32", [1], minimum=0.0, maximum=9.0, default=0.0)],
        axes={"batch": Axis(0)} | ({side: Axis(2, 8) for side in sides} if size is None else {}),
        curve=[
            CurvePoint({"price": price, "exit_thresholds": [threshold]}, share, quality, True, setting="exits")
            for price, threshold, share, quality in points
        ],
        quality_metric="similarity",
        task="segmentation",
    )


def _text(stages: int, outputs: str, tail: str) -> list[str]:
    texts = []
    for number in range(stages):
        given = _TEXT_IN if number == 0 else _HANDED_IN
        before = _WORDS if number == 0 else ""
        texts.append(f"({given}) => ({outputs}, {_STATE_OUT}) {{ {before} {_BLOCK} {tail} }}")
    return texts


def _text_rest(outputs: list[TensorSpec]) -> dict[str, Any]:
    return {
        "inputs": [
            TensorSpec("words", "int64", ["batch", "length"], minimum=0, maximum=WORDS - 1),
            TensorSpec("mask", "bool", ["batch", "length"]),
        ],
        "outputs": [*outputs, TensorSpec("macs_fraction", "float32", ["batch"])],
        "axes": {"batch": Axis(0), "length": Axis(1, LONGEST)},
        "tokens": {"words": TokenSet("length", "valid")},
    }


def _text_carry() -> list[Carry]:
    return [
        Carry("hidden", "next_hidden", "float32", ["batch", "length", 4]),
        Carry("valid", "mask", "bool", ["batch", "length"]),
        Carry("macs_before", "macs_fraction", "float32", ["batch"]),
    ]


def write_tags(folder: Path) -> Bundle:
    """Write ``tags``: two stages."""
    outputs = [TensorSpec("tags", "float32", ["batch", "length", 3]), TensorSpec("word_count", "int32", ["batch"])]
    return _write(
        folder, _text(2, _TAGS_OUT, _TAGS), [[], _text_carry()], **_text_rest(outputs), task="token_classification"
    )


def write_pooled(folder: Path) -> Bundle:
    """Write ``pooled``: three stages."""
    texts = _text(3, "float[batch, 3] scores", "")
    outputs = [TensorSpec("scores", "float32", ["batch", 3])]
    return _write(folder, texts, [[], _text_carry(), _text_carry()], **_text_rest(outputs), task="embedding")


def images(count: int, height: int, width: int, seed: int = 0) -> dict[str, Array]:
    """Some bright, some dark, in eighths."""
    generator = np.random.RandomState(seed)
    brightness = generator.random_sample((count, 1, 1, 1))
    return {"image": (np.round(generator.random_sample((count, 2, height, width)) * brightness * 8) / 8).astype("f4")}


def texts(count: int, length: int, seed: int = 0) -> Mapping[str, Array]:
    """Texts of different lengths; the first has the full one."""
    generator = np.random.RandomState(seed)
    lengths = generator.randint(1, length + 1, count)
    lengths[:1] = length
    mask = np.arange(length) < lengths[:, None]
    return {"words": generator.randint(0, WORDS, (count, length)).astype(np.int64), "mask": mask}
