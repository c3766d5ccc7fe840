"""The TensorRT backend against the stand-in: what it enqueues, in which order, and that it frees all of it."""

from __future__ import annotations

import gc
import sys
import threading

import numpy as np
import pytest

from adaptrt.runtime import BackendError, load
from adaptrt.runtime.backends import tensorrt_runtime
from tests.prepared_engines import prepare
from tests.runtime.tensorrt_stand_in import MAGIC, Cuda, TensorRT

VERSION = "10.13.3.9"
PRICES = (0.0, 0.1, 0.3, 0.6, 1.0)


@pytest.fixture
def cuda(monkeypatch):
    made = Cuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", made)
    return made


@pytest.fixture
def trt(monkeypatch, cuda):
    made = TensorRT(cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", made)
    return made


def build(folder, target="tensorrt", precision="fp32", **changes):
    """Put engines into a bundle, made of its own graphs."""
    changes = {"engine_version": VERSION, "arch": "87", **changes}
    prepare(folder, target, precision, convert=lambda model: model, build=lambda model: MAGIC + model, **changes)
    return folder


@pytest.fixture
def engines(tiny, trt):
    return build(tiny)


def draw(model, batch, seed=0):
    generator = np.random.default_rng(seed)
    arrays = {}
    for spec in model.bundle.inputs:
        shape = [size if isinstance(size, int) else batch if place == 0 else 7 for place, size in enumerate(spec.shape)]
        if spec.dtype == "bool":
            arrays[spec.name] = np.ones(shape, bool)
        elif np.dtype(spec.dtype).kind == "f":
            arrays[spec.name] = generator.standard_normal(shape).astype(spec.dtype)
        else:
            arrays[spec.name] = generator.integers(0, 5, shape).astype(spec.dtype)
    return arrays


def settings(model):
    for price in PRICES:
        knobs = {k.name: price * min(k.maximum, 1.0) for k in model.bundle.knobs if "price" in k.name}
        if any(knob.name == "exit_thresholds" for knob in model.bundle.knobs):
            knobs["exit_thresholds"] = 0.35 + 0.1 * price
        yield knobs


def same(ours, theirs):
    """The stand-in computes with ONNX Runtime, so nothing may differ at all."""
    assert ours.outputs.keys() == theirs.outputs.keys() and ours.outputs
    for name, array in theirs.outputs.items():
        np.testing.assert_array_equal(ours.outputs[name], array)
        assert ours.outputs[name].dtype == array.dtype
    np.testing.assert_array_equal(ours.macs_fraction, theirs.macs_fraction)
    if theirs.exit is not None:
        np.testing.assert_array_equal(ours.exit, theirs.exit)


def test_the_comparison_can_fail(engines):
    model = load(engines, backend="tensorrt")
    with pytest.raises(AssertionError):
        same(model.run(draw(model, 3, 1)), model.run(draw(model, 3, 2)))


@pytest.mark.parametrize("bundle", ["tiny", "exits", "tokens"])
@pytest.mark.parametrize("batch", [1, 5])
def test_computes_what_the_graph_computes(request, trt, bundle, batch):
    folder = build(request.getfixturevalue(bundle))
    portable, model = load(folder, threads=1), load(folder, backend="tensorrt")
    for turn in range(3):  # the first call of a shape, the one that records it, and one that launches it
        for seed, knobs in enumerate(settings(portable)):
            arrays = draw(portable, batch, 10 * turn + seed)
            same(model.run(arrays, knobs=knobs), portable.run(arrays, knobs=knobs))
    assert model.backend_name == "tensorrt"


def test_decisions_come_out_alike(tokens, trt):
    build(tokens)
    portable, model = load(tokens), load(tokens, backend="tensorrt")
    arrays = draw(portable, 3)
    ours, theirs = model.run(arrays, decisions=True).decisions, portable.run(arrays, decisions=True).decisions
    np.testing.assert_array_equal(ours.learners, theirs.learners)
    np.testing.assert_array_equal(ours.kept, theirs.kept)


def test_shapes_that_come_back_are_recorded_and_launched(engines, trt, cuda, x):
    model = load(engines, backend="tensorrt")
    for _ in range(5):
        model.run({"x": x})
    assert cuda.calls.count("captured") == 1
    assert cuda.calls.count("launch") == 3
    # Executed without a graph, executed before the capture, and captured.
    assert cuda.calls.count("execute") == 3
    assert trt.contexts == 2


def test_a_recording_takes_each_calls_own_inputs(engines, trt, cuda):
    portable, model = load(engines), load(engines, backend="tensorrt")
    for seed in range(6):
        arrays = draw(portable, 4, seed)
        same(model.run(arrays, knobs={"price": 0.1 * seed}), portable.run(arrays, knobs={"price": 0.1 * seed}))
    assert cuda.calls.count("launch") == 4


def test_only_some_shapes_stay_recorded(engines, trt, cuda, x):
    model, portable = load(engines, backend="tensorrt"), load(engines)
    for _ in range(3):
        for batch in range(1, 9):
            same(model.run({"x": x[:batch]}), portable.run({"x": x[:batch]}))
    backend = model.backend
    assert len(backend._recorded) == 4
    gc.collect()
    assert cuda.left()["objects"] < 40


def test_buffers_are_allocated_once_and_grow(engines, trt, cuda, x):
    model = load(engines, backend="tensorrt")
    for _ in range(3):
        model.run({"x": x})
    before = cuda.calls.count("malloc"), len(cuda.pinned)
    for _ in range(20):
        model.run({"x": x})
    assert (cuda.calls.count("malloc"), len(cuda.pinned)) == before
    model.run({"x": np.concatenate([x, x])})
    assert cuda.calls.count("malloc") > before[0]


def test_values_stay_on_the_device_between_stages(exits, trt, cuda):
    build(exits)
    model = load(exits, backend="tensorrt")
    arrays = draw(model, 1)
    model.run(arrays)
    for _ in range(3):
        cuda.calls.clear()
        model.run(arrays)  # thresholds at their maximum: nobody can leave, nothing is looked at
        stages = [place for place, call in enumerate(cuda.calls) if call in {"execute", "launch"}]
        assert len(stages) >= len(model.backends)
        assert "to host" not in cuda.calls[: stages[-1]]
        assert "wait" not in cuda.calls[: stages[-1]]
        assert cuda.calls[stages[-1] :].count("to host") == len(model.bundle.outputs)


def test_a_stage_that_may_be_left_copies_its_confidence_only(exits, trt, cuda):
    build(exits)
    model = load(exits, backend="tensorrt")
    arrays = draw(model, 1)
    knob = next(knob for knob in model.bundle.knobs if knob.name == "exit_thresholds")
    never = float(np.nextafter(np.float32(knob.maximum), np.float32(0)))
    model.run(arrays, knobs={"exit_thresholds": never})
    cuda.calls.clear()
    result = model.run(arrays, knobs={"exit_thresholds": never})
    assert result.exit.tolist() == [len(model.backends) - 1]
    assert cuda.calls.count("to host") == len(model.backends) - 1 + len(model.bundle.outputs)


def test_everything_is_freed_with_the_model(exits, trt, cuda):
    build(exits)
    model = load(exits, backend="tensorrt")
    arrays = draw(model, 3)
    for knobs in [*settings(model)] * 3:
        result = model.run(arrays, knobs=knobs)
    assert cuda.left()["memory"] and cuda.left()["pinned"]
    expected = {name: array.copy() for name, array in result.outputs.items()}
    del model
    gc.collect()
    assert cuda.left() == {"memory": 0, "pinned": 0, "objects": 0}
    for name, array in result.outputs.items():
        np.testing.assert_array_equal(array, expected[name])


def test_many_threads_each_get_their_own_answer(exits, trt):
    build(exits)
    portable, model = load(exits, threads=1), load(exits, backend="tensorrt")
    work = [(draw(portable, 1 + seed % 3, seed), knobs) for seed, knobs in enumerate([*settings(portable)] * 6)]
    expected = [portable.run(arrays, knobs=knobs) for arrays, knobs in work]
    errors, done = [], []
    start = threading.Barrier(4)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def run(turn):
        try:
            start.wait()
            for number in range(turn, len(work), 2):
                same(model.run(work[number][0], knobs=work[number][1]), expected[number])
                done.append(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(turn % 2,)) for turn in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors
    assert len(done) == 2 * len(work)


def test_an_input_wanted_on_the_host(engines, trt, x):
    trt.host = {"price"}
    portable, model = load(engines), load(engines, backend="tensorrt")
    for price in PRICES:
        same(model.run({"x": x}, knobs={"price": price}), portable.run({"x": x}, knobs={"price": price}))


def test_an_output_wanted_on_the_host(engines, trt, x):
    trt.host = {"macs_fraction"}
    model, portable = load(engines, backend="tensorrt"), load(engines)
    same(model.run({"x": x}), portable.run({"x": x}))


def test_what_cannot_be_captured_runs_without_a_graph(engines, trt, cuda, x):
    trt.capturable = False
    model, portable = load(engines, backend="tensorrt"), load(engines)
    for _ in range(4):
        same(model.run({"x": x}), portable.run({"x": x}))
    assert "launch" not in cuda.calls
    assert cuda.calls.count("execute") == 4


def test_profiles_over_the_batch(engines, trt, x):
    trt.profiles = [(1, 4), (5, 32)]
    model, portable = load(engines, backend="tensorrt"), load(engines)
    for batch in (1, 4, 5, 32):
        same(model.run({"x": x[:batch]}), portable.run({"x": x[:batch]}))
    with pytest.raises(BackendError, match=r"got x \[33, 4\].* built for: x \[1, 4\] to \[4, 4\] or x \[5, 4\] to \["):
        model.run({"x": np.zeros((33, 4), np.float32)})
    same(model.run({"x": x}), portable.run({"x": x}))


def test_tensorrt_rtx_records_by_itself(tiny, monkeypatch, cuda, x):
    rtx = TensorRT(cuda, rtx=True)
    rtx.__version__ = "1.7.1.116"
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", rtx)
    build(tiny, "tensorrt-rtx", engine_version="1.7.1.116", arch="86 87 89")
    model, portable = load(tiny, backend="tensorrt-rtx"), load(tiny)
    for _ in range(4):
        same(model.run({"x": x}), portable.run({"x": x}))
    assert "captured" not in cuda.calls
    assert model.backend_name == "tensorrt-rtx"


def refused(folder, match, **keywords):
    with pytest.raises(BackendError, match=match) as caught:
        load(folder, backend="tensorrt", **keywords)
    assert "\n" not in str(caught.value)


def test_an_engine_of_another_version(tiny, trt):
    build(tiny, engine_version="10.3.0.26")
    refused(tiny, r"built by version 10\.3\.0\.26, expected 10\.13\.3\.9.*run `adaptrt build .* --target tensorrt`")


def test_an_engine_for_another_gpu(tiny, trt):
    build(tiny, arch="110", plugins="python", precision="fp16")
    refused(tiny, r"capability 110, expected 87.* --target tensorrt --precision fp16 --plugins python` --arch 87")


def test_prepared_without_an_engine(tiny, trt):
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


def test_an_error_on_the_device_is_raised_where_it_is_waited_for(engines, cuda, trt, x):
    model = load(engines, backend="tensorrt")
    model.run({"x": x})
    cuda.broken = True
    with pytest.raises(BackendError, match="cudaEventSynchronize: cudaErrorIllegalAddress"):
        model.run({"x": x})


@pytest.mark.parametrize("bundle", ["tiny", "tokens"])  # sizes known beforehand, and not
def test_no_memory_on_the_device(request, trt, cuda, bundle):
    folder = build(request.getfixturevalue(bundle))
    model, portable = load(folder, backend="tensorrt"), load(folder)
    arrays = draw(model, 2)
    same(model.run(arrays), portable.run(arrays))
    cuda.capacity = cuda.used()
    with pytest.raises(BackendError, match=r"cudaMalloc: cudaErrorMemoryAllocation.*; feed a smaller batch"):
        model.run(draw(model, 60))
    same(model.run(arrays), portable.run(arrays))


def test_idle_memory_is_freed_before_giving_up(engines, trt, cuda):
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


def test_without_tensorrt(tiny, cuda, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    build(tiny)
    refused(tiny, "tensorrt cannot be imported .*install it")


def test_without_cuda_bindings(tiny, trt, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    build(tiny)
    refused(tiny, r"cuda\.bindings cannot be imported .*install cuda-bindings")


def test_a_type_that_numpy_lacks(tiny, trt, monkeypatch):
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

    def test_must_be_named(self, tiny, trt):
        build(tiny, plugins="library")
        refused(tiny, "built with --plugins library, expected the library of adaptrt's plugins; pass plugin_library")

    def test_must_be_there(self, tiny, trt, tmp_path):
        build(tiny, plugins="library")
        refused(tiny, "no file .*nowhere.so", plugin_library=tmp_path / "nowhere.so")

    def test_must_load(self, tiny, trt, library):
        trt.library_loads = False
        build(tiny, plugins="library")
        refused(tiny, "does not load it .*expected plugins made for this version", plugin_library=library)


def test_wrong_settings(engines):
    refused(engines, "precision='bf16', expected 'fp16' or 'fp32'", precision="bf16")
    refused(engines, "they are ONNX Runtime's", providers=["CUDAExecutionProvider"])
