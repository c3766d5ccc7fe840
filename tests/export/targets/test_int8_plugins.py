"""int8 with plugins: learners in int8 forms against their reference, and the graphs that a build leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from adaptrt.export.errors import ExportError
from adaptrt.export.targets import activation_ranges, int8_scales, nvidia_builder
from adaptrt.export.targets.activation_ranges import ActivationRange
from adaptrt.export.targets.build import BuildReport, build_target
from adaptrt.export.targets.inline import inlined
from adaptrt.export.targets.int8 import byte_tensors
from adaptrt.export.targets.int8_learners import Int8Learners, learner_tensors, with_int8_learners
from adaptrt.export.targets.parts import with_parts
from adaptrt.export.targets.qdq import to_qdq
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.ops import DOMAIN, INT8_RECORDS, RECORDS, OpRecord
from adaptrt.ops.int8 import ByteScale
from adaptrt.ops.int8_forms import W8A8, W8A16, Int8Form, has_forms, quantized_weights
from adaptrt.ops.record import Array
from tests.export.targets.test_parts import with_weights
from tests.ops.implementations import graph_of, run_in_onnxruntime

Bundles = Callable[[str], Path]
OPS = pytest.mark.parametrize("record", [each for each in RECORDS.values() if has_forms(each)], ids=lambda r: r.name)
FORMS = pytest.mark.parametrize("form", [W8A16, W8A8], ids=lambda form: form.name)
SCALE = ByteScale(np.float32(0.03), np.uint8(0))


def in_form(record: OpRecord, form: Int8Form, reach: float = 4.0) -> tuple[Int8Learners, dict[str, Array]]:
    """A graph of one op in a form, and the op's inputs."""
    inputs = record.make_inputs(record.cases[0], np.random.default_rng(1), "float32")
    model, _ = with_weights(record, inputs)
    names = learner_tensors(model)["y"].widths
    ranges = dict.fromkeys(names, ActivationRange(-reach, reach, 1.0, 1.0, 300))
    scales = dict.fromkeys(names if form.activations else [], SCALE)
    return with_int8_learners(model, ranges, scales), inputs


def computed(learners: Int8Learners, inputs: dict[str, Array]) -> Array:
    return run_in_onnxruntime(inlined(learners.model), {name: inputs[name] for name in ("x", "k")})[0]


def reference(record: OpRecord, form: Int8Form, inputs: dict[str, Array]) -> Array:
    """The form's numpy reference on the op's inputs, quantised apart from the graph's code."""
    int8 = INT8_RECORDS[f"{record.name}{form.name}"]
    given: dict[str, Array] = {"x_scale": np.asarray(SCALE.scale)}
    given["hidden_scale"] = np.full(len(inputs["w2"]), SCALE.scale, np.float32)
    for field in record.inputs:
        if len(field.axes) == 3:
            given[field.name], given[f"{field.name}_scale"] = quantized_weights(inputs[field.name])
        else:
            given[field.name] = inputs[field.name].astype(np.float16) if field.name != "k" else inputs["k"]
    expected: Array = int8.expected({field.name: given[field.name] for field in int8.inputs})[0]
    return expected.astype(np.float64)


@OPS
@FORMS
def test_the_graph_means_what_the_reference_says(record: OpRecord, form: Int8Form) -> None:
    learners, inputs = in_form(record, form)
    assert learners.forms == {"y": form}
    kinds = [node.op_type for node in learners.model.graph.node]
    assert kinds == ["Cast", f"{record.name}{form.name}", "Cast"]
    stored = {weight.name: weight.data_type for weight in learners.model.graph.initializer}
    matrices = [field.name for field in record.inputs if len(field.axes) == 3]
    assert {stored[f"{name}_int8"] for name in matrices} == {onnx.TensorProto.INT8} and not set(matrices) & set(stored)
    wanted = reference(record, form, inputs)
    np.testing.assert_allclose(computed(learners, inputs), wanted, rtol=2e-3, atol=4e-3)
    for weight in learners.model.graph.initializer:
        if weight.name.endswith("_scale"):
            right = numpy_helper.to_array(weight)
            weight.CopyFrom(numpy_helper.from_array(right * np.float32(1.5), weight.name))
            with pytest.raises(AssertionError, match="Not equal to tolerance"):
                np.testing.assert_allclose(computed(learners, inputs), wanted, rtol=2e-3, atol=4e-3)
            weight.CopyFrom(numpy_helper.from_array(right, weight.name))


@FORMS
def test_forms_come_in_parts(form: Int8Form) -> None:
    record = RECORDS["ConditionalSwiGLU"]
    model = with_parts(in_form(record, form)[0].model)
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    int8 = INT8_RECORDS[f"{record.name}{form.name}"]
    assert [node.op_type for node in nodes] == [part.name for part in int8.parts]
    assert [len(node.input) for node in nodes] == [len(part.inputs) for part in int8.parts]
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    hidden = onnx.TensorProto.INT8 if form.activations else onnx.TensorProto.FLOAT16
    assert types[nodes[1].output[0]] == hidden and not model.functions


def test_numbers_beyond_half_precision_stay_in_float32() -> None:
    learners, inputs = in_form(RECORDS["ConditionalMLP"], W8A8, reach=1e5)
    assert learners.forms == {"y": None} and learners.number(None) == 1
    (wanted,) = RECORDS["ConditionalMLP"].expected(inputs)
    np.testing.assert_allclose(computed(learners, inputs), wanted, rtol=1e-4, atol=1e-4)


def test_bad_weights_are_one_line() -> None:
    record = RECORDS["ConditionalMLP"]
    inputs = record.make_inputs(record.cases[0], np.random.default_rng(1), "float32")
    model, _ = with_weights(record, {**inputs, "w2": np.full_like(inputs["w2"], np.nan)})
    ranges = dict.fromkeys(learner_tensors(model)["y"].widths, ActivationRange(-1.0, 1.0, 1.0, 1.0, 300))
    with pytest.raises(ExportError, match="got weights w2 with NaN .*, expected finite ones for int8; use --precision"):
        with_int8_learners(model, ranges, {})
    with pytest.raises(ExportError, match="whose weights w1 are computed, expected an initializer; export again"):
        learner_tensors(graph_of(record, inputs))


@pytest.fixture
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are prepared and not built; the tests' networks are narrower than what is worth computing in int8."""
    monkeypatch.setattr(nvidia_builder, "find_engine_api", lambda _: None)
    monkeypatch.setattr(int8_scales, "to_qdq", partial(to_qdq, least_width=6))
    monkeypatch.setattr(int8_scales, "byte_tensors", partial(byte_tensors, least_width=6))
    monkeypatch.setattr(activation_ranges, "FEWEST_ROWS", 8)


def built(folder: Path, plugins: str, version: str = "10.3") -> tuple[BuildReport, list[onnx.ModelProto]]:
    library = Path("libadaptrt_trt.so") if plugins == "library" else None
    settings = BuildSettings(
        "tensorrt", "int8", plugins=plugins, plugin_library=library, engine_version=version, max_quality_drop=0.25
    )
    report = build_target(folder, settings)
    assert build_target(folder, settings).reused
    return report, [onnx.load(str(report.folder / stage.prepared.file)) for stage in report.engines.stages]


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    return {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}


@pytest.mark.usefixtures("no_tensorrt")
def test_a_build_for_the_library(copied: Bundles) -> None:
    folder = copied("combined")
    report, graphs = built(folder, "library")
    assert (report.engines.plugins, report.engines.activations, report.engines.weight_bits) == ("library", "static", 8)
    assert report.quality is not None and report.quality.quality >= report.quality.reference_quality - 0.25
    assert "2 of 2 layers of learners have int8 activations (W8A8)" in report.notes
    plain = build_target(folder, BuildSettings("tensorrt", "int8", max_quality_drop=0.25, rebuild=True))
    for graph, stage in zip(graphs, plain.engines.stages, strict=True):
        assert {"ConditionalMLPW8A8"} <= {node.op_type for node in graph.graph.node} and not graph.functions
        assert "QuantizeLinear" in {node.op_type for node in graph.graph.node}  # dense layers, in pairs
        arrays = constants(graph)
        scales = [arrays[name] for node in graph.graph.node if node.op_type == "ConditionalMLPW8A8"
                  for name in node.input[-2:]]  # fmt: skip
        # Those of the pairs that the same layers have where there are no plugins.
        pairs = {float(array) for array in constants(onnx.load(str(plain.folder / stage.prepared.file))).values()
                 if array.dtype == np.float32 and array.ndim == 0}  # fmt: skip
        assert {float(number) for scale in scales for number in scale.ravel()} <= pairs


@pytest.mark.usefixtures("no_tensorrt")
def test_a_build_for_python_plugins(copied: Bundles) -> None:
    _, graphs = built(copied("combined"), "python")
    for graph in graphs:
        ops = {node.op_type for node in graph.graph.node if node.domain}
        assert ops == {"ConditionalMLPOrder", "ConditionalMLPUpW8A8", "ConditionalMLPDownW8A8"}


@pytest.mark.usefixtures("no_tensorrt")
def test_tensors_without_a_scale_leave_int8_weights(copied: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    even = int8_scales.even_scales

    def some(ranges: Any) -> dict[str, ByteScale]:
        return {name: scale for name, scale in even(ranges).items() if not name.endswith("hidden2")}

    monkeypatch.setattr(int8_scales, "even_scales", some)
    report, graphs = built(copied("combined"), "library")
    assert any("0 of 2 layers of learners" in note and "2 int8 weights alone (W8A16)" in note for note in report.notes)
    assert all("ConditionalMLPW8A16" in {node.op_type for node in graph.graph.node} for graph in graphs)


@pytest.mark.usefixtures("no_tensorrt")
def test_a_wrong_scale_is_refused_by_the_build(copied: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are ten times too large change the answers to the golden inputs, and nothing is written."""
    from adaptrt.export.targets import int8_learners

    def wrong(weight: Array) -> tuple[Array, Array]:
        values, scale = quantized_weights(weight)
        return values, scale * np.float32(10)

    monkeypatch.setattr(int8_learners, "quantized_weights", wrong)
    folder = copied("combined")
    settings = BuildSettings("tensorrt", "int8", plugins="python", max_quality_drop=0.02)
    with pytest.raises(ExportError, match="predicts .* expected at most 2.0% less .* nothing was written"):
        build_target(folder, settings)
    assert not (folder / "engines").exists()


@pytest.mark.usefixtures("no_tensorrt")
@pytest.mark.parametrize("version", ["10.3", "10.13"])
def test_nvidias_parser_asks_for_the_form(copied: Bundles, tmp_path: Path, version: str) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    report, _ = built(copied("combined"), "library", version)
    record = tmp_path / "record.jsonl"
    script = Path(__file__).with_name("parser_requests.py")
    # A graph whose SelectTokens stands first and has no plugin here ends there without bodies.
    asked = "ConditionalMLPW8A8" if version == "10.13" else "SelectTokens"
    command = [sys.executable, str(script), str(report.folder / "stage0.onnx"), str(record), f"{asked}@adaptrt@1"]
    subprocess.run(command, capture_output=True, timeout=300, check=False)  # it may end in the middle
    first = json.loads(record.read_text().splitlines()[0])
    assert first.get("asked") == f"{asked}@adaptrt@1", first
