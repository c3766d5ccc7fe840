"""What the TensorRT backend says and keeps when TensorRT or CUDA refuse, on the stand-in."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from adaptrt.runtime import BackendError, load
from adaptrt.runtime.backends import tensorrt_runtime
from tests.prepared_engines import prepare
from tests.runtime.tensorrt_bundles import build, draw, same

pytestmark = pytest.mark.usefixtures("trt")


def refused(folder, match, **keywords):
    with pytest.raises(BackendError, match=match) as caught:
        load(folder, backend="tensorrt", **keywords)
    assert "\n" not in str(caught.value)


def test_an_engine_of_another_version(tiny):
    build(tiny, engine_version="10.3.0.26")
    refused(tiny, r"built by version 10\.3\.0\.26, expected 10\.13\.3\.9.*run `adaptrt build .* --target tensorrt`")


def test_an_engine_for_another_gpu(tiny):
    build(tiny, arch="110", plugins="python", precision="fp16")
    refused(tiny, r"capability 110, expected 87.* --target tensorrt --precision fp16 --plugins python --arch 87`")


def test_prepared_without_an_engine(tiny):
    prepare(tiny, "tensorrt", convert=lambda model: model)
    refused(tiny, r"no engine was built.*run `adaptrt build .* --target tensorrt`")


def test_an_engine_that_tensorrt_refuses(engines, trt):
    trt.refuse = True
    refused(engines, r"TensorRT 10\.13\.3\.9 refuses the engine \(engine plan file is not compatible\)")


def test_no_memory_for_a_context(engines, trt, x):
    model = load(engines, backend="tensorrt")
    trt.no_context = True
    with pytest.raises(BackendError, match=r"makes no execution context \(out of memory\); free memory"):
        model.run({"x": x})
    trt.no_context = False
    assert model.run({"x": x}).outputs


def test_execution_fails(engines, trt, x):
    model = load(engines, backend="tensorrt")
    for _ in range(3):
        trt.fail = True
        with pytest.raises(
            BackendError, match=r"failed on x \[32, 4\], price \[1\] \(.*returned false; enqueue failed\)"
        ):
            model.backend.run({"x": x, "price": np.zeros(1, np.float32)})
        trt.fail = False
        same(model.run({"x": x}), load(engines).run({"x": x}))
        model = load(engines, backend="tensorrt")


def test_an_error_on_the_device_is_raised_where_it_is_waited_for(engines, cuda, x):
    model = load(engines, backend="tensorrt")
    model.run({"x": x})
    cuda.broken = True
    with pytest.raises(BackendError, match="cudaEventSynchronize: cudaErrorIllegalAddress"):
        model.run({"x": x})


@pytest.mark.parametrize("bundle", ["tiny", "tokens"])  # sizes known beforehand, and not
def test_no_memory_on_the_device(request, cuda, bundle):
    folder = build(request.getfixturevalue(bundle))
    model, portable = load(folder, backend="tensorrt"), load(folder)
    arrays = draw(model, 2)
    same(model.run(arrays), portable.run(arrays))
    cuda.capacity = cuda.used()
    with pytest.raises(BackendError, match=r"cudaMalloc: cudaErrorMemoryAllocation.*; feed a smaller batch"):
        model.run(draw(model, 60))
    same(model.run(arrays), portable.run(arrays))


def test_idle_memory_is_freed_before_giving_up(engines, cuda):
    model, portable = load(engines, backend="tensorrt"), load(engines)
    for batch in (2, 8, 32):
        model.run(draw(model, batch))
    cuda.capacity = cuda.used() + 512
    arrays = draw(model, 40)
    same(model.run(arrays), portable.run(arrays))
    assert "free" in cuda.calls


def test_no_device(engines, cuda):
    cuda.devices = 0
    refused(engines, r"no CUDA device was found \(cudaGetDeviceCount: cudaErrorInsufficientDriver\)")


@pytest.mark.usefixtures("cuda")
def test_without_tensorrt(tiny, monkeypatch):
    for name in ("tensorrt", "tensorrt_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    build(tiny)
    refused(tiny, "tensorrt cannot be imported .*install it")


def test_without_cuda_bindings(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    build(tiny)
    refused(tiny, r"cuda\.bindings cannot be imported .*install cuda-bindings")


def test_a_type_that_numpy_lacks(tiny, monkeypatch):
    build(tiny)
    monkeypatch.setattr("tests.runtime.tensorrt_stand_in._TYPES", {"tensor(float)": "BF16"})
    refused(tiny, "'x' is BF16, expected a type that numpy has")


class TestPluginLibrary:
    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch):
        monkeypatch.setattr(tensorrt_runtime, "_LOADED", set())

    @pytest.fixture
    def library(self, tmp_path):
        file = tmp_path / "libadaptrt_trt.so"
        file.write_bytes(b"\x7fELF")
        return file

    def test_is_loaded_once(self, tiny, trt, library, x):
        build(tiny, plugins="library")
        for _ in range(2):
            model = load(tiny, backend="tensorrt", plugin_library=library)
        assert trt.libraries == [str(library)]
        assert model.run({"x": x}).outputs

    def test_is_not_loaded_where_it_is_not_needed(self, engines, trt, library):
        load(engines, backend="tensorrt", plugin_library=library)
        assert trt.libraries == []

    def test_must_be_named(self, tiny):
        build(tiny, plugins="library")
        refused(tiny, "built with --plugins library, expected the library of adaptrt's plugins; pass plugin_library")

    def test_must_be_there(self, tiny, tmp_path):
        build(tiny, plugins="library")
        refused(tiny, "no file .*nowhere.so", plugin_library=tmp_path / "nowhere.so")

    def test_must_load(self, tiny, trt, library):
        trt.library_loads = False
        build(tiny, plugins="library")
        refused(tiny, "does not load it .*expected plugins made for this version", plugin_library=library)


def test_wrong_settings(engines):
    refused(engines, "precision='bf16', expected 'fp16', 'fp32', 'int8' or 'fp8'", precision="bf16")
    refused(engines, "they are ONNX Runtime's", providers=["CUDAExecutionProvider"])
