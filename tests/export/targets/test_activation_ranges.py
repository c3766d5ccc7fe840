"""Ranges of activations: what the graphs reduce is what numpy finds in the whole tensors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from adaptrt.export.targets.activation_ranges import ActivationRange, Probe
from adaptrt.export.targets.int8_scales import e4m3_scales, even_scales
from adaptrt.ops.fp8 import e4m3_scale, round_e4m3
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


def test_noise_of_fp8_is_what_its_bytes_lose() -> None:
    generator = np.random.default_rng(0)
    # In powers of e. Of the largest numbers, which count most, mantissas go from 1 to 1.75 only: hence a fifth more.
    for spread, near in ((3.0, (0.8, 1.3)), (30.0, (0.8, 1.3))):
        x = (np.exp(generator.uniform(-spread, 0, (400, 50))) * generator.choice([-1, 1], (400, 50))).astype(np.float32)
        found = ActivationRange(float(x.min()), float(x.max()), float((x**2).mean()), 0.0, 400)
        scale = e4m3_scale(found.reach)
        lost = float(((round_e4m3(x / scale) * scale - x) ** 2).mean() / (x**2).mean())
        assert near[0] * found.e4m3_noise < lost < near[1] * found.e4m3_noise


def test_fp8_takes_outliers_that_int8_does_not_and_not_the_worst() -> None:
    generator = np.random.default_rng(0)
    for outlier, takes in ((10.0, (True, True)), (1e3, (False, True)), (1e7, (False, False))):
        x = generator.standard_normal((400, 50)).astype(np.float32)
        square = float((x**2).mean())  # of what matters: the outlier is in one row that is not looked at
        found = ActivationRange(-outlier, outlier, square, 0.0, 400)
        assert (bool(even_scales({"x": found})), bool(e4m3_scales({"x": found}))) == takes
    assert not e4m3_scales({"x": ActivationRange(0.0, 0.0, 0.0, 0.0, 0)})
