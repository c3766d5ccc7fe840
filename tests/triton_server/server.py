"""The tritonserver of the package nvidia-pytriton, which has the Python backend alone, in a process of its own.

Its environment has numpy 1, which that backend's process needs, and adaptrt's runtime: ``make triton-test`` makes it.
The process that runs models takes the first Python of ``PATH`` for its environment, and no ``PYTHONPATH``.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx

_START_S = 180.0
_SITE = "import sysconfig, sys; print(sysconfig.get_path('purelib')); print('%d.%d' % sys.version_info[:2])"


class TritonServer:
    """A server that was started.

    Args:
        python: of the environment with the server.
        repository: the models.
        scratch: an empty folder.

    Attributes:
        http: its address.
        grpc: its address for gRPC.
    """

    def __init__(self, python: str, repository: Path, scratch: Path) -> None:
        told = subprocess.run([python, "-c", _SITE], capture_output=True, text=True, check=True)
        site, version = told.stdout.split()
        source = Path(site) / "pytriton" / "tritonserver"
        backends = scratch / "backends"
        shutil.copytree(source / "backends", backends)
        stub = "triton_python_backend_stub"
        shutil.copy(source / "python_backend_stubs" / version / stub, backends / "python" / stub)
        ports = [_free_port() for _ in range(2)]
        self.http, self.grpc = (f"127.0.0.1:{port}" for port in ports)
        self._log = scratch / "server.log"
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(Path(site) / "nvidia_pytriton.libs"),
            "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}",
            "ADAPTRT_CACHE": str(scratch / "cache"),
        }
        words = {
            "model-repository": repository,
            "backend-directory": backends,
            "http-address": "127.0.0.1",
            "grpc-address": "127.0.0.1",
            "http-port": ports[0],
            "grpc-port": ports[1],
            "allow-metrics": "false",
            "exit-timeout-secs": 3,
        }
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [source / "bin" / "tritonserver", *(f"--{name}={word}" for name, word in words.items())],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        until = time.monotonic() + _START_S
        while not self._ready():
            assert self.process.poll() is None and time.monotonic() < until, f"no server: {self.log()}"
            time.sleep(0.2)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"http://{self.http}/v2/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text()

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(30)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
