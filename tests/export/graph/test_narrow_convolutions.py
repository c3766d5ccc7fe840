"""Convolutions to few channels become transposed ones with the same values and the same work; others stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from adaptrt.export.graph.narrow_convolutions import transpose_narrow_convolutions
from tests.ops.implementations import run_in_onnxruntime


def convolution(outputs: int, kernel: tuple[int, ...], inputs: int = 16, **attributes: Any) -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((outputs, inputs // attributes.get("group", 1), *kernel)).astype(np.float32)
    bias = generator.standard_normal(outputs).astype(np.float32)
    places = [f"d{axis}" for axis in range(len(kernel))]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", inputs, *places])],
        [
            helper.make_tensor_value_info(
                "y", onnx.TensorProto.FLOAT, ["batch", outputs, *(f"e{axis}" for axis in range(len(kernel)))]
            )
        ],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("outputs", "kernel", "pads"),
    [
        (1, (3, 3), (1, 1, 1, 1)),
        (4, (3, 3), (0, 2, 2, 0)),
        (1, (1, 1), ()),
        (2, (5,), (2, 2)),
        (1, (3, 5), (1, 2, 1, 2)),
    ],
)
def test_the_same_values(outputs: int, kernel: tuple[int, ...], pads: tuple[int, ...]) -> None:
    model = convolution(outputs, kernel, **({"pads": pads} if pads else {}))
    x = np.random.default_rng(1).standard_normal((2, 16, 7, 9)[: 2 + len(kernel)]).astype(np.float32)
    (wanted,) = run_in_onnxruntime(model, {"x": x})
    assert transpose_narrow_convolutions(model) == 1
    assert [node.op_type for node in model.graph.node] == ["ConvTranspose"]
    assert {weight.name for weight in model.graph.initializer} == {"w_turned", "b"}
    onnx.checker.check_model(model)
    (got,) = run_in_onnxruntime(model, {"x": x})
    assert got.shape == wanted.shape == (2, outputs, *x.shape[2:])
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "model",
    [
        convolution(5, (3, 3), pads=(1, 1, 1, 1)),
        convolution(2, (1, 1)),
        convolution(1, (3, 3), inputs=8, pads=(1, 1, 1, 1)),
        convolution(1, (3, 3)),  # the result is smaller
        convolution(1, (3, 3), pads=(1, 1, 1, 1), strides=(2, 2)),
        convolution(1, (3, 3), pads=(2, 2, 2, 2), dilations=(2, 2)),
        convolution(2, (3, 3), inputs=32, pads=(1, 1, 1, 1), group=2),
        convolution(1, (3, 3), auto_pad="SAME_UPPER"),
    ],
    ids=["wide", "one-place", "few-inputs", "smaller", "strided", "dilated", "grouped", "automatic"],
)
def test_others_stay(model: onnx.ModelProto) -> None:
    before = model.SerializeToString(deterministic=True)
    assert transpose_narrow_convolutions(model) == 0
    assert model.SerializeToString(deterministic=True) == before
