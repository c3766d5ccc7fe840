"""Replicas on Ray: requests over HTTP and by a handle, mistakes, and a node that is killed under load."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from adaptrt import AdaptrtError
from adaptrt.bench.layer_nodes import cluster
from adaptrt.runtime import load
from adaptrt.runtime.control.budget_text import parse_budget
from adaptrt.runtime.serving.ray_serve import RaySettings, application
from tests.runtime.staged_reference import eighths
from tests.serving.server_process import FIXTURES, tensor, tiny

ray = pytest.importorskip("ray", reason="ray is not installed: install adaptrt[ray-serve]")
serve = pytest.importorskip("ray.serve", reason="Ray Serve is not installed: install adaptrt[ray-serve]")
pytestmark = [pytest.mark.slow("starts Ray clusters"), pytest.mark.exhaustive]

CLIENTS, REQUESTS, KILLED_AT = 4, 160, 40
_PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes with a CPU each, so a replica on each; ``nodes.url`` is that of their proxies, which share a port."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ADAPTRT_CACHE", str(tmp_path_factory.mktemp("cache")))
        sample = tmp_path_factory.mktemp("sample") / "sample.npz"
        np.savez(sample, x=eighths(1, 2, 4))
        with cluster(2) as started:
            ray.init(address=started.address, logging_level="ERROR")
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            serve.start(proxy_location="EveryNode", http_options={"host": "127.0.0.1", "port": port})
            arguments = {"bundle": str(FIXTURES / "tiny"), "replicas": "2", "sample": str(sample)}
            serve.run(application(arguments), name="default")
            started.url = f"http://127.0.0.1:{port}/v2/models/tiny/infer"
            yield started
            serve.shutdown()


def test_answers_are_those_of_the_model(nodes: Any) -> None:
    model, x = load(FIXTURES / "tiny", threads=1), eighths(3, 7, 4)
    handle = serve.get_app_handle("default")
    for budget in ("full", "45%", "20%"):
        result = model.run({"x": x}, budget=parse_budget(budget))
        outputs, said = handle.infer.remote({"x": x}, {"budget": budget}).result(timeout_s=60)
        assert outputs["logits"].tobytes() == result.outputs["logits"].tobytes()
        assert said["budget"] == budget and said["macs_fraction"] == float(result.macs_fraction.mean())
        body = {"inputs": [tensor("x", list(x.shape), x.ravel().tolist())], "parameters": {"budget": budget}}
        answer = httpx.post(nodes.url, content=json.dumps(body), timeout=60).json()
        logits = next(output for output in answer["outputs"] if output["name"] == "logits")
        assert np.array_equal(np.array(logits["data"], np.float32).reshape(logits["shape"]), result.outputs["logits"])
        assert answer["parameters"]["macs_fraction"] == said["macs_fraction"]


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("", {**tiny("45%"), "parameters": {"budgt": "45%"}}, 400, "got parameter 'budgt', expected budget, hard or"),
        ("", tiny("fast"), 400, "got budget 'fast'"),
        ("", {"inputs": []}, 400, "x"),
        ("", "nothing", 400, "expected JSON with inputs"),
        ("/more", tiny("45%"), 404, "expected POST /v2/models/tiny/infer"),
    ],
)
def test_mistakes_are_told_in_a_line(nodes: Any, path: str, body: Any, status: int, told: str) -> None:
    answer = httpx.post(nodes.url + path, content=json.dumps(body), timeout=60)
    assert answer.status_code == status
    text = answer.json()["error"]
    assert told in text and "\n" not in text


def test_a_wrong_request_by_a_handle_is_raised(nodes: Any) -> None:
    del nodes
    with pytest.raises(AdaptrtError, match="got parameter 'fast'"):
        serve.get_app_handle("default").infer.remote({"x": eighths(1, 1, 4)}, {"fast": True}).result(timeout_s=60)


def test_a_node_is_killed_under_load(nodes: Any) -> None:
    """The last test: the second node does not come back."""
    model = load(FIXTURES / "tiny", threads=1)
    samples = [eighths(seed, 1, 4) for seed in range(8)]
    wanted = {
        (place, budget): model.run({"x": x}, budget=parse_budget(budget)).outputs["logits"]
        for place, x in enumerate(samples)
        for budget in ("full", "20%")
    }
    left = iter(range(REQUESTS))
    lock, answered, seen, wrong = threading.Lock(), [0], Counter[str](), list[str]()
    killed = threading.Event()

    def ask() -> None:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            place, budget = number % len(samples), ("full", "20%")[number % 2]
            body = {
                "inputs": [tensor("x", [1, 4], samples[place].ravel().tolist())],
                "parameters": {"budget": budget},
            }
            try:
                answer = answered_with_retry(nodes.url, body, seen)
            except AssertionError as error:
                wrong.append(str(error))
                continue
            logits = next(output for output in answer["outputs"] if output["name"] == "logits")
            if not np.array_equal(np.array(logits["data"], np.float32)[None], wanted[place, budget]):
                wrong.append(f"another answer to request {number}")
            with lock:
                answered[0] += 1
            if answered[0] > KILLED_AT:
                killed.wait(_PATIENCE_S)  # so that much of the load comes when the node is gone

    clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    until = time.monotonic() + _PATIENCE_S
    while answered[0] < KILLED_AT and time.monotonic() < until:
        time.sleep(0.005)
    (second,) = nodes.worker_nodes
    nodes.remove_node(second, allow_graceful=False)  # SIGKILL
    killed.set()
    for client in clients:
        client.join(_PATIENCE_S * 2)
    assert not wrong and answered[0] == REQUESTS, (wrong, seen)
    print(f"answered {answered[0]}, retried {dict(seen)}")


def answered_with_retry(url: str, body: Any, seen: Counter[str]) -> Any:
    """The answer to a request, asked again where a client would: no connection, or a status that says so."""
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        try:
            answer = httpx.post(url, content=json.dumps(body), timeout=10)
        except httpx.TransportError as error:
            seen[type(error).__name__] += 1
        else:
            if answer.status_code == 200:
                return answer.json()
            assert answer.status_code in (429, 500, 503), answer.text
            seen[str(answer.status_code)] += 1
        time.sleep(0.1)
    raise AssertionError(f"no answer within {_PATIENCE_S:g} s: {dict(seen)}")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "got no bundle, expected its folder; give bundle=FOLDER"),
        ({"bundle": "x", "replica": 2}, "got argument 'replica', expected bundle, replicas"),
        ({"bundle": "x", "replicas": "two"}, "got replicas='two', expected a number"),
        ({"bundle": "x", "replicas": 0}, "got replicas=0, expected a number above 0"),
        ({"bundle": "/nowhere"}, "no folder '/nowhere'"),
        ({"bundle": str(FIXTURES / "tiny"), "budget": "fast"}, "got budget 'fast'"),
    ],
)
def test_wrong_arguments_are_refused_in_a_line(arguments: dict[str, object], told: str) -> None:
    with pytest.raises(AdaptrtError) as caught:
        application(arguments)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_arguments_may_be_texts() -> None:
    assert RaySettings.parse({"bundle": "x", "cpus": "0.5", "max_queue": "4"}) == RaySettings(
        "x", cpus=0.5, max_queue=4
    )
