"""A model among processes: forks, pickles, no traces in the home folder, no home folder at all."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adaptrt
from adaptrt import AdaptrtError, AdaptrtWarning
from adaptrt.runtime import AdaptiveModel, BackendError, Budget, load
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.device.profile_cache import cache_folder
from tests.prepared_engines import prepare, require_openvino
from tests.runtime.conftest import RecordingBackend

pytestmark = pytest.mark.slow("starts interpreters")

FIXTURES = Path(__file__).parent / "fixtures"
SOURCE = Path(adaptrt.__file__).parent.parent

FORK = """
import os, sys, time
import numpy as np
from adaptrt.runtime import Budget, load

folder, threads, backend = sys.argv[1], int(sys.argv[2]), sys.argv[3]
model = load(folder, threads=threads, backend=backend)
inputs = {"x": np.ones((64, 6), np.float32), "hint": np.zeros((64, 2), np.float32), "scale": np.ones(1, np.float32)}
one = {name: array[:1] for name, array in inputs.items()}
model.run(one)
expected = model.run(inputs).outputs["logits"]
model.budget = Budget.fraction(0.5)
children = []
for number in range(2):
    child = os.fork()
    if child == 0:
        assert model.budget == Budget.fraction(0.5)
        assert np.array_equal(model.run(inputs, budget=Budget.full()).outputs["logits"], expected)
        model.run(one)
        del model
        os.write(1, b"child %d\\n" % number)
        sys.exit(7)
    children.append(child)
end = time.monotonic() + 5
while children and time.monotonic() < end:
    pid, status = os.waitpid(children[0], os.WNOHANG)
    if pid:
        assert os.waitstatus_to_exitcode(status) == 7, status
        children.pop(0)
    time.sleep(0.02)
for child in children:
    os.kill(child, 9)
assert np.array_equal(model.run(inputs, budget=Budget.full()).outputs["logits"], expected)
print("hung" if children else "all ended")
"""


def python(code: str, *arguments: str, cwd: Path | None = None, **environment: str | None) -> Any:
    """Run code in a fresh interpreter; a variable that is None is unset."""
    # The code asserts: that counts under `python -O`, too.
    wanted = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONOPTIMIZE": None, **environment}
    given = {name: value for name, value in wanted.items() if value is not None}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=given, cwd=cwd)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("backend,threads", [("onnxruntime", 1), ("onnxruntime", 4)])
def test_forked_children_run_and_end(exits, backend, threads):
    done = python(FORK, str(exits), str(threads), backend)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")[:-1]) == ["all ended", "child 0", "child 1"], done.stderr


INHERITED = """
import os, sys
import numpy as np
from adaptrt.runtime import BackendError, load
model = load(sys.argv[1], threads=2, backend="openvino")
child = os.fork()
if child == 0:
    again = lambda: load(sys.argv[1], backend="openvino", threads=2)
    for attempt in (lambda: model.run({"x": np.ones((4, 4), np.float32)}), again):
        try:
            attempt()
        except BackendError as error:
            os.write(1, f"{error}\\n".encode())
    sys.exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_openvino_is_not_inherited(tiny):
    """Its threads are not there, and it waits for them now and then: refused at once, and the child ends."""
    require_openvino()
    prepare(tiny)
    done = python(INHERITED, str(tiny))
    assert done.returncode == 0 and done.stdout.count("load the bundle after the fork only") == 2, (
        done.stdout,
        done.stderr,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_engines_that_were_given_ready_made_are_not_inherited():
    model = AdaptiveModel(read_bundle(FIXTURES / "tiny"), [RecordingBackend()])
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = b"ran"
        try:
            model.run({"x": np.zeros((2, 4), np.float32)})
        except BackendError as error:
            said = str(error).encode()
        os.write(writer, said)
        os._exit(0)
    os.waitpid(child, 0)
    assert "load the bundle in each process" in os.read(reader, 1000).decode()
    assert model.run({"x": np.zeros((2, 4), np.float32)}).outputs


def _run_in_worker(folder: str) -> float:
    return float(load(folder, threads=1).run({"x": np.ones((1, 4), np.float32)}).macs_fraction[0])


def test_a_model_is_neither_pickled_nor_copied(model):
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(AdaptrtError, match="expected its bundle's path; load that in each process") as caught:
            attempt(model)
        assert isinstance(caught.value, TypeError) and "\n" not in str(caught.value)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with pytest.raises(TypeError, match="load that in each process"):
            pool.apply(id, (model,))
        assert pool.apply(_run_in_worker, (str(FIXTURES / "tiny"),)) == pytest.approx(1.04)


def test_what_goes_in_and_comes_out_can_be(model):
    budget = Budget.fraction(0.5)
    result = model.run({"x": np.ones((3, 4), np.float32)}, budget=budget)
    for again in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert again.budget == budget and again.knobs == result.knobs
        np.testing.assert_array_equal(again.outputs["logits"], result.outputs["logits"])
    assert pickle.loads(pickle.dumps(model.bundle)) == model.bundle
    assert pickle.loads(pickle.dumps(model.operating_point(budget))) == model.operating_point(budget)


RUN = """
import sys, time
import numpy as np
from adaptrt.runtime import load
load(sys.argv[1], threads=1).run({"x": np.ones((1, 4), np.float32)})
time.sleep(1)
"""


def test_nothing_is_written_into_a_fresh_home(tmp_path):
    done = python(RUN, str(FIXTURES / "tiny"), HOME=str(tmp_path), ORT_DISABLE_TELEMETRY=None, XDG_CACHE_HOME=None)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.rglob("*")) == []


def test_openvino_s_telemetry_is_not_imported(tiny, tmp_path):
    """It would send an event at import, write its client's number into the home folder, and fail without one."""
    require_openvino()
    prepare(tiny)
    home = tmp_path / "home"
    home.mkdir()
    code = RUN.replace("threads=1", 'threads=1, backend="openvino"') + "print('openvino_telemetry' in sys.modules)"
    done = python(code, str(tiny), HOME=str(home), XDG_CACHE_HOME=None, CI=None)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")
    assert list(home.rglob("*")) == []
    nobody = "import pwd\ndef unknown(*_): raise KeyError\npwd.getpwuid = pwd.getpwnam = unknown\n"
    done = python(nobody + code, str(tiny), HOME=None, XDG_CACHE_HOME=None)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_what_the_user_says_of_telemetry_stands():
    code = "import os, adaptrt; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert python(code, ORT_DISABLE_TELEMETRY="0").stdout == "0\n"
    assert python(code, ORT_DISABLE_TELEMETRY=None).stdout == python(code, ORT_DISABLE_TELEMETRY="").stdout == "1\n"


def test_every_process_that_imports_onnx_runtime_imports_us_first():
    """So that the variable stands before: in all rooms ``adaptrt`` is on the way to any module."""
    code = """
import builtins, os, sys
real = builtins.__import__
def watched(name, *rest, **more):
    if name.partition(".")[0] == "onnxruntime" and "onnxruntime" not in sys.modules:
        assert os.environ.get("ORT_DISABLE_TELEMETRY") == "1", "imported without"
        print("seen")
    return real(name, *rest, **more)
builtins.__import__ = watched
import importlib
for module in sys.argv[1:]:
    importlib.import_module(module)
"""
    modules = [
        "adaptrt.bench.timing.session_worker",
        "adaptrt.export.calibration.calibrate",
        "adaptrt.export.parity.stage_graphs",
    ]
    for module in modules:
        if module != modules[0]:
            pytest.importorskip("torch", reason="export takes torch, which is not installed")
        done = python(code, module, ORT_DISABLE_TELEMETRY=None)
        assert (done.returncode, done.stdout.strip()) == (0, "seen"), done.stderr


LATENCY = """
import pwd, sys, warnings
def unknown(*_): raise KeyError("no such user")
pwd.getpwuid = pwd.getpwnam = unknown
import numpy as np
from adaptrt import AdaptrtWarning
from adaptrt.runtime import Budget, load
from adaptrt.runtime.device import profile
profile._ROUNDS = (2, 2); profile._PAUSES = 1; profile._PAUSE_S = 0.01
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = load(sys.argv[1], threads=1)
    for _ in range(5):
        model.run({"x": np.ones((1, 4), np.float32)}, budget=Budget.latency(50.0))
    model.profile({"x": np.ones((1, 4), np.float32)}, seconds=0.01)
for warning in caught:
    print(warning.category.__name__, warning.message)
"""
NO_HOME = [
    {"HOME": "", "XDG_CACHE_HOME": None, "ADAPTRT_CACHE": "~/c"},
    {"HOME": "relative", "XDG_CACHE_HOME": None, "ADAPTRT_CACHE": "~/c"},
    {"HOME": None, "XDG_CACHE_HOME": None, "ADAPTRT_CACHE": None},
    {"HOME": None, "XDG_CACHE_HOME": "relative", "ADAPTRT_CACHE": None},
    {"HOME": "", "XDG_CACHE_HOME": None, "ADAPTRT_CACHE": None},
    {"HOME": "relative/home", "XDG_CACHE_HOME": None, "ADAPTRT_CACHE": None},
    {"HOME": None, "XDG_CACHE_HOME": None, "ADAPTRT_CACHE": "~nobody-of-that-name/x"},
]


@pytest.mark.parametrize("environment", NO_HOME, ids=str)
def test_without_a_home_there_is_no_cache_and_that_is_said_once(tmp_path, environment):
    done = python(LATENCY, str(FIXTURES / "tiny"), cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and "no folder for caches" in done.stdout and "ADAPTRT_CACHE" in done.stdout
    assert list(tmp_path.iterdir()) == [], "nothing may be made in the working folder"


def test_a_user_whom_the_system_does_not_know(monkeypatch):
    """Libraries raise, or make a folder named ~."""
    import platformdirs

    for name in ("HOME", "ADAPTRT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache_folder() is None
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_: Path("~/.cache/adaptrt"))
    assert cache_folder() is None


def test_a_cache_in_the_root_of_the_file_system_is_one(monkeypatch):
    for name, value in (("XDG_CACHE_HOME", "/xdgc"), ("HOME", "/")):
        with monkeypatch.context() as patch:
            patch.delenv("ADAPTRT_CACHE", raising=False), patch.delenv("XDG_CACHE_HOME", raising=False)
            patch.setenv(name, value)
            assert cache_folder() is not None and cache_folder().is_relative_to(value)


RACE = """
import sys, threading
from adaptrt.runtime import load
failed = []
def work():
    try:
        load(sys.argv[1], threads=1, backend="openvino")
    except BaseException as error:
        failed.append(repr(error))
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(failed, "openvino_telemetry" in sys.modules)
"""


def test_first_loads_on_openvino_from_several_threads(tiny):
    require_openvino()
    prepare(tiny)
    done = python(RACE, str(tiny))
    assert (done.returncode, done.stdout) == (0, "[] False\n"), done.stderr


CROWDED = """
import os, sys, threading, time
import numpy as np
from adaptrt.runtime import Budget, load
model = load(sys.argv[1], threads=1)
inputs = {"x": np.ones((64, 6), np.float32), "hint": np.zeros((64, 2), np.float32), "scale": np.ones(1, np.float32)}
model.profile(inputs, seconds=0.05)
model.budget = Budget.latency(5.0)
stop = threading.Event()
def call():
    while not stop.is_set():
        model.run(inputs)
threads = [threading.Thread(target=call) for _ in range(3)]
[thread.start() for thread in threads]
sys.setswitchinterval(1e-6)
hung = 0
for number in range(24):
    child = os.fork()
    if child == 0:
        if number % 3 == 0:
            model.budget = Budget.latency(7.0)
        if number % 3 == 1:
            model.prepare(inputs, Budget.latency(6.0))
        model.run(inputs)
        os._exit(0)
    end = time.monotonic() + 20
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > end:
            hung += 1
            os.kill(child, 9)
            os.waitpid(child, 0)
            break
        time.sleep(0.01)
    if hung:
        break
stop.set()
[thread.join() for thread in threads]
print("hung", hung)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_children_forked_while_threads_run(exits, tmp_path):
    """Locks may be held at that moment: of budgets, of the arena that stages share."""
    done = python(CROWDED, str(exits), ADAPTRT_CACHE=str(tmp_path / "cache"))
    assert (done.returncode, done.stdout) == (0, "hung 0\n"), done.stderr


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ADAPTRT_CACHE", "~/x")
    assert cache_folder() == tmp_path / "x" / "profiles"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTRT_CACHE", "below")
    assert cache_folder() == tmp_path / "below" / "profiles"


def test_a_profile_that_cannot_be_kept_says_why(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADAPTRT_CACHE", str(tmp_path / "file"))
    model, x = load(FIXTURES / "tiny", threads=1), {"x": np.ones((1, 4), np.float32)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.profile(x, seconds=0.01)
        model.profile(x, seconds=0.01)
    assert [warning.category for warning in caught] == [AdaptrtWarning]
    assert "cannot keep the profile in" in str(caught[0].message) and "Not a directory" in str(caught[0].message)


def test_a_full_disk_is_the_reason_that_is_given(monkeypatch, tmp_path):
    from adaptrt.runtime.device import profile_cache

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("ADAPTRT_CACHE", str(tmp_path))
    monkeypatch.setattr(profile_cache, "write_atomically", full)
    model = load(FIXTURES / "tiny", threads=1)
    with pytest.warns(
        AdaptrtWarning, match=r"cannot keep the profile in .*\(No space left on device\); set ADAPTRT_CACHE"
    ):
        model.run({"x": np.ones((1, 4), np.float32)}, budget=Budget.latency(50.0))
