from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from adaptrt.bench.errors import BenchError
from adaptrt.bench.timing.session_process import SessionProcess
from adaptrt.bench.timing.session_worker import Session, Worker, serve


def ask(model: Path, *requests: object) -> list[dict[str, object]]:
    """Serve requests within this process."""
    answers = io.StringIO()
    lines = [request if isinstance(request, str) else json.dumps(request) for request in requests]
    serve(Worker(Session(model, threads=1)), lines, answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_worker_answers_one_line_per_request(doubling: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ones=np.ones((2, 3), np.float32), fives=np.full((1, 3), 5, np.float32))
    feeds = [{"x": "ones"}, {"x": "fives"}]
    described, loaded, timed, value = ask(
        doubling,
        {"load": str(tmp_path / "a.npz")},
        {"time": feeds, "warm": 1, "runs": 3},
        {"output": "y", "feed": feeds[1]},
    )
    engine = {"backend": "onnxruntime", "engine": f"onnxruntime {onnxruntime.__version__}"}
    assert described == {"inputs": ["x"], "outputs": ["y"], **engine}
    assert loaded == {"loaded": ["fives", "ones"]}
    seconds = np.array(timed["seconds"])
    assert seconds.shape == (2, 3) and (seconds > 0).all() and np.isfinite(seconds).all()
    assert value == {"values": [10.0, 10.0, 10.0]}


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        ("{", "JSONDecodeError"),
        ({"fly": 1}, "expected load, time or output"),
        ({"load": "no such file.npz"}, "FileNotFoundError"),
        ({"time": [{"x": "absent"}], "warm": 0, "runs": 1}, "absent"),
        ({"output": "y", "feed": {}}, "Required inputs"),
    ],
)
def test_worker_survives_a_bad_request(doubling: Path, request_line: object, expected: str) -> None:
    _, answer, after = ask(doubling, request_line, {"fly": 1})
    assert expected in str(answer["error"]) and "\n" not in str(answer["error"])
    assert "error" in after


def test_process_times_and_computes(process: SessionProcess) -> None:
    assert (process.inputs, process.outputs) == (["x"], ["y"])
    process.load({"more": np.full((1, 3), 0.5, np.float32)})
    seconds = process.time([{"x": "ones"}, {"x": "more"}], warm=2, runs=4)
    assert [len(own) for own in seconds] == [4, 4]
    assert all(0 < second < 60 for own in seconds for second in own)
    np.testing.assert_array_equal(process.output("y", {"x": "more"}), np.ones(3))


def test_loading_a_name_again_replaces_it(process: SessionProcess) -> None:
    process.load({"ones": np.zeros((1, 3), np.float32)})
    np.testing.assert_array_equal(process.output("y", {"x": "ones"}), np.zeros(3))


def test_a_failed_request_is_an_error_and_the_process_goes_on(process: SessionProcess) -> None:
    with pytest.raises(BenchError, match=r"doubling\.onnx.*absent"):
        process.time([{"x": "absent"}])
    assert process.time([{"x": "ones"}])


@pytest.mark.parametrize(("feeds", "warm", "runs"), [([], 1, 1), ([{"x": "ones"}], -1, 1), ([{"x": "ones"}], 0, 0)])
def test_senseless_requests_are_refused(
    process: SessionProcess, feeds: list[dict[str, str]], warm: int, runs: int
) -> None:
    with pytest.raises(BenchError, match="expected at least 1, 1 and 0"):
        process.time(feeds, warm=warm, runs=runs)


def test_outputs_that_are_fetched(tmp_path: Path) -> None:
    """An output that is not asked for costs no copy: a runtime does not fetch what it does not want."""
    file = tmp_path / "two.onnx"
    graph = """
    <ir_version: 10, opset_import: ["" : 20]>
    two (float[rows, 3] x) => (float[rows, 3] y, float[rows, 3] z) { y = Add (x, x) z = Neg (x) }
    """
    onnx.save(onnx.parser.parse_model(graph), str(file))
    fed = {"x": np.ones((2, 3), np.float32)}
    assert len(Session(file, 1).prepare(fed)()) == 2  # type: ignore[arg-type]
    (only,) = Session(file, 1, ["z"]).prepare(fed)()  # type: ignore[misc]
    np.testing.assert_array_equal(only, -fed["x"])
    with SessionProcess(file, outputs=["absent"]) as process:
        process.load({"x": fed["x"]})
        with pytest.raises(BenchError, match="absent"):
            process.time([{"x": "x"}])
    assert np.isfinite(Session(file, 1, ["y"]).output("z", fed)).all()


def test_a_graph_that_does_not_load_is_named_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "broken.onnx"
    file.write_bytes(b"no graph")
    with pytest.raises(BenchError, match=r"^broken\.onnx: onnxruntime .* refuses the graph") as caught:
        SessionProcess(file)
    assert "\n" not in str(caught.value)


def test_a_dead_worker_is_an_error_with_its_last_words(process: SessionProcess) -> None:
    child = process._process
    assert child is not None
    process._stderr.write(b"out of memory\n" + b"x" * 2000 + b" the very last words\n")
    process._stderr.flush()
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(BenchError, match=r"ended with code -9.*the very last words") as caught:
        process.time([{"x": "ones"}])
    assert len(str(caught.value)) < 1000


def test_the_process_ends_with_the_block_even_when_interrupted(doubling: Path) -> None:
    with pytest.raises(KeyboardInterrupt), SessionProcess(doubling) as running:
        child, folder = running._process, Path(running._folder.name)
        assert child is not None and child.poll() is None and folder.is_dir()
        raise KeyboardInterrupt
    assert child is not None and child.poll() is not None and not folder.exists()
    running.close()  # again: nothing
    with pytest.raises(BenchError, match="is closed"):
        running.time([{"x": "ones"}])


def test_ctrl_c_leaves_the_worker_to_its_parent(process: SessionProcess) -> None:
    assert process._process is not None
    os.kill(process._process.pid, signal.SIGINT)
    assert process.time([{"x": "ones"}])


def test_the_worker_ends_when_its_parent_is_gone(process: SessionProcess) -> None:
    child = process._process
    assert child is not None and child.stdin is not None
    child.stdin.close()
    assert child.wait(30) == 0


def test_no_threads_is_refused(doubling: Path) -> None:
    with pytest.raises(BenchError, match="got 0 threads"):
        SessionProcess(doubling, threads=0)
