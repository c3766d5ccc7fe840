"""A server whose model takes a time that the tests choose: a second of sleep is no work for the machine."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import Any

import click
import msgspec
import numpy as np

from adaptrt.runtime import Budget, load
from adaptrt.runtime.serving.served_model import ServedModel
from adaptrt.runtime.serving.server import Address, ServerSettings, serve
from tests.serving.server_process import FIXTURES


@click.command()
@click.option("--ms", type=float, required=True, help="Of a call that does all the work of one sample.")
@click.option("--fail-on", type=float, help="A first number at which the engine fails.")
@click.option("--http-port", type=int)
@click.option("--grpc-port", type=int)
@click.option("--json", "as_json", is_flag=True)
@click.option("--max-queue", type=int, default=256)
@click.option("--max-batch", type=int, default=1)
@click.option("--max-connections", type=int, default=512)
@click.option("--max-request-bytes", type=int, default=1 << 20)
@click.option("--receive-seconds", "receive_s", type=float, default=30.0)
def main(ms: float, fail_on: float | None, as_json: bool, **settings: Any) -> None:
    """Serve the bundle ``tiny``, slowly."""
    del as_json
    model = load(FIXTURES / "tiny", threads=1)
    run, serving = model.run, False

    def slow(inputs: Any, **named: Any) -> Any:
        if fail_on is not None and inputs["x"][0, 0] == fail_on:
            raise RuntimeError("/a/secret/path: the engine broke")
        result = run(inputs, **named)
        rows = max(len(inputs["x"]), 1)
        took = ms * rows * float(result.macs_fraction.mean() if result.macs_fraction.size else 0.0)
        if serving:  # while the device is measured it is enough to say so
            time.sleep(took / 1e3)
        return msgspec.structs.replace(result, latency_ms=result.latency_ms + took)

    model.run = slow  # type: ignore[method-assign]
    served = ServedModel(model, Budget.full(), {"x": np.ones((1, 4), np.float32)}, settings["max_batch"])

    def started(address: Address) -> None:
        nonlocal serving
        serving = True
        print(json.dumps(asdict(address), indent=1))
        sys.stdout.flush()

    serve([served], ServerSettings(**settings), started)


if __name__ == "__main__":
    main()
