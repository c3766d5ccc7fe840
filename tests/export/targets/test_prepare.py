"""The passes: what they leave in a graph, that they compute the same, and what they refuse."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, parser

from adaptrt.export.errors import ExportError
from adaptrt.export.targets.half import to_half
from adaptrt.export.targets.inline import inlined
from adaptrt.export.targets.prepare import LIBRARY_OPS, prepare
from adaptrt.export.targets.quality import compare_quality
from adaptrt.export.targets.rounding import rounded
from adaptrt.export.targets.source import read_stages, refresh_bodies
from adaptrt.export.targets.tensor_types import FLOAT, FLOAT16, element_types, infer_types
from adaptrt.ops import DOMAIN, RECORDS
from adaptrt.plugins_trt.op_table import op_table
from adaptrt.runtime.bundle.bundle_file import read_bundle
from tests.export.targets.conftest import MAKERS

Bundles = Callable[[str], Path]


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [np.asarray(value) for value in session.run(None, feeds)]


@pytest.mark.parametrize("name", MAKERS)
def test_inlined_graphs_are_standard_and_compute_the_same(written: Bundles, name: str) -> None:
    folder = written(name)
    bundle = read_bundle(folder)
    stages = read_stages(folder, bundle)
    knobs = {knob.name for knob in bundle.knobs}
    prepared = prepare(stages, "tensorrt-rtx", "fp32", "none", "", knobs)
    for each in prepared:
        assert not each.model.functions and {node.domain for node in each.model.graph.node} == {""}
        assert {entry.domain for entry in each.model.opset_import} == {""}
        onnx.checker.check_model(each.model, full_check=True)
    report = compare_quality(folder, bundle, stages, [each.model for each in prepared])
    assert len(report.rows) >= (1 if name == "resnet" else 4)
    assert report.largest_difference == 0 and not report.flip_rate


def test_interface_stays_whatever_the_target(written: Bundles) -> None:
    folder = written("combined")
    bundle = read_bundle(folder)
    stages = read_stages(folder, bundle)
    knobs = {knob.name for knob in bundle.knobs}
    for plugins, version in (("none", ""), ("library", ""), ("library", "10.13.3"), ("python", "10.13")):
        for precision in ("fp32", "fp16"):
            prepared = prepare(stages, "tensorrt", precision, plugins, version, knobs)
            for each, stage in zip(prepared, stages, strict=True):
                for mine, his in (
                    (each.model.graph.input, stage.graph.input),
                    (each.model.graph.output, stage.graph.output),
                ):
                    assert [(v.name, v.type.tensor_type.elem_type) for v in mine] == [
                        (v.name, v.type.tensor_type.elem_type) for v in his
                    ]
                types = element_types(each.model)
                made = [name for node in each.model.graph.node for name in node.output if name]
                assert all(types.get(name) for name in made), "a tensor without a type"


def test_bodies_go_before_tensorrt_10_7_and_stay_after(written: Bundles) -> None:
    folder = written("combined")
    bundle = read_bundle(folder)
    stages = read_stages(folder, bundle)
    for version, there in (("", False), ("10.3.0.26", False), ("10.7", True), ("11.1.0", True)):
        for each in prepare(stages, "tensorrt", "fp32", "library", version, set()):
            used = {node.op_type for node in each.model.graph.node if node.domain == DOMAIN}
            assert used and used <= set(LIBRARY_OPS)
            assert {function.name for function in each.model.functions} == (used if there else set())
            for node in each.model.graph.node:
                if node.domain == DOMAIN:
                    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
                    assert given["plugin_namespace"] == b"adaptrt" and given["plugin_version"] == b"1"
    with pytest.raises(ExportError, match=r"got TensorRT version 'ten', expected one such as 10\.3"):
        prepare(stages, "tensorrt", "fp32", "library", "ten", set())


def test_the_library_computes_every_op_that_has_kernels() -> None:
    assert set(LIBRARY_OPS) == {plugin["name"] for plugin in op_table(RECORDS)} & set(RECORDS)
    assert {"ConditionalMLP", "ConditionalSwiGLU", "SelectTokens"} <= set(LIBRARY_OPS)
    assert "ConditionalLinear" not in LIBRARY_OPS  # it has a body only


def test_two_bodies_under_one_name_are_refused(written: Bundles) -> None:
    stage = onnx.load(str(written("combined") / "stage0.onnx"))
    other = onnx.FunctionProto()
    other.CopyFrom(stage.functions[0])
    other.overload = "other"
    stage.functions.append(other)
    with pytest.raises(
        ExportError, match=r"got 2 bodies of adaptrt::\w+, expected one: TensorRT's parser takes the first"
    ):
        refresh_bodies(stage)


def test_two_nodes_that_need_different_bodies_are_refused(written: Bundles) -> None:
    stage = onnx.load(str(written("fixed") / "model.onnx"))
    node = next(node for node in stage.graph.node if node.op_type == "SelectTokens")
    other = onnx.NodeProto()
    other.CopyFrom(node)
    other.output[:] = ["other_y", "other_index", "other_count"]
    (limits,) = (attribute for attribute in other.attribute if attribute.name == "limits")
    limits.s = b"none"
    stage.graph.node.append(other)
    with pytest.raises(ExportError, match=r"got SelectTokens with any and with none limits in one model"):
        refresh_bodies(stage)


def test_newer_ops_and_unknown_ops_are_refused(written: Bundles) -> None:
    stage = onnx.load(str(written("combined") / "stage0.onnx"))
    for entry in stage.opset_import:
        entry.version += entry.domain == DOMAIN
    with pytest.raises(ExportError, match="got version 2 of the adaptrt ops, expected at most 1"):
        refresh_bodies(stage)
    for entry in stage.opset_import:
        entry.version -= entry.domain == DOMAIN
    stage.graph.node.append(helper.make_node("Unheard", ["price"], ["of"], domain=DOMAIN))
    with pytest.raises(ExportError, match="got op Unheard, which has neither a body nor a record"):
        refresh_bodies(stage)


def half_types(written: Bundles, name: str, file: str) -> tuple[onnx.ModelProto, dict[str, int]]:
    stage = onnx.load(str(written(name) / file))
    refresh_bodies(stage)
    half = to_half(stage)
    return half, element_types(half)


@pytest.mark.parametrize(
    ("name", "file"), [("combined", "stage0.onnx"), ("text", "stage1.onnx"), ("merge", "model.onnx")]
)
def test_what_decides_stays_in_float32(written: Bundles, name: str, file: str) -> None:
    half, types = half_types(written, name, file)
    assert sum(types.get(node.output[0]) == FLOAT16 for node in half.graph.node) > 10
    heavy = [node for node in half.graph.node if node.op_type in ("ConditionalMLP", "ConditionalLinear")]
    for node in heavy:
        assert types[node.input[0]] == FLOAT16 and types[node.input[2]] == FLOAT16
    for node in half.graph.node:
        if node.op_type in ("Softmax", "LayerNormalization", "ReduceSum", "ReduceMean", "Exp", "Log"):
            assert types[node.input[0]] != FLOAT16, node
        if node.op_type in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual"):
            assert FLOAT16 not in {types[name] for name in node.input}, node
        if node.op_type == "SelectTokens":
            assert types[node.input[0]] == FLOAT16
            assert types[node.input[1]] == types[node.input[4]] == FLOAT
        if node.op_type == "SegmentReduce":
            assert types[node.input[2]] == FLOAT and types[node.output[1]] == FLOAT
    producers = {name: node for node in half.graph.node for name in node.output}
    logits = producers["logits"]
    while logits.op_type not in ("Gemm", "MatMul"):
        logits = producers[logits.input[0]]
    assert types[logits.input[0]] == FLOAT, "the classifier"


def test_no_number_is_beyond_float16(written: Bundles) -> None:
    half, _ = half_types(written, "combined", "stage1.onnx")  # it masks padding with -1e9
    masks = [w for w in half.graph.initializer if float(onnx.numpy_helper.to_array(w).min(initial=0)) <= -1e9]
    assert masks and {w.data_type for w in masks} == {FLOAT}
    for weight in half.graph.initializer:
        assert np.isfinite(onnx.numpy_helper.to_array(weight)).all(), weight.name


def test_rounding_is_that_of_numpy() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[3] a, float[3] b) => (float[3] y) {
      a16 = Cast <to = 10> (a) b16 = Cast <to = 10> (b)
      sum = Add (a16, b16) y16 = Sub (sum, b16)
      y = Cast <to = 1> (y16)
    }"""
    plain = infer_types(parser.parse_model(text))
    a, b = np.array([1.001, 0.5, 3], np.float16), np.array([1024, 2048, 1], np.float16)
    feeds = {"a": a.astype(np.float32), "b": b.astype(np.float32)}
    (dropped,) = run(plain, feeds)
    (got,) = run(rounded(plain), feeds)
    np.testing.assert_array_equal(got, (a + b) - b)
    # Why it is needed: ONNX Runtime rounds nothing between two float16 nodes that it has no kernels for.
    assert not np.array_equal(dropped, (a + b) - b)


def test_control_flow_is_refused() -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "inner", [], [helper.make_tensor_value_info("z", FLOAT, [1])]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [1]), helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(ExportError, match="got a If node, expected a graph without control flow"):
        to_half(model)
    assert inlined(model).graph.node[0].op_type == "If"
