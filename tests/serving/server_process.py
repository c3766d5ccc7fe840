"""A server in a process of its own: KServe and Triton's client both register the protocol and cannot share one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx

FIXTURES = Path(__file__).parent.parent / "runtime" / "fixtures"
CLI = ("-m", "adaptrt.cli", "serve")
SLOW = ("-m", "tests.serving.slow_server")
_START_S = 300


class ServerProcess:
    """A server that was started.

    Attributes:
        http: its address.
        grpc: its address for gRPC.
        http_port: the port.
    """

    def __init__(self, folder: Path, program: tuple[str, ...], *words: object) -> None:
        environment = {**os.environ, "ADAPTRT_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
        self._errors = folder / f"server-{id(self)}.err"
        command = [sys.executable, *program, *map(str, words), "--http-port", "0", "--grpc-port", "0", "--json"]
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True, start_new_session=True
            )
        watch = threading.Timer(_START_S, self.process.kill)
        watch.start()
        text, address = "", None
        assert self.process.stdout is not None
        while address is None:
            line = self.process.stdout.readline()
            assert line, f"the server did not start: {self.errors()}"
            text += line
            if line.startswith("}"):
                address = json.loads(text)
        watch.cancel()
        self.http_port: int = address["http_port"]
        self._client = httpx.Client(timeout=120, verify=False, limits=httpx.Limits(max_connections=None))
        self.http, self.grpc = f"127.0.0.1:{self.http_port}", f"127.0.0.1:{address['grpc_port']}"

    def errors(self) -> str:
        """What it wrote on stderr."""
        return self._errors.read_text()

    def post(self, model: str, body: Any, **named: Any) -> httpx.Response:
        """A request with this JSON, or these bytes."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._client.post(f"http://{self.http}/v2/models/{model}/infer", content=content, **named)

    def get(self, path: str) -> httpx.Response:
        """What is there."""
        return self._client.get(f"http://{self.http}{path}")

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value, over all labels that are not given; 0 where it is not there."""
        total = 0.0
        for line in self.get("/metrics").text.splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(f'{key}="{one}"' in series for key, one in labels.items()):
                total += float(value)
        return total

    def stop(self) -> int:
        """End it as a service is ended; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)

    def kill(self) -> None:
        """End it whatever it does."""
        self._client.close()
        self.process.kill()
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


def tensor(name: str, shape: list[int], data: Any, datatype: str = "FP32") -> dict[str, Any]:
    """An input in JSON."""
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def tiny(budget: str | None = None, **parameters: Any) -> dict[str, Any]:
    """A request of one sample to the bundle ``tiny``."""
    if budget is not None:
        parameters["budget"] = budget
    return {"inputs": [tensor("x", [1, 4], [0.5, 1.0, -1.0, 2.0])], "parameters": parameters}
