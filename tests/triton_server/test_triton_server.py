"""Models that `adaptrt build` wrote, in a tritonserver: answers are those of ``model.run``, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from click.testing import CliRunner
from tritonclient.utils import InferenceServerException

from adaptrt.cli.group import adaptrt
from adaptrt.runtime import load
from adaptrt.runtime.control.budget_text import parse_budget
from tests.runtime.staged_reference import eighths
from tests.triton_server.server import TritonServer

FIXTURES = Path(__file__).parent.parent / "runtime" / "fixtures"
PYTHON = os.environ.get("ADAPTRT_TRITON_PYTHON", "")
BOTH = pytest.mark.parametrize("triton", [tritonclient.http, tritonclient.grpc], ids=["http", "grpc"])
DTYPES = {"float32": "FP32", "int64": "INT64"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Bundles of one stage and of several; Triton waits up to half a second for a batch of the first."""
    assert PYTHON, "got no ADAPTRT_TRITON_PYTHON, expected the Python beside a tritonserver; run make triton-test"
    repository = tmp_path_factory.mktemp("models")
    for name in ("tiny", "exits"):
        words = ["build", str(FIXTURES / name), "--target", "triton", "--output", str(repository), "--batch", "8"]
        built = CliRunner().invoke(adaptrt, words)
        assert built.exit_code == 0, built.output
    config = repository / "tiny" / "config.pbtxt"
    waits = "dynamic_batching { preferred_batch_size: [ 8 ] max_queue_delay_microseconds: 500000 }"
    text = config.read_text()
    assert "dynamic_batching { }" in text
    config.write_text(text.replace("dynamic_batching { }", waits))
    started = TritonServer(PYTHON, repository, tmp_path_factory.mktemp("server"))
    yield started
    started.stop()


def client(triton: ModuleType, server: TritonServer) -> Any:
    if triton is tritonclient.http:
        return triton.InferenceServerClient(server.http, concurrency=8)
    return triton.InferenceServerClient(server.grpc)


def infer(triton: ModuleType, asking: Any, model: str, arrays: dict[str, Any], **parameters: str) -> Any:
    given = []
    for name, array in arrays.items():
        one = triton.InferInput(name, list(array.shape), DTYPES[str(array.dtype)])
        one.set_data_from_numpy(array)
        given.append(one)
    return asking.infer(model, given, parameters=parameters)


@BOTH
@pytest.mark.parametrize("budget", ["full", "45%", "20%"])
def test_one_stage(triton: ModuleType, budget: str, server: TritonServer) -> None:
    x = eighths(3, 7, 4)
    answer = infer(triton, client(triton, server), "tiny", {"x": x}, budget=budget)
    result = load(FIXTURES / "tiny", threads=1).run({"x": x}, budget=parse_budget(budget))
    assert answer.as_numpy("logits").tobytes() == result.outputs["logits"].tobytes()
    assert answer.as_numpy("macs_fraction").tobytes() == result.macs_fraction.tobytes()


@BOTH
@pytest.mark.parametrize("budget", ["full", "60%", "30%"])
def test_several_stages(triton: ModuleType, budget: str, server: TritonServer) -> None:
    arrays = {"x": eighths(1, 16, 6), "hint": eighths(2, 16, 2), "scale": np.ones(1, np.float32)}
    answer = infer(triton, client(triton, server), "exits", arrays, budget=budget)
    result = load(FIXTURES / "exits", threads=1).run(arrays, budget=parse_budget(budget))
    assert result.exit is not None
    assert answer.as_numpy("logits").tobytes() == result.outputs["logits"].tobytes()
    assert np.array_equal(answer.as_numpy("exit"), result.exit)
    assert answer.as_numpy("macs_fraction").tobytes() == result.macs_fraction.tobytes()


def executions(asking: Any) -> tuple[int, int]:
    """Samples that were answered, and batches that Triton made of them."""
    (told,) = asking.get_inference_statistics("tiny")["model_stats"]
    return int(told["inference_count"]), int(told["execution_count"])


def ask_alone(server: TritonServer, x: Any, budget: str) -> Any:
    """By a client of its own: they belong to their threads."""
    return infer(tritonclient.http, client(tritonclient.http, server), "tiny", {"x": x}, budget=budget)


def test_two_budgets_in_one_batch(server: TritonServer) -> None:
    """Four requests fill a batch of Triton's; each is answered on its own budget."""
    asking = client(tritonclient.http, server)
    model, budgets = load(FIXTURES / "tiny", threads=1), ("full", "20%", "full", "20%")
    samples = [eighths(seed, 2, 4) for seed in range(4)]
    samples_before, batches_before = executions(asking)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda x, budget: ask_alone(server, x, budget), samples, budgets))
    samples_after, batches_after = executions(asking)
    assert (samples_after - samples_before, batches_after - batches_before) == (8, 1)
    shares = set()
    for sample, budget, answer in zip(samples, budgets, answers, strict=True):
        result = model.run({"x": sample}, budget=parse_budget(budget))
        assert answer.as_numpy("logits").tobytes() == result.outputs["logits"].tobytes()
        assert answer.as_numpy("macs_fraction").tobytes() == result.macs_fraction.tobytes()
        shares.add(float(result.macs_fraction.mean()))
    assert len(shares) > 1, "got the same work for both budgets, expected less for the smaller one"


def test_a_mistake_leaves_its_batch_mates_alone(server: TritonServer) -> None:
    x = eighths(1, 4, 4)

    def ask(budget: str) -> Any:
        try:
            return ask_alone(server, x, budget).as_numpy("logits")
        except InferenceServerException as error:
            return error.message()

    with ThreadPoolExecutor(2) as pool:
        right, wrong = pool.map(ask, ("full", "fast"))
    assert right.tobytes() == load(FIXTURES / "tiny", threads=1).run({"x": x}).outputs["logits"].tobytes()
    assert "got budget 'fast'" in wrong and "\n" not in wrong


@BOTH
def test_deadlines(triton: ModuleType, server: TritonServer) -> None:
    arrays = {"x": eighths(1, 4, 6), "hint": eighths(2, 4, 2), "scale": np.ones(1, np.float32)}
    answer = infer(triton, client(triton, server), "exits", arrays, budget="full", deadline_ms="5000")
    result = load(FIXTURES / "exits", threads=1).run(arrays)
    assert answer.as_numpy("logits").tobytes() == result.outputs["logits"].tobytes()
    with pytest.raises(InferenceServerException, match="got a deadline for 'tiny', expected none"):
        infer(triton, client(triton, server), "tiny", {"x": eighths(1, 4, 4)}, deadline_ms="5")


@BOTH
@pytest.mark.parametrize(
    ("array", "parameters", "told"),
    [
        (eighths(1, 1, 4), {"budgt": "45%"}, "got parameter 'budgt', expected budget, hard or deadline_ms"),
        (eighths(1, 1, 4), {"deadline_ms": "soon"}, "got deadline_ms 'soon', expected milliseconds"),
        (np.full((1, 4), np.nan, np.float32), {}, "x"),
    ],
)
def test_mistakes_are_told_in_a_line(
    triton: ModuleType, array: Any, parameters: dict[str, str], told: str, server: TritonServer
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        infer(triton, client(triton, server), "tiny", {"x": array}, **parameters)
    assert told in caught.value.message() and "\n" not in caught.value.message()
