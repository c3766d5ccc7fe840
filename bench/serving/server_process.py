"""A server in a process of its own, as ``adaptrt serve`` starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adaptrt.bench.errors import BenchError


@dataclass(frozen=True)
class Served:
    """A server that runs.

    Attributes:
        http: address and port.
        grpc: likewise.
        pid: of its process.
    """

    http: str
    grpc: str
    pid: int

    @property
    def resident_mib(self) -> float:
        """Memory of its process, as Linux tells it."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def served(bundle: Path, options: Sequence[str]) -> Iterator[Served]:
    """Serve a bundle while the block runs.

    Raises:
        BenchError: it does not start.
    """
    command = [sys.executable, "-m", "adaptrt.cli", "serve", str(bundle), "--http-port", "0", "--grpc-port", "0"]
    process = subprocess.Popen([*command, "--json", *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            if not line:
                raise BenchError("got a server that did not start, expected one; its message is above")
            text += line
        address = json.loads(text)
        yield Served(f"127.0.0.1:{address['http_port']}", f"127.0.0.1:{address['grpc_port']}", process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()
