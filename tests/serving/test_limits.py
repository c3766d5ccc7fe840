"""What a server takes, and what it does with those who want more."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from adaptrt.runtime.serving.server import listen
from tests.serving.server_process import ServerProcess, tensor, tiny

pytestmark = pytest.mark.slow("starts servers")

HEAD = "POST /v2/models/tiny/infer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
MANY = 1 << 30


def connect(server: ServerProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.http_port), timeout=60)


def everything(link: socket.socket) -> bytes:
    got = b""
    try:
        while chunk := link.recv(65536):
            got += chunk
    except ConnectionResetError:
        pass
    return got


def fine(server: ServerProcess) -> bool:
    return server.post("tiny", tiny("45%")).status_code == 200


def eventually(what: Callable[[], bool]) -> bool:
    """Whether it becomes so within a minute."""
    for _ in range(600):
        if what():
            return True
        time.sleep(0.1)
    return False


def test_an_answer_is_sent_at_once() -> None:
    """Without TCP_NODELAY its body follows its head 40 ms later."""
    seen: list[int] = []

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def ask(listener: socket.socket) -> None:
        async with await asyncio.start_server(answer, sock=listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()

    for make in (lambda: listen("127.0.0.1", 0), lambda: socket.create_server(("127.0.0.1", 0))):
        with make() as listener:
            asyncio.run(ask(listener))
    assert seen[0] and not seen[1]  # what sockets do whose protocol is not named


def test_a_body_that_says_it_is_too_long_is_not_read(server: ServerProcess) -> None:
    with connect(server) as link:
        link.sendall(f"{HEAD}content-length: {MANY}\r\n\r\n".encode())
        assert link.recv(65536).startswith(b"HTTP/1.1 413")
    assert fine(server)


@pytest.mark.parametrize("told", [True, False], ids=["content-length", "chunked"])
def test_a_gigabyte_is_refused_without_being_held(told: bool, server: ServerProcess) -> None:
    process = psutil.Process(server.process.pid)
    before, sent = process.memory_info().rss, 0
    with connect(server) as link:
        head = f"content-length: {MANY}" if told else "transfer-encoding: chunked"
        link.sendall(f"{HEAD}{head}\r\n\r\n".encode())
        block = b"x" * (1 << 20)
        try:
            while sent < MANY:
                link.sendall(block if told else b"100000\r\n" + block + b"\r\n")
                sent += len(block)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent < MANY // 2
        assert process.memory_info().rss - before < 100 << 20
    assert fine(server)


def test_the_answer_reaches_a_client_that_sends_a_little_too_much(server: ServerProcess) -> None:
    def stream() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * (1 << 17)

    response = httpx.post(f"http://{server.http}/v2/models/tiny/infer", content=stream(), timeout=60)
    assert response.status_code == 413 and "expected at most" in response.json()["error"]
    response = server.post("tiny", b"x" * (2 << 20))
    assert response.status_code == 413 and "got a body of 2097152 bytes" in response.json()["error"]


def test_a_message_too_long_over_grpc(server: ServerProcess) -> None:
    with tritonclient.grpc.InferenceServerClient(server.grpc) as own:
        one = tritonclient.grpc.InferInput("x", [1 << 18, 4], "FP32")
        one.set_data_from_numpy(np.zeros((1 << 18, 4), np.float32))
        with pytest.raises(InferenceServerException, match="(?i)larger than max"):
            own.infer("tiny", [one])
    assert fine(server)


def test_a_client_that_sends_slowly(server: ServerProcess) -> None:
    with connect(server) as silent, connect(server) as head, connect(server) as body:
        head.sendall(HEAD[:30].encode())
        body.sendall(f"{HEAD}content-length: 100\r\n\r\n".encode() + b"{")
        assert fine(server)
        assert everything(silent) == b"" and everything(head) == b""  # closed by the server
        assert b" 400 " in body.recv(65536)
    assert fine(server)


def test_a_client_that_reads_slowly(server: ServerProcess) -> None:
    """It asks for an answer and leaves it where it is; others are answered."""
    content = json.dumps({"inputs": [tensor("x", [4000, 4], [0.5] * 16000)]}).encode()
    with connect(server) as link:
        for _ in range(3):
            link.sendall(f"{HEAD}content-length: {len(content)}\r\n\r\n".encode() + content)
        assert all(fine(server) for _ in range(5))


@pytest.mark.parametrize(
    "content",
    [
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        HEAD.encode() + b"x: " + b"y" * 100_000 + b"\r\n\r\n",
        b"\x16\x03\x01nonsense\r\n\r\n",
    ],
)
def test_heads_that_are_none(content: bytes, server: ServerProcess) -> None:
    with connect(server) as link:
        link.sendall(content)
        assert b" 400 " in everything(link).partition(b"\r\n")[0]
    assert fine(server)


def test_compressed_bodies_are_refused(server: ServerProcess) -> None:
    response = server.post("tiny", b"1234", headers={"content-encoding": "gzip"})
    assert response.status_code == 400 and "Content-Encoding" in response.json()["error"]


def test_mistakes_are_one_line_and_the_server_goes_on(server: ServerProcess) -> None:
    for body in (
        b"{",
        {"inputs": []},
        {"inputs": [tensor("x", [1, 4], [1, 2, 3])]},
        tiny("nanms"),
        tiny(deadline_ms=0),
    ):
        response = server.post("tiny", body)
        text = response.json()["error"]
        assert response.status_code == 400 and text.startswith(("got", "input", "inputs")) and "expected" in text
        assert "\n" not in text and "Traceback" not in text and ".py" not in text
    assert fine(server) and "Traceback" not in server.errors()
    assert server.metric("adaptrt_serving_requests_total", outcome="wrong", protocol="http") >= 5


def test_too_many_connections(slow_server: Callable[..., ServerProcess]) -> None:
    server = slow_server("--ms", 1, "--max-connections", 5)
    links = [connect(server) for _ in range(5)]
    assert eventually(lambda: _refused(server))
    for link in links:
        link.close()
    assert eventually(lambda: not _refused(server)) and fine(server)


def _refused(server: ServerProcess) -> bool:
    with connect(server) as link:
        link.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return everything(link).startswith(b"HTTP/1.1 503")


def test_a_full_queue_refuses_at_once(slow_server: Callable[..., ServerProcess]) -> None:
    server = slow_server("--ms", 2000, "--max-queue", 2)
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: server.post("tiny", tiny()), range(8)))
    codes = [response.status_code for response in responses]
    assert set(codes) == {200, 429} and codes.count(200) >= 2
    refused = next(response for response in responses if response.status_code == 429)
    assert refused.headers["retry-after"] == "1" and "got a request while 2 wait" in refused.json()["error"]
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: _grpc_outcome(server), range(8)))
    assert set(codes) == {"", "StatusCode.RESOURCE_EXHAUSTED"}
    assert server.metric("adaptrt_serving_requests_total", outcome="queue_full") >= 2


def _grpc_outcome(server: ServerProcess) -> str:
    with tritonclient.grpc.InferenceServerClient(server.grpc) as own:
        one = tritonclient.grpc.InferInput("x", [1, 4], "FP32")
        one.set_data_from_numpy(np.ones((1, 4), np.float32))
        try:
            own.infer("tiny", [one])
        except InferenceServerException as error:
            return str(error.status())
        return ""


def test_a_budget_that_the_queue_takes_is_refused_and_one_that_fits_is_run_on_less(
    slow_server: Callable[..., ServerProcess],
) -> None:
    server = slow_server("--ms", 2500)  # the cheapest work of a request: 500 ms
    with ThreadPoolExecutor(4) as pool:
        first = [pool.submit(server.post, "tiny", tiny("full")) for _ in range(3)]
        assert eventually(lambda: server.metric("adaptrt_serving_waiting_requests") == 2)
        refused = server.post("tiny", tiny("700ms"))
        assert refused.status_code == 503 and "on the cheapest work" in refused.json()["error"]
        fits = server.post("tiny", tiny("60000ms"))
        assert fits.status_code == 200
        assert all(one.result().status_code == 200 for one in first)


def test_a_client_that_leaves_is_not_run_for(slow_server: Callable[..., ServerProcess]) -> None:
    server = slow_server("--ms", 1000)
    first = threading.Thread(target=server.post, args=("tiny", tiny()))
    first.start()
    content = json.dumps(tiny()).encode()
    links = [connect(server) for _ in range(4)]
    for link in links:
        link.sendall(f"{HEAD}content-length: {len(content)}\r\n\r\n".encode() + content)
    for link in links:
        link.close()
    first.join()
    assert eventually(lambda: server.metric("adaptrt_serving_requests_total", outcome="left") >= 3)
    assert fine(server)


def test_an_engine_that_fails_tells_nothing_of_the_inside(slow_server: Callable[..., ServerProcess]) -> None:
    server = slow_server("--ms", 1, "--fail-on", 13)
    response = server.post("tiny", {"inputs": [tensor("x", [1, 4], [13, 1, 1, 1])]})
    assert response.status_code == 500 and "secret" not in response.text and "log" in response.json()["error"]
    assert "the engine broke" in server.errors() and fine(server)


def test_requests_of_one_budget_share_a_call(slow_server: Callable[..., ServerProcess]) -> None:
    server = slow_server("--ms", 600, "--max-batch", 4)
    with ThreadPoolExecutor(9) as pool:
        responses = list(pool.map(lambda place: server.post("tiny", tiny(("45%", "full")[place % 2])), range(9)))
    shared = [response.json()["parameters"]["batch"] for response in responses]
    budgets = [response.json()["parameters"]["budget"] for response in responses]
    assert max(shared) >= 2 and max(shared) <= 4 and set(budgets) == {"45%", "full"}
    for response in responses:
        work = response.json()["parameters"]["macs_fraction"]
        assert work > 0.9 if response.json()["parameters"]["budget"] == "full" else work < 0.9


def test_what_was_taken_is_answered_when_the_server_stops(slow_server: Callable[..., ServerProcess]) -> None:
    server = slow_server("--ms", 2000)
    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(server.post, "tiny", tiny()) for _ in range(2)]
        over_grpc = [pool.submit(_grpc_outcome, server) for _ in range(2)]
        assert eventually(lambda: server.metric("adaptrt_serving_waiting_requests") == 3)
        assert server.stop() == 0
        assert [one.result().status_code for one in waiting] == [200] * 2
        assert [one.result() for one in over_grpc] == [""] * 2
    assert "Traceback" not in server.errors()
    with pytest.raises(httpx.ConnectError):
        server.get("/v2/health/live")
