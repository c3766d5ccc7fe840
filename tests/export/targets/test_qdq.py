"""int8 by pairs: what they compute, in ONNX Runtime and OpenVINO, and that TensorRT-RTX builds them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from adaptrt.export.errors import ExportError
from adaptrt.export.targets import activation_ranges, int8_scales
from adaptrt.export.targets.build import build_target
from adaptrt.export.targets.int8 import byte_tensors
from adaptrt.export.targets.profiles import SizeRange
from adaptrt.export.targets.qdq import to_qdq
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.ops import OpRecord
from adaptrt.ops.int8 import FULL, ByteScale, quantize_columns
from adaptrt.ops.record import Array
from adaptrt.runtime import AdaptiveModel, Budget, load
from adaptrt.runtime.bundle.bundle_file import read_bundle
from tests.batch_mates import MOST, Inputs, dependence, random_inputs
from tests.export.targets.conftest import MAKERS
from tests.export.targets.test_int8 import LEARNER_OPS, with_constant_weights
from tests.ops.implementations import run_in_onnxruntime
from tests.prepared_engines import require_openvino

Bundles = Callable[[str], Path]
SCALE = ByteScale(np.float32(6 / 127), np.uint8(0))
LEARNING = [name for name in MAKERS if name in ("combined", "text", "merge", "fixed")]


def signed_product(x: Array, weight: Array) -> Array:
    """The product by an even scale: signed bytes, zero for zero."""
    rows = np.clip(np.rint(x.astype(np.float32) / SCALE.scale), -128, 127).astype(np.int64)
    columns = quantize_columns(weight, FULL)
    product: Array = (rows @ columns.values.astype(np.int64)) * np.float64(SCALE.scale) * columns.scale
    return product


@pytest.mark.parametrize("record", LEARNER_OPS, ids=lambda record: record.name)
@pytest.mark.parametrize("case", ["random", "no_token", "all_run"])
def test_learners_compute_what_the_reference_says(record: OpRecord, case: str) -> None:
    inputs = record.make_inputs(
        next(each for each in record.cases if each.name == case), np.random.default_rng(0), "float32"
    )
    model = with_constant_weights(record, inputs)
    graph = to_qdq(model, dict.fromkeys(byte_tensors(model, least_width=1), SCALE), least_width=1)
    operators = [node.op_type for node in graph.graph.node]
    assert operators.count("QuantizeLinear") == 1 + len(inputs["w2"])  # the input once, each hidden layer once
    assert not any(node.domain for node in graph.graph.node)
    (got,) = run_in_onnxruntime(graph, {name: inputs[name] for name in ("x", "k")})
    wanted = record.reference(**inputs, product=signed_product)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=0.06)  # steps are of 0.05, and one of them may fall otherwise
    exact = record.reference(**inputs)
    assert not wanted.size or np.abs(got - exact).max() > 1e-4


def test_products_without_a_scale_stay_as_they_are() -> None:
    record = LEARNER_OPS[0]
    inputs = record.make_inputs(record.cases[0], np.random.default_rng(0), "float32")
    model = with_constant_weights(record, inputs)
    names = list(byte_tensors(model, least_width=1))
    graph = to_qdq(model, {names[0]: SCALE}, least_width=1)
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("QuantizeLinear") == 1 and {"Gemm", "MatMul"} & set(kinds)
    with pytest.raises(ExportError, match="whose input has a fixed scale"):
        to_qdq(model, {}, least_width=1)


@pytest.fixture
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' networks are narrower than what is worth computing in int8."""
    monkeypatch.setattr(int8_scales, "to_qdq", partial(to_qdq, least_width=6))
    monkeypatch.setattr(int8_scales, "byte_tensors", partial(byte_tensors, least_width=6))
    monkeypatch.setattr(activation_ranges, "FEWEST_ROWS", 8)


@pytest.mark.usefixtures("small_products")
@pytest.mark.parametrize("name", LEARNING)
def test_openvino_runs_it_and_samples_are_independent(copied: Bundles, name: str) -> None:
    require_openvino()
    folder = copied(name)
    settings = BuildSettings("openvino", "int8", max_quality_drop=0.25)
    report = build_target(folder, settings)
    assert (report.engines.activations, report.engines.weight_bits) == ("static", 7)
    assert report.verified is not None and build_target(folder, settings).reused
    model = load(folder, backend="openvino", precision="int8", threads=1)
    assert model.precision == "int8" and model.backend.engine_version.endswith("int8")
    inputs = random_inputs(read_bundle(folder).inputs, 4)

    def run(inputs: Inputs, by: AdaptiveModel = model) -> Array:
        return np.asarray(by.run(inputs, budget=Budget.full()).outputs["logits"])

    assert dependence(run, inputs) <= MOST
    assert np.abs(run(inputs) - run(inputs, load(folder, threads=1))).max() > 0


@pytest.mark.usefixtures("small_products")
@pytest.mark.parametrize("name", LEARNING)
def test_tensorrt_rtx_builds_it(copied: Bundles, name: str) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    folder = copied(name)
    settings = BuildSettings(
        "tensorrt-rtx", "int8", architectures=(89,), batch=SizeRange(1, 2, 8), max_quality_drop=0.25
    )
    report = build_target(folder, settings)
    assert report.engines.weight_bits == 8
    for stage in report.engines.stages:
        assert stage.engine is not None and (report.folder / stage.engine.file).stat().st_size > 1000
        graph = onnx.load(str(report.folder / stage.prepared.file))
        assert any(weight.data_type == onnx.TensorProto.INT8 for weight in graph.graph.initializer)


def test_settings_that_do_not_go_together(copied: Bundles) -> None:
    folder = copied("fixed")
    with pytest.raises(ExportError, match="activations 'token' for openvino in int8"):
        build_target(folder, BuildSettings("openvino", "int8", activations="token"))
    settings = BuildSettings("tensorrt", "int8", architectures=(87,), plugins="python")
    with pytest.raises(ExportError, match="plugins 'python' .* in int8, expected none"):
        build_target(folder, settings)
