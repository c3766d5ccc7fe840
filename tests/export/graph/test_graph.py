"""The exported graph: what is in it, that nothing is lost, that it runs with nothing of ours."""

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from adaptrt.export.errors import ExportError
from adaptrt.export.exporter import ExportReport, export_bundle
from adaptrt.export.graph.bodies import adaptive_nodes, attach_bodies
from adaptrt.export.graph.trace import trace, trace_dense
from adaptrt.models import ACMConfig, Network
from adaptrt.models.block import Prices
from adaptrt.models.families.acm import AdaptiveFFN
from adaptrt.models.families.gate import PriceGate
from adaptrt.models.tokens import Tokens
from tests.export.conftest import SHAPE, source, tiny_model

IMAGES = np.random.default_rng(5).random((6, 1, 4, 4), dtype=np.float32)


def run(graph: onnx.ModelProto, price: float, images: np.ndarray = IMAGES) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(None, {"pixels": images, "price": np.array([price], np.float32)})
    return {output.name: value for output, value in zip(session.get_outputs(), values, strict=True)}


def test_its_face(graph: onnx.ModelProto, model: Network) -> None:
    def shape(value: onnx.ValueInfoProto) -> list[str | int]:
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    gates = len(model.gates())
    faces = {value.name: shape(value) for value in [*graph.graph.input, *graph.graph.output]}
    assert faces == {
        "pixels": ["batch", 1, 4, 4],
        "price": [1],
        "logits": ["batch", 3],
        "macs_fraction": ["batch"],
        "learners": ["batch", gates, 4],
        **{f"learners_{gate}": ["4*batch"] for gate in range(gates)},
    }
    assert graph.ir_version == 10
    assert {(entry.domain, entry.version) for entry in graph.opset_import} == {("", 20), ("adaptrt", 1)}


def test_nodes_carry_what_tensorrt_looks_for(graph: onnx.ModelProto) -> None:
    for node in adaptive_nodes(graph):
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert attributes == {"plugin_namespace": b"adaptrt", "plugin_version": b"1"}
    names = [function.name for function in graph.functions]
    assert len(names) == len(set(names)) and set(names) == {node.op_type for node in adaptive_nodes(graph)}


def test_no_path_of_this_machine_is_in_the_file(graph: onnx.ModelProto) -> None:
    content = graph.SerializeToString()
    assert str(Path.cwd()).encode() not in content and b"site-packages" not in content


def test_every_learner_survives_an_example_that_ran_none(graph: onnx.ModelProto, model: Network) -> None:
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    learners = [module for module in model.modules() if hasattr(module, "contributions")]
    nodes = adaptive_nodes(graph)
    assert len(nodes) == len(learners)
    for node, module in zip(nodes, learners, strict=True):
        weights = [stored[name] for name in node.input if name in stored and stored[name].ndim == 3]
        np.testing.assert_array_equal(weights[0], module.w1.detach().numpy())
        np.testing.assert_array_equal(weights[1], module.w2.detach().numpy())
    low, _ = model.price_limits()
    with torch.no_grad():
        everything = model(torch.from_numpy(IMAGES), torch.tensor([low]))
    got = run(graph, low)
    assert (got["learners"] == model.config.acm.learners).all()  # type: ignore[union-attr]
    np.testing.assert_allclose(got["logits"], everything.logits.numpy(), atol=1e-5)


def test_macs_fraction_is_a_count_of_the_runs(graph: onnx.ModelProto, model: Network) -> None:
    layers = model.layers()
    dense = sum(layer.dense for layer in layers)
    fixed = sum(layer.gate if layer.per_run else layer.dense for layer in layers)
    per_run = np.array([layer.per_run for layer in layers if layer.per_run])
    means = []
    for price in np.linspace(*model.price_limits(), 9):
        got = run(graph, float(price))
        counted = (fixed + got["learners"].sum(2, dtype=np.int64) @ per_run) / dense
        np.testing.assert_allclose(got["macs_fraction"], counted, atol=1e-6)
        means.append(got["macs_fraction"].mean())
    assert all(later <= earlier for earlier, later in itertools.pairwise(means))
    assert means[-1] < means[0]


def test_a_sample_does_not_depend_on_its_batch(graph: onnx.ModelProto, model: Network) -> None:
    price = float(np.mean(model.price_limits()))
    together = run(graph, price)
    for index in range(len(IMAGES)):
        alone = run(graph, price, IMAGES[index : index + 1])
        np.testing.assert_allclose(alone["logits"][0], together["logits"][index], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(alone["learners"][0], together["learners"][index])


def test_an_empty_batch_gives_empty_results(graph: onnx.ModelProto, model: Network) -> None:
    got = run(graph, model.price_limits()[0], IMAGES[:0])
    assert got["logits"].shape == (0, 3) and got["macs_fraction"].shape == (0,)


def test_modules_that_need_different_bodies_are_refused() -> None:
    model = tiny_model(learners=4)
    # A second block whose FFN has 2 learners where the first has 4.
    model.blocks[1].ffn = AdaptiveFFN(ACMConfig(learners=2, gate_width=4), model.config).eval()  # type: ignore[union-attr]
    with pytest.raises(ExportError, match="got ConditionalMLP with 4 and with 2 learners"):
        attach_bodies(trace(model))


def test_an_op_without_a_record_is_refused(graph: onnx.ModelProto) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    adaptive_nodes(changed)[0].op_type = "ConditionalMlp"
    with pytest.raises(ExportError, match="op ConditionalMlp has no record, expected one of ConditionalMLP"):
        attach_bodies(changed)


def test_the_gate_stays_two_fused_products_and_a_sum() -> None:
    traced = trace(tiny_model())
    kinds = [node.op_type for node in traced.graph.node]
    assert "If" not in kinds and "Where" not in kinds and "Loop" not in kinds
    assert kinds.count("Greater") == len([g for g in tiny_model().modules() if isinstance(g, PriceGate)])


_BARE = """
import sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
images = numpy.load(sys.argv[2])
logits, fraction = session.run(["logits", "macs_fraction"], {"pixels": images, "price": numpy.zeros(1, numpy.float32)})
assert "torch" not in sys.modules and "onnx" not in sys.modules and "adaptrt" not in sys.modules
numpy.save(sys.argv[3], logits)
"""


def test_the_file_runs_with_numpy_and_onnxruntime_alone(exported: ExportReport, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    arguments = [exported.bundle_folder / "model.onnx", tmp_path / "images.npy", tmp_path / "logits.npy"]
    subprocess.run([sys.executable, "-c", _BARE, *map(str, arguments)], check=True)
    model = source().model
    images = torch.from_numpy(IMAGES)
    with torch.no_grad():
        # All learners, computed without any gate: the dense form of the same weights.
        x = model.embed_inputs({"pixels": images}).x
        for block in model.blocks:
            tokens, _, _ = block.attention_half(Tokens(x, 4), Prices())  # type: ignore[operator, union-attr]
            x, normed = tokens.x, block.norm2(tokens.x)  # type: ignore[operator, union-attr]
            x = x + block.ffn.learners.masked(normed, torch.ones(len(x), 4))  # type: ignore[operator, union-attr]
        wanted = model.head.classifier(model.norm(x.reshape(6, 4, -1).mean(1)))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), wanted.numpy(), atol=1e-5)


def test_a_dense_graph_has_no_price() -> None:
    torch.manual_seed(0)
    dense = Network.from_config(dataclasses.replace(SHAPE, class_token=True)).eval()
    traced = trace_dense(dense)
    assert [value.name for value in traced.graph.input] == ["pixels"]
    session = onnxruntime.InferenceSession(traced.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = dense(torch.from_numpy(IMAGES)).logits.numpy()
    np.testing.assert_allclose(session.run(None, {"pixels": IMAGES})[0], wanted, atol=1e-5)


def test_the_same_model_gives_the_same_file(exported: ExportReport, tmp_path: Path) -> None:
    """Traced once more, without data to calibrate with."""
    export_bundle(source(), tmp_path / "second", calibration=None)
    assert (exported.bundle_folder / "model.onnx").read_bytes() == (tmp_path / "second" / "model.onnx").read_bytes()
    onnx.checker.check_model(onnx.load(str(tmp_path / "second" / "model.onnx")), full_check=True)
