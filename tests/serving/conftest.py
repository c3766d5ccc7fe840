from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serving.server_process import CLI, FIXTURES, SLOW, ServerProcess

KIT = Path(__file__).parent.parent / "conformance" / "kit" / "bundles"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """All bundles of the conformance kit, with small limits."""
    bundles = [FIXTURES / name for name in ("tiny", "exits", "tokens", "texts")]
    bundles += [KIT / f"exits_{name}" for name in ("entropy", "patience")]
    bundles += [KIT / name for name in ("adapted", "map", "tags", "pooled")]
    words = ("--threads", 1, "--max-request-bytes", 1 << 20, "--max-connections", 100, "--receive-seconds", 3)
    started = ServerProcess(tmp_path_factory.mktemp("server"), CLI, *bundles, *words)
    yield started
    assert started.process.poll() is None, started.errors()
    started.kill()


@pytest.fixture
def slow_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers whose calls take a chosen time."""
    started: list[ServerProcess] = []

    def start(*words: object) -> ServerProcess:
        started.append(ServerProcess(tmp_path, SLOW, *words))
        return started[-1]

    yield start
    for one in started:
        one.kill()
