"""Outlier channels evened out: fixed scales lose little then, and in float32 nothing changes at all."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from adaptrt.export.targets.activation_ranges import Probe
from adaptrt.export.targets.int8 import byte_products, byte_tensors, to_int8
from adaptrt.export.targets.int8_scales import MOST_NOISE, fixed_scales
from adaptrt.export.targets.outlier_channels import evened, folded_into_norms
from adaptrt.ops import OpRecord
from adaptrt.ops.int8 import REDUCED, byte_scale
from adaptrt.ops.record import Array
from tests.export.targets.test_int8 import LEARNER_OPS, with_constant_weights
from tests.ops.implementations import run_in_onnxruntime

WIDTH, OUTLIERS = 64, (5, 40)
NORMS = ("layer", "rms")


def network(norm: str, *, residual: bool = False) -> onnx.ModelProto:
    """``y = norm(x) W + b`` of ``[tokens, 64]``, two of its channels made large; ``residual`` adds norm(x)."""
    generator = np.random.default_rng(0)
    scale = generator.uniform(0.5, 1.5, WIDTH).astype(np.float32)
    scale[[*OUTLIERS]] *= 60
    weight = generator.standard_normal((WIDTH, WIDTH)).astype(np.float32)
    weight[[*OUTLIERS]] /= 10  # what such channels say is said by few tokens
    constants = {"scale": scale, "moved": generator.standard_normal(WIDTH).astype(np.float32), "w": weight}
    constants |= {"b": generator.standard_normal(WIDTH).astype(np.float32), "axis": np.array([1])}
    node = helper.make_node
    if norm == "layer":
        nodes = [node("LayerNormalization", ["x", "scale", "moved"], ["n"], axis=-1)]
    else:
        nodes = [
            node("Mul", ["x", "x"], ["square"]),
            node("ReduceMean", ["square", "axis"], ["mean"]),
            node("Sqrt", ["mean"], ["root"]),
            node("Div", ["x", "root"], ["even"]),
            node("Mul", ["even", "scale"], ["n"]),
        ]
    nodes.append(node("Gemm", ["n", "w", "b"], ["product"]))
    nodes.append(node("Add", ["product", "n"], ["y"]) if residual else node("Identity", ["product"], ["y"]))
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["tokens", WIDTH]) for name in ("x", "y")]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def tokens(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((300, WIDTH)).astype(np.float32)


def run(model: onnx.ModelProto, x: Array) -> Array:
    result: Array = run_in_onnxruntime(model, {"x": x})[0]
    return result


def measured(model: onnx.ModelProto) -> Probe:
    probe = Probe(model, byte_tensors(model))
    probe.run(["y"], {"x": tokens(1)})
    return probe


def error(model: onnx.ModelProto, small: onnx.ModelProto, x: Array) -> float:
    """Mean square error of a graph's answers, relative to them."""
    exact = run(model, x)
    return float(((run(small, x) - exact) ** 2).mean() / (exact**2).mean())


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_planted_outliers_have_a_fixed_scale_and_lose_little(norm: str, residual: bool) -> None:
    model = network(norm, residual=residual)
    seen = measured(model).ranges["n"]
    by = fixed_scales({"n": seen}, byte_products(model), REDUCED)
    assert set(by.scales) == set(by.factors) == {"n"}
    factors = by.factors["n"]
    assert (factors[[*OUTLIERS]] >= 8).all() and (np.delete(factors, OUTLIERS) <= 2).all()
    assert (np.log2(factors) % 1 == 0).all() and factors.min() == 1
    x = tokens(2)
    plain = to_int8(model, REDUCED, fixed={"n": byte_scale(seen.low, seen.high)})
    even = to_int8(model, REDUCED, fixed=by.scales, factors=by.factors)
    by_token = to_int8(model, REDUCED)
    errors = {name: error(model, each, x) for name, each in (("plain", plain), ("even", even), ("token", by_token))}
    assert errors["even"] < errors["plain"] / 10 and errors["even"] < errors["token"], errors
    operators = [node.op_type for node in even.graph.node]
    if residual:  # what is added is not divided
        assert operators.count("Mul") == [node.op_type for node in model.graph.node].count("Mul") + 1
    else:  # the norm gives divided channels itself
        assert operators == [node.op_type for node in plain.graph.node]
        assert not {"scale", "moved"} & {weight.name for weight in even.graph.initializer}


@pytest.mark.parametrize("norm", NORMS)
def test_in_float32_nothing_changes(norm: str) -> None:
    """Divided by powers of two in the norm, multiplied with them in the weights: the same numbers are added up."""
    model = network(norm)
    factors = fixed_scales(measured(model).ranges, byte_products(model), REDUCED).factors["n"]
    constants = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    constants |= {"shares": 1 / factors, "w": constants["w"] * factors[:, None]}
    nodes = list(model.graph.node)
    place = next(number for number, node in enumerate(nodes) if node.op_type == "Gemm")
    nodes.insert(place, helper.make_node("Mul", ["n", "shares"], ["divided"]))
    nodes[place + 1].input[0] = "divided"
    for fold in (False, True):
        kept, made = folded_into_norms(nodes, {"shares": constants["shares"]} if fold else {}, ["y"], constants.get)
        assert len(kept) == len(nodes) - fold and bool(made) == fold
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        del changed.graph.node[:], changed.graph.initializer[:]
        changed.graph.node.extend(kept)
        changed.graph.initializer.extend(
            numpy_helper.from_array(array, name) for name, array in (constants | made).items()
        )
        x = tokens(3)
        np.testing.assert_allclose(run(changed, x), run(network(norm), x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("residual", [False, True])
def test_folded_or_not_the_bytes_are_the_same(residual: bool) -> None:
    model = network("layer", residual=residual)
    by = fixed_scales(measured(model).ranges, byte_products(model), REDUCED)
    even = to_int8(model, REDUCED, fixed=by.scales, factors=by.factors)
    even.graph.output.append(helper.make_tensor_value_info("n_bytes", onnx.TensorProto.UINT8, None))
    got = run_in_onnxruntime(even, {"x": tokens(4)})[1]
    normed = onnx.ModelProto()
    normed.CopyFrom(model)
    normed.graph.output.append(helper.make_tensor_value_info("n", onnx.TensorProto.FLOAT, None))
    divided = run_in_onnxruntime(normed, {"x": tokens(4)})[1] / by.factors["n"]
    scale = by.scales["n"]
    np.testing.assert_array_equal(got, np.clip(np.rint(divided / scale.scale) + scale.zero, 0, 255))


@pytest.mark.parametrize("record", LEARNER_OPS, ids=lambda record: record.name)
def test_learners_read_divided_channels(record: OpRecord) -> None:
    """Their tokens are picked as bytes; weights of all of them are multiplied with the factors."""
    generator = np.random.default_rng(0)
    case = next(each for each in record.cases if each.name == "random")
    inputs = record.make_inputs(case, generator, "float32")
    inputs["x"][:, 1] *= 100
    inputs["w1"][:, 1] /= 100
    if "v1" in inputs:
        inputs["v1"][:, 1] /= 100
    model = with_constant_weights(record, inputs)
    tensors = byte_tensors(model, least_width=1)
    probe = Probe(model, tensors)
    probe.run([model.graph.output[0].name], {name: inputs[name] for name in ("x", "k")})
    seen, weights = probe.ranges["x"], byte_products(model, least_width=1)["x"]
    even = evened(seen, weights, REDUCED)
    assert even is not None and even.factors[1] >= 16
    exact = record.reference(**inputs)
    differences = []
    for scale, factors in ((byte_scale(seen.low, seen.high), {}), (even.scale, {"x": even.factors})):
        small = to_int8(model, REDUCED, least_width=1, fixed={"x": scale}, factors=factors)
        (got,) = run_in_onnxruntime(small, {name: inputs[name] for name in ("x", "k")})
        differences.append(float(np.abs(got - exact).mean()))
    assert differences[1] < differences[0] / 2, differences


def test_what_no_factor_helps_keeps_its_scales_by_token() -> None:
    """Few tokens far larger than the others, each in another channel: no channel is the one to divide."""
    generator = np.random.default_rng(0)
    weight = numpy_helper.from_array(generator.standard_normal((WIDTH, WIDTH)).astype(np.float32), "w")
    nodes = [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("MatMul", ["n", "w"], ["y"])]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["tokens", WIDTH]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    probe = Probe(model, byte_tensors(model))
    x = np.concatenate([np.tile(tokens(5), (40, 1)), 1000 * np.eye(WIDTH, dtype=np.float32)])
    probe.run(["y"], {"x": x})
    seen, weights = probe.ranges["n"], byte_products(model)
    even = evened(seen, weights["n"], REDUCED)
    assert even is not None and even.factors.max() <= 2 and even.noise > MOST_NOISE
    assert not fixed_scales({"n": seen}, weights, REDUCED).scales
    assert evened(seen, [], REDUCED) is None  # nothing reads it
    nothing = Probe(model, byte_tensors(model)).ranges["n"]
    assert evened(nothing, weights["n"], REDUCED) is None
    assert not fixed_scales({"n": nothing}, weights, REDUCED).scales
