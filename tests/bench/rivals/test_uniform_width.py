"""The static form of a bundle: with all learners it answers as the bundle where everything runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

from adaptrt.bench.errors import BenchError
from adaptrt.bench.rivals.uniform_width import learners_of, with_uniform_width
from adaptrt.export.parity.reference import GOLDEN_FILE, read_golden
from adaptrt.export.targets.source import read_stages
from adaptrt.models import ACMConfig, Network
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.ops import RECORDS
from adaptrt.ops.record import Array
from adaptrt.runtime import Budget, load
from adaptrt.runtime.bundle.bundle_file import read_bundle
from tests.export.targets.conftest import MAKERS, write_bundle
from tests.models.adapters.test_text_encoder import TINY as TEXT
from tests.ops.implementations import run_in_onnxruntime

LEARNER_OPS = [record for record in RECORDS.values() if any(field.name == "w2" for field in record.inputs)]


def texts() -> Network:
    acm, pruning = ACMConfig(learners=4, gate_width=4), PruningConfig((0,))
    return Network.from_config(
        dataclasses.replace(TEXT, depth=2, acm=acm, pruning=pruning, exits=ExitConfig((1,), "max_softmax"))
    )


@pytest.fixture(scope="module", params=["combined", "texts"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MAKERS, "texts", texts)
        return write_bundle(request.param, tmp_path_factory.mktemp("rivals") / "bundle")


def golden_inputs(folder: Path) -> dict[str, Array]:
    return read_golden(folder / GOLDEN_FILE)[0].inputs


def ran(graph: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    known = {value.name for value in graph.graph.input}
    (logits,) = run_in_onnxruntime(graph, {name: array for name, array in feeds.items() if name in known})
    return np.asarray(logits)


def test_all_learners_answer_as_everything_does(folder: Path) -> None:
    bundle = read_bundle(folder)
    stages = read_stages(folder, bundle)
    number, feeds = learners_of(stages), golden_inputs(folder)
    graph = with_uniform_width(bundle, stages, number)
    assert not {node.op_type for node in graph.graph.node} & {"ScatterElements", "Sigmoid", "GatherND"}
    assert {value.name for value in graph.graph.input} <= {spec.name for spec in bundle.inputs}
    wanted = load(folder).run(feeds, budget=Budget.full()).outputs["logits"]
    np.testing.assert_allclose(ran(graph, feeds), wanted, rtol=0, atol=1e-4)
    fewer = ran(with_uniform_width(bundle, stages, number - 1), feeds)
    assert np.abs(fewer - wanted).max() > 1e-3
    assert np.isfinite(ran(with_uniform_width(bundle, stages, 1), feeds)).all()


@pytest.mark.parametrize("number", [0, 9])
def test_numbers_that_are_none(folder: Path, number: int) -> None:
    bundle = read_bundle(folder)
    with pytest.raises(BenchError, match=f"got {number} learners, expected 1 to"):
        with_uniform_width(bundle, read_stages(folder, bundle), number)


@pytest.mark.parametrize("name", ["merge", "fixed", "resnet"])
def test_networks_without_learners(name: str, tmp_path: Path) -> None:
    folder = write_bundle(name, tmp_path / "bundle")
    with pytest.raises(BenchError, match=r"got no learners|got op"):
        learners_of(read_stages(folder, read_bundle(folder)))


@pytest.mark.parametrize("record", LEARNER_OPS, ids=lambda record: record.name)
def test_every_op_has_a_static_form(record) -> None:  # type: ignore[no-untyped-def]
    from onnx import helper, numpy_helper

    from adaptrt.bench.rivals.uniform_width import _static
    from adaptrt.export.targets.inline import inlined

    generator = np.random.default_rng(0)
    inputs = record.make_inputs(record.cases[0], generator, "float32")
    learners = len(inputs["w2"])
    graph = helper.make_graph(
        [helper.make_node(record.name, list(inputs), ["y"], domain="adaptrt")],
        "g",
        [
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["t", inputs["x"].shape[1]]),
            helper.make_tensor_value_info("k", onnx.TensorProto.INT32, ["t"]),
        ],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["t", inputs["w2"].shape[2]])],
        [numpy_helper.from_array(array, name) for name, array in inputs.items() if name not in ("x", "k")],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("adaptrt", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    for number in (1, learners):
        flat = inlined(_static(model, number))
        (got,) = run_in_onnxruntime(flat, {"x": inputs["x"], "k": inputs["k"]})
        wanted = record.reference(**{**inputs, "k": np.full_like(inputs["k"], number)})
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)
