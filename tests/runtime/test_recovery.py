"""After a call that failed the next good one is answered rightly, on every backend; another size is no answer."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import adaptrt
from adaptrt.runtime import BackendError, load
from tests.prepared_engines import prepare, require_openvino
from tests.runtime.test_stages import exits_inputs, rows

pytestmark = pytest.mark.slow("starts interpreters")

FIXTURES = Path(__file__).parent / "fixtures"
SOURCE = Path(adaptrt.__file__).parent.parent

RAN_OUT = """
import resource, sys
import numpy as np
from adaptrt.runtime import BackendError, load

folder, backend = sys.argv[1:]
model = load(folder, threads=1, backend=backend)
generator = np.random.default_rng(0)
batches = {size: generator.standard_normal((size, 4)).astype(np.float32) for size in (1, 3, 64)}
expected = {size: model.run({"x": x}) for size, x in batches.items()}
large = np.zeros((2**23, 4), np.float32)
recovered = 0
for round in range(20):
    size = (3, 64, 1)[round % 3]
    model.run({"x": batches[size]})
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    limit = int(status["VmSize"].split()[0]) * 1024 + large.nbytes // 4
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        model.run({"x": large})
    except BackendError as error:
        assert "failed on x [8388608, 4]" in str(error), error
    else:
        sys.exit("the large batch ran; the limit is too high")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for again in (size, size, 3, size):
        result = model.run({"x": batches[again]})
        assert np.array_equal(result.outputs["logits"], expected[again].outputs["logits"]), again
        assert np.array_equal(result.macs_fraction, expected[again].macs_fraction), again
    recovered += 1
print("recovered", recovered)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited as Linux does")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_memory_ran_out_twenty_times(tiny, backend):
    if backend == "openvino":
        require_openvino()
        prepare(tiny)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONOPTIMIZE": ""}  # its assertions count
    command = [sys.executable, "-c", RAN_OUT, str(tiny), backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert (done.returncode, done.stdout) == (0, "recovered 20\n"), done.stderr[-2000:]


INTERRUPTED = """
import random, signal, sys, time
import numpy as np
from adaptrt.runtime import load
class Interrupt(BaseException): pass
def handler(*_): raise Interrupt
folder, backend = sys.argv[1:]
model = load(folder, threads=1, backend=backend)
generator = np.random.default_rng(0)
inputs = [{"x": generator.standard_normal((rows, 6)).astype(np.float32),
           "hint": generator.standard_normal((rows, 2)).astype(np.float32),
           "scale": np.ones(1, np.float32)} for rows in (1, 1, 5)]
expected = [model.run(each).outputs["logits"] for each in inputs]
signal.signal(signal.SIGALRM, handler)
usual = 1.0
for _ in range(5):  # a single one may have had to wait for the machine
    begun = time.perf_counter(); model.run(inputs[0]); usual = min(usual, time.perf_counter() - begun)
interrupted = 0
for number in range(20_000):
    if number >= 1500 and interrupted > 100:
        break
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 1.5 * usual))
        try:
            model.run(inputs[number % 3])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupt:
        interrupted += 1
    try:
        found = model.run(inputs[(number + 1) % 3]).outputs["logits"]
    except Interrupt:
        continue
    assert np.allclose(found, expected[(number + 1) % 3], atol=1e-5), number
print("fine" if interrupted > 100 else f"only {interrupted} interrupts")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="timers interrupt as Linux does")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_call_after_an_interrupted_one_is_answered(exits, backend):
    """A handler's exception may come anywhere: nothing that is still written to may be let go of, or used again."""
    if backend == "openvino":
        require_openvino()
        prepare(exits)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONOPTIMIZE": ""}
    command = [sys.executable, "-c", INTERRUPTED, str(exits), backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr[-2000:]


def test_tensorrt_drops_what_a_failure_left(engines, trt, x):
    model = load(engines, backend="tensorrt")
    expected = model.run({"x": x})
    for _ in range(20):
        trt.fail = True
        with contextlib.suppress(BackendError):  # a recording that fails is followed by a run without one
            model.run({"x": x})
        trt.fail = False
        np.testing.assert_array_equal(model.run({"x": x}).outputs["logits"], expected.outputs["logits"])


WRONG = {
    "too few samples": ("logits", lambda a: a[:-1]),
    "nothing": ("logits", lambda a: a[:0]),
    "no axes": ("logits", lambda a: a.sum()),
    "too many classes": ("logits", lambda a: np.repeat(a, 2, 1)),
    "another dtype": ("logits", lambda a: a.astype(np.float64)),
    "work that is no number": ("macs_fraction", lambda a: a * np.float32(np.nan)),
    "less work than none": ("macs_fraction", lambda a: -a),
    "work beyond all measure": ("macs_fraction", lambda a: a * 1000),
    "work of nothing": ("macs_fraction", lambda a: a[:0]),
    "work of one sample": ("macs_fraction", lambda a: a[:1]),
}


@pytest.mark.parametrize("name,spoil", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("stages", ["one", "several"])
def test_an_output_of_the_wrong_size_is_an_error(tiny, exits, monkeypatch, stages, name, spoil):
    """And the engine is told that something is wrong with it."""
    model = load(tiny if stages == "one" else exits, threads=1)
    inputs = {"x": np.ones((5, 4), np.float32)} if stages == "one" else exits_inputs(5)
    expected, last = model.run(inputs), model.backends[-1]
    recovered = []
    with monkeypatch.context() as patch:
        patch.setattr(last, "recover", lambda: recovered.append(1))
        real_run, real_values = last.run, last.run_values
        patch.setattr(last, "run", lambda feeds: {k: spoil(v) if k == name else v for k, v in real_run(feeds).items()})

        def run_values(feeds, outputs):
            found = real_values(feeds, outputs)
            return [spoil(value) if key == name else value for key, value in zip(outputs, found, strict=True)]

        patch.setattr(last, "run_values", run_values)
        with pytest.raises(BackendError, match=f"'{name}'.*, expected") as caught:
            model.run(inputs)
        with pytest.raises(BackendError, match=f"'{name}'.*, expected"):
            model.run_stages(inputs)
    assert "\n" not in str(caught.value) and recovered == [1, 1]
    np.testing.assert_array_equal(model.run(inputs).outputs["logits"], expected.outputs["logits"])


@pytest.fixture
def openvino_model(exits):
    require_openvino()
    prepare(exits)
    return load(exits, threads=1, backend="openvino")


def test_what_was_bound_to_a_failed_engine_is_bound_anew(openvino_model):
    """One sample runs on buffers tied to a compiled model: after a failure that is another one."""
    inputs = exits_inputs(3)
    expected = [openvino_model.run(rows(inputs, [row])) for row in range(3)]
    before = [backend.compiled for backend in openvino_model.backends]
    bad = {"x": np.zeros((2, 3), np.float32), "price": np.zeros(1, np.float32)}
    with pytest.raises(BackendError, match="failed on x"):
        openvino_model.backend.run_values(bad, ["logits"])
    assert openvino_model.backends[0].compiled is not before[0]
    assert openvino_model.backends[1].compiled is before[1], "it did not fail"
    chains = list(openvino_model._engines.stages._single._idle)
    assert [chain.current() for chain in chains] == [False]
    for row in range(3):
        again = openvino_model.run(rows(inputs, [row]))
        np.testing.assert_array_equal(again.outputs["logits"], expected[row].outputs["logits"])
    assert [chain.current() for chain in openvino_model._engines.stages._single._idle] == [True]


def test_a_call_beside_a_failing_one_is_answered(openvino_model, monkeypatch):
    """The engine breaks under another thread's call: this one's has no fault and is run once more."""
    from adaptrt.runtime.backends import openvino

    backend = openvino_model.backend
    feeds = {"x": np.ones((4, 6), np.float32), "price": np.zeros(1, np.float32)}
    (expected,) = backend.run_values(feeds, ["logits"])
    real, broken = openvino._infer, []

    def infer(request):
        if not broken:
            broken.append(1)
            other = threading.Thread(target=backend.recover)  # as the other thread's failure does
            other.start(), other.join()
            raise RuntimeError("broken by another call")
        real(request)

    monkeypatch.setattr(openvino, "_infer", infer)
    (found,) = backend.run_values(feeds, ["logits"])
    np.testing.assert_array_equal(found, expected)
    monkeypatch.setattr(openvino, "_infer", lambda _request: (_ for _ in ()).throw(RuntimeError("its own fault")))
    with pytest.raises(BackendError, match="its own fault"):
        backend.run_values(feeds, ["logits"])
    monkeypatch.setattr(openvino, "_infer", real)
    np.testing.assert_array_equal(backend.run_values(feeds, ["logits"])[0], expected)


def test_a_model_that_does_not_compile_again_says_what_failed_first(openvino_model, monkeypatch):
    backend = openvino_model.backend
    feeds = {"x": np.ones((4, 6), np.float32), "price": np.zeros(1, np.float32)}
    bad = {**feeds, "x": np.zeros((2, 3), np.float32)}
    with monkeypatch.context() as patch:
        patch.setattr(backend, "_compile", lambda: (_ for _ in ()).throw(RuntimeError("no memory to compile")))
        with pytest.raises(BackendError, match=r"failed on x \[2, 3\]"):
            backend.run_values(bad, ["logits"])
    with pytest.raises(BackendError, match=r"failed on x \[2, 3\]"):
        backend.run_values(bad, ["logits"])
    assert backend.run_values(feeds, ["logits"])[0].shape == (4, 3)
