"""Which backend ``load(..., backend="auto")`` takes, and what it says about it."""

from __future__ import annotations

import numpy as np
import pytest

from adaptrt.runtime import BackendError, BundleError, load
from adaptrt.runtime.backends.selection import BACKENDS
from tests.prepared_engines import prepare, require_openvino
from tests.runtime.tensorrt_bundles import build


@pytest.fixture
def openvino():
    require_openvino()
    pytest.importorskip("onnx", reason="preparing a graph for OpenVINO takes onnx, which is not installed")


def test_without_engines_it_is_onnx_runtime(tiny):
    model = load(tiny, backend="auto")
    assert model.backend_name == "onnxruntime"
    assert model.backend_reason == (
        "it runs every bundle (tensorrt: nothing built for it; tensorrt-rtx: nothing built for it; "
        "openvino: nothing built for it)"
    )


@pytest.mark.usefixtures("trt")
def test_it_is_onnx_runtime_unless_told_otherwise(tiny):
    build(tiny)
    model = load(tiny)
    assert (model.backend_name, model.backend_reason) == ("onnxruntime", "it was asked for")


@pytest.mark.usefixtures("trt", "openvino")
def test_an_engine_for_this_gpu_comes_first(tiny, x):
    build(tiny)
    prepare(tiny)
    model = load(tiny, backend="auto")
    assert model.backend_name == "tensorrt"
    assert model.backend_reason == "the bundle has an engine for this TensorRT and this GPU"
    np.testing.assert_array_equal(model.run({"x": x}).outputs["logits"], load(tiny).run({"x": x}).outputs["logits"])


@pytest.mark.usefixtures("openvino")
def test_openvino_comes_before_onnx_runtime(tiny):
    prepare(tiny)
    model = load(tiny, backend="auto")
    assert model.backend_name == "openvino"
    assert model.backend_reason.startswith("the bundle is prepared for OpenVINO, which is installed (tensorrt:")


@pytest.mark.usefixtures("trt", "openvino")
def test_an_engine_that_cannot_run_here_is_passed_over_and_why(tiny):
    build(tiny, arch="110")
    prepare(tiny)
    model = load(tiny, backend="auto")
    assert model.backend_name == "openvino"
    assert (
        "built for compute capability 110, expected 87, which this GPU has; run `adaptrt build" in model.backend_reason
    )


def test_no_device_is_said(tiny, trt):
    build(tiny)
    trt.cuda.devices = 0
    model = load(tiny, backend="auto")
    assert model.backend_name == "onnxruntime"
    assert "tensorrt: no CUDA device was found" in model.backend_reason


@pytest.mark.usefixtures("trt")
def test_engines_of_an_earlier_export_are_passed_over(tiny, replace_model):
    build(tiny)
    replace_model(tiny, (tiny / "model.onnx").read_bytes() + b"\x0a\x00")
    model = load(tiny, backend="auto")
    assert model.backend_name == "onnxruntime"
    assert "exported again since" in model.backend_reason


@pytest.mark.usefixtures("trt")
def test_named_it_never_falls_back(tiny):
    build(tiny, engine_version="10.3.0.26")
    with pytest.raises(BackendError, match=r"built by version 10\.3\.0\.26"):
        load(tiny, backend="tensorrt")
    with pytest.raises(BundleError, match="no engines/openvino-fp32 in .*, expected it for backend 'openvino'"):
        load(tiny, backend="openvino")
    with pytest.raises(BundleError, match=r"engines/tensorrt-rtx-fp32.*run `adaptrt build .* --target tensorrt-rtx`"):
        load(tiny, backend="tensorrt-rtx")


@pytest.mark.usefixtures("trt")
def test_half_precision_is_taken_where_it_was_built(tiny):
    build(tiny)
    build(tiny, precision="fp16")
    assert "tensorrt-fp16" in str(load(tiny, backend="tensorrt").backend._program.file)
    assert "tensorrt-fp32" in str(load(tiny, backend="tensorrt", precision="fp32").backend._program.file)


@pytest.mark.usefixtures("trt")
def test_providers_are_onnx_runtimes(tiny):
    build(tiny)
    model = load(tiny, backend="auto", providers=["CPUExecutionProvider"])
    assert model.backend_name == "onnxruntime"
    assert "providers were named" in model.backend_reason


def test_a_precision_that_nothing_has(tiny):
    with pytest.raises(BackendError, match="no backend can run .*onnxruntime: got precision='fp16'") as caught:
        load(tiny, backend="auto", precision="fp16")
    assert "\n" not in str(caught.value)


def test_a_damaged_bundle_is_no_matter_of_choice(tiny):
    (tiny / "model.onnx").write_bytes((tiny / "model.onnx").read_bytes() + b"\0")
    with pytest.raises(BundleError, match="was changed or damaged"):
        load(tiny, backend="auto")


def test_names_are_listed(tiny):
    with pytest.raises(BackendError) as caught:
        load(tiny, backend="onnx")
    for name in (*BACKENDS, "auto"):
        assert repr(name) in str(caught.value)
