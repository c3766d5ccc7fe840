"""The TensorRT backend against the stand-in: what it enqueues, in which order, and that it frees all of it."""

from __future__ import annotations

import gc
import sys
import threading

import numpy as np
import pytest

from adaptrt.runtime import BackendError, load
from tests.runtime.tensorrt_bundles import PRICES, VERSION, build, draw, same, settings
from tests.runtime.tensorrt_stand_in import TensorRT

pytestmark = pytest.mark.usefixtures("trt")


def test_the_comparison_can_fail(engines):
    model = load(engines, backend="tensorrt")
    with pytest.raises(AssertionError):
        same(model.run(draw(model, 3, 1)), model.run(draw(model, 3, 2)))


@pytest.mark.parametrize("bundle", ["tiny", "exits", "tokens"])
@pytest.mark.parametrize("batch", [1, 5])
def test_computes_what_the_graph_computes(request, bundle, batch):
    folder = build(request.getfixturevalue(bundle))
    portable, model = load(folder, threads=1), load(folder, backend="tensorrt")
    for turn in range(3):  # the first call of a shape, the one that records it, and one that launches it
        for seed, knobs in enumerate(settings(portable)):
            arrays = draw(portable, batch, 10 * turn + seed)
            same(model.run(arrays, knobs=knobs), portable.run(arrays, knobs=knobs))
    assert model.backend_name == "tensorrt"


def test_a_profile_of_one_precision_is_not_taken_for_another(tiny):
    versions = set()
    for precision in ("fp32", "fp16"):
        build(tiny, precision=precision)
        versions.add(load(tiny, backend="tensorrt", precision=precision).backend.engine_version)
    assert versions == {f"TensorRT {VERSION} {precision}, plugins: none" for precision in ("fp32", "fp16")}


def test_decisions_come_out_alike(tokens):
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


def test_a_recording_takes_each_calls_own_inputs(engines, cuda):
    portable, model = load(engines), load(engines, backend="tensorrt")
    for seed in range(6):
        arrays = draw(portable, 4, seed)
        same(model.run(arrays, knobs={"price": 0.1 * seed}), portable.run(arrays, knobs={"price": 0.1 * seed}))
    assert cuda.calls.count("launch") == 4


def test_only_some_shapes_stay_recorded(engines, cuda, x):
    model, portable = load(engines, backend="tensorrt"), load(engines)
    for _ in range(3):
        for batch in range(1, 9):
            same(model.run({"x": x[:batch]}), portable.run({"x": x[:batch]}))
    backend = model.backend
    assert len(backend._recorded) == 4
    gc.collect()
    assert cuda.left()["objects"] < 40


def test_buffers_are_allocated_once_and_grow(engines, cuda, x):
    model = load(engines, backend="tensorrt")
    for _ in range(3):
        model.run({"x": x})
    before = cuda.calls.count("malloc"), len(cuda.pinned)
    for _ in range(20):
        model.run({"x": x})
    assert (cuda.calls.count("malloc"), len(cuda.pinned)) == before
    model.run({"x": np.concatenate([x, x])})
    assert cuda.calls.count("malloc") > before[0]


def test_values_stay_on_the_device_between_stages(exits, cuda):
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


def test_a_stage_that_may_be_left_copies_its_confidence_only(exits, cuda):
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


def test_everything_is_freed_with_the_model(exits, cuda):
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


def test_many_threads_each_get_their_own_answer(exits):
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
