"""int8 graphs: learners and dense layers against the int8 reference, independent of the batch, small on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, inliner, numpy_helper

from adaptrt.export.errors import ExportError
from adaptrt.export.targets import activation_ranges, int8_scales
from adaptrt.export.targets.build import build_target
from adaptrt.export.targets.inline import inlined
from adaptrt.export.targets.int8 import byte_tensors, to_int8
from adaptrt.export.targets.source import read_stages
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.export.targets.tensor_types import per_sample_tensors
from adaptrt.ops import RECORDS, OpRecord
from adaptrt.ops.int8 import FULL, REDUCED, byte_scale, fixed_product, int8_product
from adaptrt.ops.record import Array
from adaptrt.runtime import AdaptiveModel, Budget, load
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.errors import BackendError, BundleError
from tests.batch_mates import MOST, Inputs, dependence, random_inputs
from tests.export.targets.conftest import MAKERS
from tests.ops.implementations import graph_of, run_in_onnxruntime

Bundles = Callable[[str], Path]
LEARNER_OPS = [record for record in RECORDS.values() if any(field.name == "w2" for field in record.inputs)]


def with_constant_weights(record: OpRecord, inputs: dict[str, Array]) -> onnx.ModelProto:
    """One op inlined, its weights initializers, no shape known but those of the weights."""
    model = inliner.inline_local_functions(graph_of(record, inputs))
    weights = [name for name in inputs if name not in ("x", "k")]
    kept = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(inputs[name], name) for name in weights)
    return model


@pytest.mark.parametrize("case", ["random", "no_token", "one_token", "nothing_runs", "all_run", "many_learners"])
@pytest.mark.parametrize("record", LEARNER_OPS, ids=lambda record: record.name)
def test_learners_compute_what_the_reference_says(record: OpRecord, case: str) -> None:
    generator = np.random.default_rng(0)
    inputs = record.make_inputs(next(each for each in record.cases if each.name == case), generator, "float32")
    graph = to_int8(with_constant_weights(record, inputs), REDUCED, least_width=1)
    operators = [node.op_type for node in graph.graph.node]
    assert "MatMulIntegerToFloat" in operators and not {"Gemm", "MatMul"} & set(operators)
    assert operators.count("QuantizeLinear") <= 1 + len(inputs["w2"])  # the input once, each hidden layer once
    (got,) = run_in_onnxruntime(graph, {name: inputs[name] for name in ("x", "k")})
    wanted = record.reference(**inputs, product=lambda rows, weight: int8_product(rows, weight, REDUCED))
    # A hidden number on the edge between two bytes may become either; the sums are of about one.
    np.testing.assert_allclose(got, wanted, rtol=0, atol=0.03)
    np.testing.assert_allclose(got, record.reference(**inputs), rtol=0, atol=0.4)


@pytest.mark.parametrize("case", ["random", "no_token", "one_token", "nothing_runs", "all_run", "many_learners"])
@pytest.mark.parametrize("record", LEARNER_OPS, ids=lambda record: record.name)
def test_learners_with_fixed_scales(record: OpRecord, case: str) -> None:
    generator = np.random.default_rng(0)
    inputs = record.make_inputs(next(each for each in record.cases if each.name == case), generator, "float32")
    model, scale = with_constant_weights(record, inputs), byte_scale(-5.0, 6.0)
    fixed = dict.fromkeys(byte_tensors(model, least_width=1), scale)
    graph = to_int8(model, REDUCED, least_width=1, fixed=fixed)
    operators = [node.op_type for node in graph.graph.node]
    assert operators.count("QuantizeLinear") == len(fixed)
    assert not {"ReduceMax", "ReduceMin", "Neg", "Gemm", "MatMul"} & set(operators)
    constants = {weight.name for weight in graph.graph.initializer}
    added = [node for node in graph.graph.node if node.op_type == "Add" and constants & set(node.input)]
    assert not added, "biases belong to the products"
    (got,) = run_in_onnxruntime(graph, {name: inputs[name] for name in ("x", "k")})
    wanted = record.reference(**inputs, product=lambda rows, weight: fixed_product(rows, weight, scale, REDUCED))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=0.06)  # steps are of 0.04, and one of them may fall otherwise
    others = record.reference(
        **inputs, product=lambda rows, weight: fixed_product(rows, weight, byte_scale(-0.5, 0.5), REDUCED)
    )
    assert not wanted.size or np.allclose(others, wanted, atol=0.06) == (case in ("no_token", "nothing_runs"))


def test_the_comparison_notices_other_weights() -> None:
    record = RECORDS["ConditionalMLP"]
    inputs = record.make_inputs(record.cases[0], np.random.default_rng(0), "float32")
    graph = to_int8(with_constant_weights(record, inputs), REDUCED, least_width=1)
    (got,) = run_in_onnxruntime(graph, {name: inputs[name] for name in ("x", "k")})
    others = {**inputs, "w1": inputs["w1"][::-1].copy()}
    wanted = record.reference(**others, product=lambda rows, weight: int8_product(rows, weight, REDUCED))
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=0.03)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 12))
def test_a_token_alone_and_among_others(seed: int, tokens: int) -> None:
    record, generator = RECORDS["ConditionalMLP"], np.random.default_rng(seed)
    inputs = record.make_inputs(record.cases[0], np.random.default_rng(0), "float32")
    graph = to_int8(with_constant_weights(record, inputs), REDUCED, least_width=1)
    # Of very different sizes: one scale for all of them would leave nothing of the small ones.
    x = generator.standard_normal((tokens, 24)) * 10.0 ** generator.integers(-4, 5, (tokens, 1))
    k = generator.integers(0, 5, tokens)
    feeds = {"x": x.astype(np.float32), "k": k.astype(np.int32)}
    (together,) = run_in_onnxruntime(graph, feeds)
    for row in range(tokens):
        (alone,) = run_in_onnxruntime(graph, {name: array[row : row + 1] for name, array in feeds.items()})
        scale = np.abs(alone).max() + 1
        assert np.abs(alone[0] - together[row]).max() <= 1e-6 * scale
    wanted = record.reference(**{**inputs, **feeds}, product=lambda rows, weight: int8_product(rows, weight, REDUCED))
    largest = np.abs(wanted).max(1, keepdims=True) + 1
    assert (np.abs(together - wanted) / largest).max() <= 0.03


def linear(shape: list[int | str], rows: str = "", turned: bool = True) -> onnx.ModelProto:
    """A product with 40 x 48 weights, a bias and its input ``[..., 40]``."""
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((48, 40) if turned else (40, 48)).astype(np.float32)
    bias = generator.standard_normal(48).astype(np.float32)
    if turned:
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
    else:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [*shape[:-1], 48])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    del rows
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(("shape", "turned"), [((7, 40), True), ((2, 3, 40), False)])
def test_dense_layers(shape: tuple[int, ...], turned: bool) -> None:
    model = linear([*[f"d{axis}" for axis in range(len(shape) - 1)], 40], turned=turned)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    x[0] *= 1000
    (got,) = run_in_onnxruntime(to_int8(model, FULL if not saturates() else REDUCED), {"x": x})
    (exact,) = run_in_onnxruntime(model, {"x": x})
    assert 0 < np.abs((got - exact) / np.abs(exact).max(-1, keepdims=True)).max() < 0.03


def saturates() -> bool:
    import onnxruntime

    from adaptrt.runtime.backends.int8_products import products_saturate

    return products_saturate(onnxruntime)


def test_what_is_refused_or_left() -> None:
    model = linear(["tokens", 40])
    with pytest.raises(ExportError, match="no product of at least 64 inputs and outputs"):
        to_int8(model, FULL, least_width=64)
    with pytest.raises(ExportError, match="no product"):  # what a head reads stays
        to_int8(model, FULL, per_sample={"x"})
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[0, 0] = np.inf
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    with pytest.raises(ExportError, match="weights w with NaN or infinite numbers"):
        to_int8(model, FULL)


def test_heads_are_found_by_their_rows(written: Bundles) -> None:
    folder = written("combined")
    for stage in read_stages(folder, read_bundle(folder)):
        heads = per_sample_tensors(stage)
        readers = {node.input[1] for node in stage.graph.node if node.op_type == "Gemm" and node.input[0] in heads}
        assert any("classifier" in name for name in readers)
        assert not any("blocks" in name and "selector" not in name for name in readers)


@pytest.mark.usefixtures("small_products")
@pytest.mark.parametrize("activations", ["static", "token"])
@pytest.mark.parametrize("name", [name for name in MAKERS if name != "resnet"])
def test_a_bundle_in_int8(copied: Bundles, name: str, activations: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_ranges, "FEWEST_ROWS", 8)
    folder = copied(name)
    chosen = BuildSettings("onnxruntime", "int8", max_quality_drop=0.25, activations=activations)
    report = build_target(folder, chosen)
    assert report.engines.weight_bits == 7 and report.quality is not None
    assert report.engines.activations == activations
    assert report.quality.largest_difference > 0
    assert build_target(folder, chosen).reused
    model = load(folder, precision="int8", threads=1)
    assert (model.precision, model.backend_name) == ("int8", "onnxruntime")
    exact = load(folder, threads=1)
    assert exact.precision == "fp32"
    inputs = random_inputs(read_bundle(folder).inputs, 5)
    for each in (exact, model):  # int8 depends on the rest of the batch no more than float32 does: neither does
        assert dependence(partial(_logits, each), inputs) <= MOST, each.precision
    assert np.abs(_logits(model, inputs) - _logits(exact, inputs)).max() > 0


def _logits(model: AdaptiveModel, inputs: Inputs) -> Array:
    return np.asarray(model.run(inputs, budget=Budget.full()).outputs["logits"])


@pytest.mark.usefixtures("small_products")
def test_engines_of_another_export_or_range_are_refused(copied: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_ranges, "FEWEST_ROWS", 8)
    folder = copied("fixed")
    with pytest.raises(BundleError, match="--target onnxruntime --precision int8"):
        load(folder, precision="int8")
    with pytest.raises(BackendError, match="providers"):
        load(folder, precision="int8", providers=["CPUExecutionProvider"])
    settings = BuildSettings("onnxruntime", "int8", max_quality_drop=1.0, weight_bits=8)
    build_target(folder, settings)
    monkeypatch.setattr("adaptrt.runtime.backends.onnxruntime.products_saturate", lambda _: False)
    assert load(folder, precision="int8").precision == "int8"
    monkeypatch.setattr("adaptrt.runtime.backends.onnxruntime.products_saturate", lambda _: True)
    with pytest.raises(BackendError, match=r"weights of 8 bits, expected 7 on this CPU.*--weight-bits 7"):
        load(folder, precision="int8")
    narrow = build_target(folder, dataclasses.replace(settings, weight_bits=7))
    assert any("weight bits was 8, is 7" in note for note in narrow.notes)
    assert load(folder, precision="int8").precision == "int8"
    with pytest.raises(ExportError, match="weights of 6 bits, expected 7 or 8"):
        build_target(folder, dataclasses.replace(settings, weight_bits=6))
    with pytest.raises(ExportError, match="activations 'rows', expected auto, static or token"):
        build_target(folder, dataclasses.replace(settings, activations="rows"))


@pytest.mark.usefixtures("small_products")
def test_auto_takes_what_was_built_in_int8(copied: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_ranges, "FEWEST_ROWS", 8)
    folder = copied("fixed")
    assert load(folder, backend="auto").precision == "fp32"
    build_target(folder, BuildSettings("onnxruntime", "int8", max_quality_drop=1.0))
    model = load(folder, backend="auto")
    assert (model.backend_name, model.precision) == ("onnxruntime", "int8")
    assert model.backend_reason.startswith("the bundle has graphs in int8")
    assert load(folder, backend="auto", precision="fp32").precision == "fp32"
    assert load(folder).precision == "fp32"
    (folder / "engines/onnxruntime-int8/stage0.onnx").write_bytes(b"")
    passed = load(folder, backend="auto")
    assert passed.precision == "fp32" and "onnxruntime in int8: " in passed.backend_reason


@pytest.mark.usefixtures("small_products")
def test_fixed_scales_are_chosen_while_they_keep_the_quality(copied: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied("combined")
    settings = BuildSettings("onnxruntime", "int8", max_quality_drop=1.0)
    with pytest.raises(ExportError, match=r"rows of activations from the golden inputs .* use --activations token"):
        monkeypatch.setattr(activation_ranges, "FEWEST_ROWS", 10**9)
        build_target(folder, settings)
    assert not (folder / "engines").exists()
    monkeypatch.setattr(activation_ranges, "FEWEST_ROWS", 8)
    report = build_target(folder, settings)
    assert report.engines.activations == "static" and any("have a fixed scale" in note for note in report.notes)
    monkeypatch.setattr(int8_scales, "_LESS_QUALITY", -1.0)
    report = build_target(folder, settings)
    assert report.engines.activations == "token"
    assert any("scales of activations was static, is token" in note for note in report.notes)
    monkeypatch.setattr(int8_scales, "MOST_NOISE", 0.0)
    report = build_target(folder, settings)
    assert any("none could have a fixed one" in note for note in report.notes) and report.reused


def test_a_network_of_convolutions_is_refused(copied: Bundles) -> None:
    folder = copied("resnet")
    with pytest.raises(ExportError, match="no product"):
        build_target(folder, BuildSettings("onnxruntime", "int8"))
    assert not (folder / "engines").exists()


def test_files_are_a_quarter() -> None:
    generator = np.random.default_rng(0)
    table = numpy_helper.from_array(generator.standard_normal((3000, 64)).astype(np.float32), "table")
    weight = numpy_helper.from_array(generator.standard_normal((64, 64)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["x"]), helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 64])],
        [table, weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    small = to_int8(model, REDUCED)
    assert small.ByteSize() < 0.3 * model.ByteSize()
    ids = np.array([0, 17, 2999])
    (got,), (exact,) = run_in_onnxruntime(small, {"ids": ids}), run_in_onnxruntime(model, {"ids": ids})
    assert np.abs(got - exact).max() < 0.03 * np.abs(exact).max()


def test_inlining_comes_first(written: Bundles) -> None:
    folder = written("combined")
    stage = read_stages(folder, read_bundle(folder))[0]
    assert any(node.domain for node in stage.graph.node)
    assert not any(node.domain == "adaptrt" for node in to_int8(inlined(stage), FULL, least_width=6).graph.node)
