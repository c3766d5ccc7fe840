"""The stand-in's calls against those of the real modules, so that it cannot drift from what it stands for."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

from adaptrt.runtime import BackendError, load
from adaptrt.runtime.backends.cuda import CudaError
from adaptrt.runtime.backends.tensorrt_execution import _allocator_class
from adaptrt.runtime.backends.tensorrt_runtime import _log_class
from tests.prepared_engines import prepare
from tests.runtime import cuda_stand_in
from tests.runtime import tensorrt_stand_in as stand_in

CLASSES = ("Runtime", "ICudaEngine", "IExecutionContext", "IPluginRegistry", "IRuntimeConfig", "ILogger")
STAND_INS_OWN = {
    "Runtime": set(),
    "ICudaEngine": {"trt", "logger", "session", "input_nodes", "output_nodes", "nodes"},
    "IExecutionContext": set(),
    "IPluginRegistry": set(),
    "IRuntimeConfig": set(),
    "ILogger": {"ready"},
}


@pytest.fixture(scope="module")
def rtx():
    return pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX's wheels are not installed")


@pytest.fixture(scope="module")
def runtime():
    return pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")


def parameters(documented: str, name: str) -> list[list[str]]:
    """Names of the parameters of every overload in a docstring, ``self`` left out."""
    found = []
    for text in re.findall(rf"(?:^|\s){name}\(([^\n]*)\)(?: ->|$|\n)", documented):
        names = [part.partition(":")[0].partition("=")[0].strip() for part in split(text)]
        found.append([part.split()[-1] for part in names if part and part not in {"self", "*args", "**kwargs"}])
    return found


def split(text: str) -> list[str]:
    """At the commas that are in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += character in "([<"
        depth -= character in ")]>"
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def own_methods(kind: type) -> dict[str, list[str]]:
    methods = {}
    for name, method in vars(kind).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            methods[name] = [parameter for parameter in inspect.signature(method).parameters if parameter != "self"]
    return methods


def differences(ours: dict[str, list[str]], real: object) -> list[str]:
    """Methods that the real class lacks, or whose parameters go by other names there."""
    found = []
    for name, names in ours.items():
        there = getattr(real, name, None)
        if there is None:
            found.append(f"no {name}")
        elif names not in (overloads := parameters(there.__doc__ or "", name)):
            found.append(f"{name}{names} is none of {overloads}")
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_tensorrt_has_every_method_of_the_stand_in(rtx, name):
    kind, real = getattr(stand_in, name), getattr(rtx, name)
    assert differences(own_methods(kind), real) == []


@pytest.mark.parametrize("name", ["ICudaEngine", "IRuntimeConfig"])
def test_tensorrt_has_every_attribute_of_the_stand_in(rtx, name):
    source = inspect.getsource(getattr(stand_in, name))
    attributes = {found for found in re.findall(r"self\.(\w+)(?:, self\.\w+)* =", source) if not found.startswith("_")}
    missing = attributes - STAND_INS_OWN[name] - set(dir(getattr(rtx, name)))
    assert missing == set()


def test_the_comparison_can_fail(rtx):
    assert differences({"execute_async_v3": ["stream"]}, rtx.IExecutionContext)
    assert differences({"execute_async_v9": []}, rtx.IExecutionContext) == ["no execute_async_v9"]
    assert not differences({"execute_async_v3": ["stream_handle"]}, rtx.IExecutionContext)


def test_enumerations_have_the_names_used(rtx):
    for ours, real in (
        (stand_in.TensorRT.TensorIOMode, rtx.TensorIOMode),
        (stand_in.TensorRT.TensorLocation, rtx.TensorLocation),
        (stand_in.ILogger.Severity, rtx.ILogger.Severity),
    ):
        assert {member.name: member.value for member in ours} == {
            name: member.value for name, member in real.__members__.items()
        }
    types = set(rtx.DataType.__members__)
    assert set(stand_in._NUMPY) | {"BF16"} <= types
    assert {"DISABLED", "WHOLE_GRAPH_CAPTURE"} <= set(rtx.CudaGraphStrategy.__members__)
    assert hasattr(rtx, "get_plugin_registry")


def test_methods_that_tensorrt_calls_have_its_names(rtx):
    """Overridden in Python, they are looked up by name from C++; the names stand in the library."""
    library = next(Path(rtx.__file__).parent.glob("tensorrt_rtx*.so")).read_bytes()
    for name in ("reallocate_output_async", "reallocate_output", "notify_shape"):
        assert name.encode() in library
        assert hasattr(_allocator_class(rtx, None), name)
    assert b"reallocate_output_asynchronously" not in library


def test_our_classes_are_tensorrts(rtx):
    class Device:
        def allocate(self, _size):
            raise CudaError("none left", out_of_memory=True)

    allocator = _allocator_class(rtx, Device())()
    assert isinstance(allocator, rtx.IOutputAllocator)
    assert allocator.reallocate_output_async("y", 0, 64, 256, 0) == 0
    assert allocator.error.out_of_memory
    allocator.notify_shape("y", rtx.Dims([2, 3]))
    assert allocator.shape == (2, 3)
    log = _log_class(rtx)()
    assert isinstance(log, rtx.ILogger)
    log.log(rtx.ILogger.Severity.ERROR, "one\ntwo")
    log.log(rtx.ILogger.Severity.WARNING, "three")
    assert log.said() == "one two"


def test_cuda_has_every_function_of_the_stand_in(runtime):
    ours = {name: names for name, names in own_methods(cuda_stand_in.Cuda).items() if name.startswith("cuda")}
    assert len(ours) > 20
    assert differences(ours, runtime) == []


def test_cuda_has_every_constant_of_the_stand_in(runtime):
    for error in cuda_stand_in.Error:
        assert int(getattr(runtime.cudaError_t, error.name)) == error
    for name in ("cudaMemcpyKind", "cudaDeviceAttr", "cudaStreamCaptureMode"):
        for member in getattr(cuda_stand_in.Cuda, name):
            assert int(getattr(getattr(runtime, name), member.name)) == member
    for name in ("cudaStreamNonBlocking", "cudaEventDisableTiming", "cudaHostAllocDefault"):
        assert int(getattr(runtime, name)) == getattr(cuda_stand_in.Cuda, name)


def test_a_real_engine_as_far_as_this_machine_goes(rtx, runtime, tiny, x):
    """Built for the GPU that is here and run on it; where there is none the real modules say so."""

    def build(model: bytes) -> bytes:
        log = _log_class(rtx)()
        builder = rtx.Builder(log)
        network, config = builder.create_network(0), builder.create_builder_config()
        parser = rtx.OnnxParser(network, log)
        assert parser.parse(model), log.said()
        profile = builder.create_optimization_profile()
        profile.set_shape("x", (1, 4), (8, 4), (64, 4))
        config.add_optimization_profile(profile)
        config.num_compute_capabilities = 1
        config.set_compute_capability(rtx.ComputeCapability.SM89, 0)
        engine = builder.build_serialized_network(network, config)
        assert engine is not None, log.said()
        return bytes(engine)

    pytest.importorskip("onnx", reason="onnx is not installed")
    prepare(tiny, "tensorrt-rtx", build=build, engine_version=rtx.__version__, arch="89")
    error, count = runtime.cudaGetDeviceCount()
    if not error and count:
        major, minor = (runtime.cudaDeviceGetAttribute(runtime.cudaDeviceAttr(75 + n), 0)[1] for n in (0, 1))
        if (major, minor) == (8, 9):
            model = load(tiny, backend="tensorrt-rtx")
            expected = load(tiny).run({"x": x})
            for _ in range(3):
                np.testing.assert_allclose(model.run({"x": x}).outputs["logits"], expected.outputs["logits"], atol=1e-4)
            return
        with pytest.raises(BackendError, match="built for compute capability 89"):
            load(tiny, backend="tensorrt-rtx")
        return
    with pytest.raises(BackendError, match="no CUDA device was found"):
        load(tiny, backend="tensorrt-rtx")
