"""A sample alone and in any batch has the same answer to 1e-6 of it: in float32, and in int8 as much.

Integer products are exact. What could differ is the float32 around them: ONNX Runtime may add up in another order for
another number of rows, and a byte on the edge between two steps would turn that into a step. So float32 is measured
beside int8, on networks as wide as its products are blocked for and with texts that padding makes longer.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from adaptrt.export.graph.trace import trace_dense
from adaptrt.export.targets.build import build_target
from adaptrt.export.targets.inline import inlined
from adaptrt.export.targets.int8 import to_int8
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.export.targets.tensor_types import per_sample_tensors
from adaptrt.models import ACMConfig, Network
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.ops.int8 import REDUCED
from adaptrt.ops.record import Array
from adaptrt.runtime import load
from adaptrt.runtime.bundle.bundle_file import read_bundle
from tests.batch_mates import MOST, Inputs, dependence, random_inputs
from tests.export.parity.test_families import SHAPE
from tests.export.targets import conftest
from tests.models.adapters.test_text_encoder import TINY as TEXT
from tests.ops.implementations import run_in_onnxruntime

FAMILIES = {"acm": ACMConfig(learners=2, gate_width=8), "pruning": PruningConfig((0,))}
SIZES = {"width": 160, "heads": 5, "ffn_width": 320, "depth": 2, "classes": 40}
"""Products are summed in blocks of 128 in ONNX Runtime, and written in blocks of 16 to 64 columns."""
WIDE = {
    "wide": dataclasses.replace(SHAPE, image_size=14, **SIZES),
    "wide text": dataclasses.replace(TEXT, length=40, **SIZES),
}
BATCHES = (2, 5, 16, 33)


def network(name: str) -> Network:
    """With outlier channels, as trained networks have them: a build evens them out."""
    made = Network.from_config(dataclasses.replace(WIDE[name], **FAMILIES))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter_name, parameter in made.named_parameters():
            if parameter_name.startswith("blocks.") and parameter_name.endswith("norm1.weight"):
                parameter[[3, 77]] *= 20
    return made


@pytest.fixture(scope="module", params=list(WIDE))
def bundle_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of networks whose products are in int8 as they are, for no test's sake."""
    name = str(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(conftest.MAKERS, name, lambda: network(name))
        return conftest.write_bundle(name, tmp_path_factory.mktemp("wide") / "bundle")


@pytest.mark.parametrize("activations", ["auto", "token"])
def test_stages_answer_alone_as_in_a_batch(bundle_folder: Path, activations: str) -> None:
    settings = BuildSettings("onnxruntime", "int8", max_quality_drop=1.0, activations=activations)
    report = build_target(bundle_folder, settings)
    assert any("after outlier channels were evened out" in note for note in report.notes) == (activations == "auto")
    bundle = read_bundle(bundle_folder)
    for precision in ("fp32", "int8"):
        model = load(bundle_folder, precision=precision, threads=1)
        work = set()
        for price in (0.0, 0.5):

            def run(inputs: Inputs, price: float = price) -> Array:
                result = model.run(inputs, knobs={"price": price, "token_price": price})  # noqa: B023 - run at once
                work.update(result.macs_fraction.tolist())  # noqa: B023
                return np.asarray(result.outputs["logits"])

            found = {batch: dependence(run, random_inputs(bundle.inputs, batch, 40)) for batch in BATCHES}
            assert max(found.values()) <= MOST, (precision, price, found)
        assert len(work) > 10  # samples were decided about each by itself


@pytest.mark.parametrize("name", WIDE)
def test_the_dense_graph_answers_alone_as_in_a_batch(name: str) -> None:
    torch.manual_seed(0)
    dense = Network.from_config(WIDE[name]).eval()
    flat = inlined(trace_dense(dense))
    small = to_int8(flat, REDUCED, per_sample_tensors(flat))
    specs = dense.input_specs()
    for graph in (flat, small):

        def run(inputs: Inputs, graph: onnx.ModelProto = graph) -> Array:
            logits: Array = run_in_onnxruntime(graph, inputs)[0]
            return logits

        names = {value.name for value in graph.graph.input}
        for batch in BATCHES:
            inputs = random_inputs(specs, batch, 40)
            found = dependence(run, {key: array for key, array in inputs.items() if key in names})
            assert found <= MOST, (graph is small, batch, found)


def test_one_scale_for_a_batch_would_be_noticed() -> None:
    weight = numpy_helper.from_array(np.random.default_rng(0).integers(-63, 64, (40, 8)).astype(np.int8), "w")
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["bytes", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["bytes", "w", "zero"], ["steps"]),
        helper.make_node("Cast", ["steps"], ["product"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["product", "scale"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", 40), ("y", 8))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    inputs = {"x": np.random.default_rng(1).standard_normal((6, 40)).astype(np.float32)}
    assert dependence(lambda fed: np.asarray(run_in_onnxruntime(model, fed)[0]), inputs) > 1e3 * MOST
