"""A bundle so small that what the runtime adds to a call shows: a linear classifier of 4 numbers into 3 classes.

Beside it are four more linear learners, of which a sample runs the first k: those whose gain is above the
price. The runtime's tests run the same bundle, as a file of theirs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from adaptrt.runtime.bundle.bundle_file import (
    FORMAT_VERSION,
    Axis,
    Bundle,
    CurvePoint,
    Dense,
    Knob,
    Stage,
    TensorSpec,
    encode_bundle,
)
from adaptrt.runtime.control.budget_rows import budget_table

LEARNERS = 4
BASE_SHARE, LEARNER_SHARE = 0.2, 0.21
PRICES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

Array = np.ndarray[Any, Any]

_BODY = """
<opset_import: ["": 20], domain: "adaptrt">
TinyLearners (x, k, w) => (y)
{
    all = MatMul (x, w)
    split = Constant <value_ints: ints = [0, 4, 3]> ()
    each = Reshape (all, split)
    number = Constant <value_floats: floats = [0.0, 1.0, 2.0, 3.0]> ()
    runs = Less (number, k)
    one = Cast <to: int = 1> (runs)
    last = Constant <value_ints: ints = [2]> ()
    mask = Unsqueeze (one, last)
    kept = Mul (each, mask)
    axis = Constant <value_ints: ints = [1]> ()
    y = ReduceSum <keepdims: int = 0> (kept, axis)
}
"""


def weights() -> dict[str, Array]:
    """The weights, in 64ths, so that they are exact in any precision."""
    numbers = np.random.RandomState(7)

    def draw(*shape: int) -> Array:
        return (np.round(numbers.standard_normal(shape) * 64) / 64).astype(np.float32)

    return {
        "w0": draw(4, 3),
        "b0": draw(3),
        "gate": draw(4, 1),
        "scale": np.array([1.0, 0.75, 0.5, 0.25], np.float32),
        "learners": draw(4, LEARNERS * 3) / 4,
    }


def reference(x: Array, price: float) -> tuple[Array, Array]:
    """The logits [B, 3] and share of the dense work [B] of inputs [B, 4], in float64."""
    w = {name: value.astype(np.float64) for name, value in weights().items()}
    x = x.astype(np.float64)
    gains = w["scale"] / (1 + np.exp(-(x @ w["gate"])))
    k = (gains > np.float32(price)).sum(axis=1)
    each = (x @ w["learners"]).reshape(len(x), LEARNERS, 3)
    logits = x @ w["w0"] + w["b0"] + (each * (np.arange(LEARNERS) < k[:, None])[:, :, None]).sum(axis=1)
    return logits, BASE_SHARE + LEARNER_SHARE * k


def make_model() -> bytes:
    """The ONNX file."""
    constants = {
        **weights(),
        "axis": np.array([1], np.int64),
        "base_share": np.array(BASE_SHARE, np.float32),
        "learner_share": np.array(LEARNER_SHARE, np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["base"]),
        helper.make_node("MatMul", ["x", "gate"], ["score"]),
        helper.make_node("Sigmoid", ["score"], ["gain"]),
        helper.make_node("Mul", ["gain", "scale"], ["gains"]),
        helper.make_node("Greater", ["gains", "price"], ["wanted"]),
        helper.make_node("Cast", ["wanted"], ["wanted_1"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["wanted_1", "axis"], ["k"], keepdims=1),
        helper.make_node("TinyLearners", ["x", "k", "learners"], ["more"], domain="adaptrt"),
        helper.make_node("Add", ["base", "more"], ["logits"]),
        helper.make_node("Squeeze", ["k", "axis"], ["count"]),
        helper.make_node("Mul", ["count", "learner_share"], ["learner_work"]),
        helper.make_node("Add", ["learner_work", "base_share"], ["macs_fraction"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("price", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("macs_fraction", TensorProto.FLOAT, ["batch"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph,
        functions=[parser.parse_function(_BODY)],
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("adaptrt", 1)],
        ir_version=10,
        producer_name="adaptrt tests",
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def make_curve() -> list[CurvePoint]:
    """Measured with the reference on two sets of inputs; quality is agreement with everything running."""
    splits = [np.round(np.random.RandomState(seed).standard_normal((500, 4)), 3) for seed in (1, 2)]

    def measure(x: Array, price: float) -> tuple[float, float]:
        logits, share = reference(x, price)
        agree = logits.argmax(axis=1) == reference(x, 0.0)[0].argmax(axis=1)
        return round(float(share.mean()), 6), round(float(agree.mean()), 6)

    measured = [(price, measure(splits[0], price), measure(splits[1], price)) for price in PRICES]
    return [
        CurvePoint(
            knobs={"price": price},
            macs_fraction=share,
            quality=quality,
            frontier=not any(s <= share and q >= quality and (s, q) != (share, quality) for _, _, (s, q) in measured),
            calibration_quality=calibration_quality,
            calibration_macs_fraction=calibration_share,
        )
        for price, (calibration_share, calibration_quality), (share, quality) in measured
    ]


def make(folder: Path) -> None:
    """Write the bundle into a folder, which is made where there is none; the same bytes every time."""
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model()
    bundle = Bundle(
        format_version=FORMAT_VERSION,
        name="tiny",
        producer="adaptrt tests",
        inputs=[TensorSpec("x", "float32", ["batch", 4])],
        outputs=[
            TensorSpec("logits", "float32", ["batch", 3]),
            TensorSpec("macs_fraction", "float32", ["batch"]),
        ],
        stages=[Stage("model.onnx", hashlib.sha256(model).hexdigest())],
        knobs=[Knob("price", "float32", [1], minimum=0.0, maximum=1.0, default=0.0)],
        dense=Dense(macs=60, parameters=63, quality=1.0),
        curve=make_curve(),
        quality_metric="agreement",
        data={"name": "normal", "calibration": 500, "test": 500},
        ops={"TinyLearners": LEARNERS},
        axes={"batch": Axis(0)},
    )
    bundle = msgspec.structs.replace(bundle, budget_table=budget_table(bundle))
    (folder / "model.onnx").write_bytes(model)
    (folder / "bundle.json").write_bytes(encode_bundle(bundle))
