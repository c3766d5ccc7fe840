"""Blocks that are alike are traced once, and the graph is the one that tracing all of them gives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from adaptrt.export.graph import trace
from adaptrt.export.graph.merged_nodes import merge_nodes
from adaptrt.export.graph.repeated_blocks import BlockGraphs
from adaptrt.export.graph.stage_files import trace_stages
from adaptrt.export.graph.trace import trace_dense
from adaptrt.export.pretrained.adapt_folder import chosen_families
from adaptrt.export.pretrained.dense_source import full_inputs, load_dense
from adaptrt.export.pretrained.random_decisions import with_random_decisions
from tests.models.adapters.pretrained.tiny_models import saved

SIZES = {"num_hidden_layers": 4, "intermediate_size": 64}
FREE = {"Reshape", "Identity"}  # they copy nothing


def answers(model: onnx.ModelProto, inputs: dict[str, Any]) -> dict[str, Any]:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    fed = {node.name: inputs[node.name] for node in session.get_inputs()}
    return dict(zip([node.name for node in session.get_outputs()], session.run(None, fed), strict=True))


def nodes(model: onnx.ModelProto) -> Counter[str]:
    """Of a graph in which nothing is computed twice, as engines see to."""
    merge_nodes(model)
    return Counter(node.op_type for node in model.graph.node if node.op_type not in FREE)


def both_ways(folder: Path, family: str, architecture: str | None, traced: list[str]) -> None:
    """Trace a dense network and an adapted one block by block and as they stand, and compare."""
    saved(folder, family, architecture, **SIZES)
    source = load_dense(folder)
    assert source.dense is not None
    tensors = full_inputs(source.dense, 5)  # type: ignore[arg-type]
    inputs = {name: tensor.numpy() for name, tensor in tensors.items()}
    blocks = BlockGraphs()
    traced.clear()
    whole, put_together = trace_dense(source.dense), trace_dense(source.dense, blocks=blocks)
    assert nodes(whole) == nodes(put_together)
    for name, value in answers(whole, inputs).items():
        np.testing.assert_allclose(answers(put_together, inputs)[name], value, atol=1e-5)
    families = {field: each for field, each in chosen_families(source.dense, None, None).items() if each is not None}  # type: ignore[arg-type]
    network = with_random_decisions(source.dense, families, tensors)  # type: ignore[arg-type]
    prices = {"price": np.array([0.4], np.float32), "token_price": np.array([0.3], np.float32)}
    first = second = inputs | prices
    plain, ops = trace_stages(network, debug=False, progress=lambda *_: None)
    others, same_ops = trace_stages(network, debug=False, progress=lambda *_: None, blocks=blocks)
    assert ops == same_ops
    for stage, other in zip(plain, others, strict=True):
        assert (stage.carry, stage.decisions, stage.outputs) == (other.carry, other.decisions, other.outputs)
        assert nodes(stage.graph) == nodes(other.graph)
        handed = {each.name: each.source for each in stage.carry}
        first = first | {name: first[source] for name, source in handed.items()}
        second = second | {name: second[source] for name, source in handed.items()}
        given, again = answers(stage.graph, first), answers(other.graph, second)
        assert given.keys() == again.keys()
        for name, value in given.items():
            np.testing.assert_allclose(again[name], value, atol=1e-5)
        first, second = first | given, second | again


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kinds of the modules that are traced."""
    kinds: list[str] = []
    export = trace.export_module

    def counted(module: Any, *rest: Any) -> onnx.ModelProto:
        kinds.append(type(module).__name__)
        return export(module, *rest)

    monkeypatch.setattr(trace, "export_module", counted)
    return kinds


@pytest.mark.slow("traces networks twice")
@pytest.mark.parametrize(
    ("family", "architecture", "kinds"),
    # Of pictures all tokens are real until some were selected.
    [("bert", "BertForSequenceClassification", 2), ("vit", "ViTForImageClassification", 3)],
)
def test_graphs_are_those_of_tracing_every_block(
    tmp_path: Path, traced: list[str], family: str, architecture: str, kinds: int
) -> None:
    both_ways(tmp_path, family, architecture, traced)
    assert traced.count("_Dense") == 2 and traced.count("_Stage") == 6
    assert traced.count("_Alone") == kinds


@pytest.mark.exhaustive
@pytest.mark.slow("traces networks twice")
@pytest.mark.parametrize(
    ("family", "once"),
    [
        ("modernbert", True),
        ("eurobert", True),
        ("siglip_vision", True),
        ("clip_text", True),
        # Layers may share a table of biases.
        ("mpnet", False),
        ("beit", False),
    ],
)
def test_graphs_of_other_blocks(tmp_path: Path, traced: list[str], family: str, once: bool) -> None:
    both_ways(tmp_path, family, None, traced)
    assert ("_Alone" in traced) is once


def constant(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def test_what_gives_the_same_is_merged() -> None:
    text = """
        <ir_version: 10, opset_import: ["": 20]>
        graph (float[batch, 4] x, float[other, 4] z) => (float[batch, 4] y, float[other, 4] w)
        <int64[2] s1, int64[2] s2, int64[1] minus, float[batch, 2, 2] a, float[batch, 4] b, float[batch, 4] c> {
            size = Shape <start = 0, end = 1> (x)
            s1 = Concat <axis = 0> (size, minus)
            a = Reshape (x, three)
            b = Reshape (a, s1)
            again = Shape <start = 0, end = 1> (b)
            s2 = Concat <axis = 0> (again, minus_too)
            c = Add (b, b)
            y = Reshape (c, s2)
            other_size = Shape <start = 0, end = 1> (z)
            s3 = Concat <axis = 0> (other_size, minus)
            w = Reshape (z, s3)
            unread = Neg (x)
        }
    """
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend([constant("minus", -1), constant("minus_too", -1), constant("three", -1, 2, 2)])
    inputs = {"x": np.ones((3, 4), np.float32), "z": np.full((2, 4), 5, np.float32)}
    before = answers(model, inputs)
    merge_nodes(model)
    after = answers(model, inputs)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    # Two sizes that may differ stay two; outputs keep their names.
    expected = ["Shape", "Concat", "Add", "Reshape", "Shape", "Concat", "Reshape"]
    assert [node.op_type for node in model.graph.node] == expected
    assert [each.name for each in model.graph.initializer] == ["minus"]
