"""int8 and fp8 by pairs: what they compute, in ONNX Runtime and OpenVINO, and that TensorRT-RTX builds them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from adaptrt.export.errors import ExportError
from adaptrt.export.targets import activation_ranges, int8_scales, nvidia_builder
from adaptrt.export.targets.build import build_target
from adaptrt.export.targets.int8 import byte_tensors
from adaptrt.export.targets.profiles import SizeRange
from adaptrt.export.targets.qdq import to_fp8_qdq, to_qdq, without_relu
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.ops import OpRecord
from adaptrt.ops.fp8 import e4m3_product, e4m3_scale
from adaptrt.ops.int8 import FULL, ByteScale, even_steps, quantize_columns
from adaptrt.ops.record import Array
from adaptrt.runtime import AdaptiveModel, Budget, load
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.bundle.engine_files import read_engines
from tests.batch_mates import MOST, Inputs, dependence, random_inputs
from tests.export.targets.conftest import MAKERS
from tests.export.targets.test_int8 import LEARNER_OPS, with_constant_weights
from tests.ops.implementations import run_in_onnxruntime
from tests.prepared_engines import require_openvino

Bundles = Callable[[str], Path]
SCALE = ByteScale(np.float32(6 / 127), np.uint8(0))
E4M3 = ByteScale(e4m3_scale(6.0), np.uint8(0))
LEARNING = [name for name in MAKERS if name in ("combined", "text", "merge", "fixed")]


def signed_product(x: Array, weight: Array) -> Array:
    """The product by an even scale: signed bytes, zero for zero."""
    rows = even_steps(x, SCALE.scale).astype(np.int64)
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


@pytest.mark.parametrize("record", LEARNER_OPS, ids=lambda record: record.name)
@pytest.mark.parametrize("case", ["random", "no_token", "all_run"])
def test_learners_compute_what_the_reference_of_fp8_says(record: OpRecord, case: str) -> None:
    inputs = record.make_inputs(
        next(each for each in record.cases if each.name == case), np.random.default_rng(0), "float32"
    )
    model = with_constant_weights(record, inputs)
    graph = to_fp8_qdq(model, dict.fromkeys(byte_tensors(model, least_width=1), E4M3), least_width=1)
    assert not any(node.domain for node in graph.graph.node)
    kinds = {weight.data_type for weight in graph.graph.initializer}
    assert onnx.TensorProto.FLOAT8E4M3FN in kinds and onnx.TensorProto.INT8 not in kinds
    (got,) = run_in_onnxruntime(without_relu(graph), {name: inputs[name] for name in ("x", "k")})
    wanted = record.reference(**inputs, product=partial(e4m3_product, scale=E4M3.scale))
    # A hidden number may fall on the other side of a tie: a sixteenth of it, times a weight.
    np.testing.assert_allclose(got, wanted, rtol=0, atol=0.1)
    assert not wanted.size or np.abs(got - wanted).mean() < 2e-3
    exact = record.reference(**inputs)
    assert not wanted.size or np.abs(got - exact).max() > 1e-2 < np.abs(wanted - exact).max()


def test_large_tables_and_heads_are_no_bytes_in_fp8() -> None:
    record = LEARNER_OPS[0]
    inputs = record.make_inputs(record.cases[0], np.random.default_rng(0), "float32")
    model = with_constant_weights(record, inputs)
    with pytest.raises(ExportError, match="whose input has a fixed scale, expected some to compute in fp8"):
        to_fp8_qdq(model, {}, least_width=1)
    wrong = {**inputs, "w1": np.full_like(inputs["w1"], np.nan)}
    with pytest.raises(ExportError, match="NaN or infinite numbers, expected finite ones for fp8"):
        broken = with_constant_weights(record, wrong)
        to_fp8_qdq(broken, dict.fromkeys(byte_tensors(model, least_width=1), E4M3), least_width=1)


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
    monkeypatch.setattr(int8_scales, "to_fp8_qdq", partial(to_fp8_qdq, least_width=6))
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
@pytest.mark.parametrize(
    ("precision", "architectures", "bits", "kind"),
    [("int8", (89,), 8, onnx.TensorProto.INT8), ("fp8", (89, 120), None, onnx.TensorProto.FLOAT8E4M3FN)],
)
@pytest.mark.parametrize("name", LEARNING)
def test_tensorrt_rtx_builds_it(
    copied: Bundles, name: str, precision: str, architectures: tuple[int, ...], bits: int | None, kind: int
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    folder = copied(name)
    settings = BuildSettings(
        "tensorrt-rtx", precision, architectures=architectures, batch=SizeRange(1, 2, 8), max_quality_drop=0.25
    )
    report = build_target(folder, settings)
    assert (report.engines.precision, report.engines.weight_bits, report.engines.activations) == (
        precision,
        bits,
        "static",
    )
    for stage in report.engines.stages:
        assert stage.engine is not None and (report.folder / stage.engine.file).stat().st_size > 1000
        graph = onnx.load(str(report.folder / stage.prepared.file))
        assert any(weight.data_type == kind for weight in graph.graph.initializer)
    assert build_target(folder, settings).reused
    assert read_engines(report.folder) == report.engines


@pytest.mark.usefixtures("small_products")
def test_fp8_by_default_is_for_gpus_that_compute_in_it(copied: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    monkeypatch.setattr(nvidia_builder, "device_architecture", lambda: None)
    settings = BuildSettings("tensorrt-rtx", "fp8", batch=SizeRange(1, 2, 8), max_quality_drop=0.25)
    assert build_target(copied("fixed"), settings).engines.arch == "89 120"


@pytest.mark.parametrize(
    ("target", "architectures", "message"),
    [
        ("tensorrt-rtx", (86,), "got architecture 86 for fp8, expected 89 or later.*use --precision int8"),
        ("tensorrt-rtx", (86, 89), "got architecture 86 for fp8, expected 89 or later"),
        ("tensorrt", (87,), "got architecture 87 for fp8, expected 89 or later"),
        ("tensorrt", (), "got no architecture for fp8, expected the device's, 89 or later.*give --arch 89"),
    ],
)
def test_gpus_without_fp8_are_refused_before_anything_is_written(
    copied: Bundles, monkeypatch: pytest.MonkeyPatch, target: str, architectures: tuple[int, ...], message: str
) -> None:
    if target == "tensorrt":
        monkeypatch.setattr(nvidia_builder, "find_engine_api", lambda _: None)
    else:
        pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    folder = copied("fixed")
    with pytest.raises(ExportError, match=message):
        build_target(folder, BuildSettings(target, "fp8", architectures=architectures))
    assert not (folder / "engines").exists()


def test_a_gpu_here_without_fp8_is_refused(copied: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    monkeypatch.setattr(nvidia_builder, "device_architecture", lambda: 86)
    with pytest.raises(ExportError, match="got architecture 86 for fp8"):
        build_target(copied("fixed"), BuildSettings("tensorrt-rtx", "fp8"))


@pytest.mark.usefixtures("small_products")
def test_without_tensorrt_fp8_graphs_are_prepared_for_the_device(
    copied: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia_builder, "find_engine_api", lambda _: None)
    settings = BuildSettings("tensorrt", "fp8", architectures=(110,), max_quality_drop=0.25)
    report = build_target(copied("fixed"), settings)
    assert (report.engines.arch, report.engines.engine_version) == ("110", "")
    assert report.commands and all("--stronglyTyped" in command for command in report.commands)


def test_settings_that_do_not_go_together(copied: Bundles) -> None:
    folder = copied("fixed")
    with pytest.raises(ExportError, match="got precision 'fp8' for openvino, expected fp32, fp16 or int8"):
        build_target(folder, BuildSettings("openvino", "fp8"))
    with pytest.raises(ExportError, match="activations 'token' for tensorrt in fp8"):
        build_target(folder, BuildSettings("tensorrt", "fp8", architectures=(89,), activations="token"))
    with pytest.raises(ExportError, match="activations 'token' for openvino in int8"):
        build_target(folder, BuildSettings("openvino", "int8", activations="token"))
    settings = BuildSettings("tensorrt", "fp8", architectures=(89,), plugins="python")
    with pytest.raises(ExportError, match="plugins 'python' .* in fp8, expected fp32, fp16 or int8 with plugins"):
        build_target(folder, settings)
