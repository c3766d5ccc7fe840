"""Means over all places of a convolution's map become pooling with the same values; others stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from adaptrt.export.graph.spatial_means import pool_spatial_means
from tests.ops.implementations import run_in_onnxruntime


def classifier(axes: tuple[int, ...] = (2, 3), keepdims: int = 0, between: str = "Relu") -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((8, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node(between, ["convolved"], ["map"]),
        helper.make_node("ReduceMean", ["map", "axes"], ["mean"], keepdims=keepdims),
        helper.make_node("Neg", ["mean"], ["y"]),
    ]
    rank = 4 if keepdims else 4 - len(axes)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3, "h", "w"])],
        [
            helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [f"y{axis}" for axis in range(rank)]),
            helper.make_tensor_value_info("map", onnx.TensorProto.FLOAT, ["batch", 8, "h", "w"]),
        ],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array(axes, np.int64), "axes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [(2, 3), (-1, -2)])
def test_the_same_values(axes: tuple[int, ...], keepdims: int) -> None:
    model = classifier(axes, keepdims)
    x = np.random.default_rng(1).standard_normal((5, 3, 6, 7)).astype(np.float32)
    wanted = run_in_onnxruntime(model, {"x": x})
    assert pool_spatial_means(model) == 1
    pooling = ["GlobalAveragePool"] if keepdims else ["GlobalAveragePool", "Flatten"]
    assert [node.op_type for node in model.graph.node] == ["Conv", "Relu", *pooling, "Neg"]
    assert {weight.name for weight in model.graph.initializer} == {"w"}
    onnx.checker.check_model(model, full_check=True)
    for got, expected in zip(run_in_onnxruntime(model, {"x": x}), wanted, strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [classifier((3,)), classifier((1, 2)), classifier((1, 2, 3)), classifier(between="Erf")],
    ids=["columns", "channels", "everything", "not-in-blocks"],
)
def test_others_stay(model: onnx.ModelProto) -> None:
    before = model.SerializeToString(deterministic=True)
    assert pool_spatial_means(model) == 0
    assert model.SerializeToString(deterministic=True) == before
