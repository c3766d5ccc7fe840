from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from tests.serving.server_process import CLI, FIXTURES

pytestmark = pytest.mark.slow("starts servers")


def serve(*words: object) -> tuple[int, str]:
    done = subprocess.run([sys.executable, *CLI, *map(str, words)], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ((FIXTURES / "none",), "expected"),
        ((FIXTURES / "tiny", "--budget", "fast"), "got budget 'fast'"),
        ((FIXTURES / "tiny", "--max-queue", 0), "--max-queue"),
        ((FIXTURES / "tiny", "--batch-wait-ms", "nan"), "--batch-wait-ms"),
        ((FIXTURES / "tiny", FIXTURES / "tiny"), "expected a name for each"),
        ((FIXTURES / "tiny", FIXTURES / "exits", "--input", "x.npy"), "expected one bundle"),
        ((FIXTURES / "tiny", "--host", "203.0.113.7", "--http-port", 0), "cannot be had"),
    ],
)
def test_mistakes_end_in_one_line(words: tuple[object, ...], what: str) -> None:
    code, errors = serve(*words)
    last = errors.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ") and what in last, errors


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, errors = serve(FIXTURES / "tiny", "--http-port", taken.getsockname()[1])
    assert code == 2 and "choose another port" in errors.strip().splitlines()[-1]
