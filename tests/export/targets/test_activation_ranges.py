"""Ranges of activations: what the graphs reduce is what numpy finds in the whole tensors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from adaptrt.export.targets.activation_ranges import ActivationRange, Probe
from adaptrt.ops.record import Array


def passing(shape: list[int | str]) -> onnx.ModelProto:
    """A graph that gives its input, doubled."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def seen(*arrays: Array) -> ActivationRange:
    shape: list[int | str] = [f"d{axis}" for axis in range(arrays[0].ndim - 1)]
    probe = Probe(passing([*shape, arrays[0].shape[-1]]), {"y": arrays[0].shape[-1]})
    for array in arrays:
        (doubled,) = probe.run(["y"], {"x": array})
        np.testing.assert_array_equal(doubled, 2 * array)
    assert [node.name for node in probe.get_outputs()] == ["y"]
    return probe.ranges["y"]


@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 6)])
def test_two_runs_are_one(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    one, two = (generator.standard_normal(shape).astype(np.float32) + offset for offset in (0, 0.5))
    found = seen(one, two)
    rows = 2 * np.concatenate([one.reshape(-1, 6), two.reshape(-1, 6)])
    assert found.rows == len(rows)
    np.testing.assert_allclose([found.low, found.high], [rows.min(), rows.max()], rtol=1e-6)
    np.testing.assert_allclose(found.square, (rows**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(found.largest_square, (np.abs(rows).max(1) ** 2).mean(), rtol=1e-5)
    assert found.channels is not None
    channels = np.minimum(rows.min(0), 0), np.maximum(rows.max(0), 0), (rows**2).mean(0)
    np.testing.assert_allclose(found.channels, channels, rtol=1e-5)


def test_zero_is_in_every_range_and_nothing_has_none() -> None:
    positive = np.full((3, 2), 2.0, np.float32)
    assert (seen(positive).low, seen(positive).high) == (0.0, 4.0)
    nothing = seen(np.zeros((0, 4), np.float32))
    assert (nothing.rows, nothing.low, nothing.high, nothing.square) == (0, 0.0, 0.0, 0.0)


def test_noise_is_what_bytes_lose() -> None:
    generator = np.random.default_rng(0)
    x = generator.uniform(-1, 3, (400, 50)).astype(np.float32)
    found = ActivationRange(-1.0, 3.0, float((x**2).mean()), float((np.abs(x).max(1) ** 2).mean()), 400)
    step = np.float32(4 / 255)
    lost = ((np.rint(x / step) * step - x) ** 2).mean() / (x**2).mean()
    assert 0.9 * found.noise < lost < 1.1 * found.noise
    scale = np.abs(x).max(1, keepdims=True) / 127
    lost = ((np.rint(x / scale) * scale - x) ** 2).mean() / (x**2).mean()
    assert 0.9 * found.token_noise < lost < 1.1 * found.token_noise
