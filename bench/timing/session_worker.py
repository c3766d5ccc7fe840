"""The child of ``SessionProcess``: one ONNX Runtime session that answers JSON lines.

``python -m adaptrt.bench.timing.session_worker MODEL --threads N`` answers one line when the session stands,
then one line for each line on standard input, and ends when that is closed. A *feed* gives for each
input of the graph the name of an array loaded before.

==================================================== ===================================================
request                                              answer
==================================================== ===================================================
(none: the session stands)                           ``{"inputs": [...], "outputs": [...], ...}``
``{"load": "arrays.npz"}``                           ``{"loaded": ["x0", ...]}``
``{"time": [feed, ...], "warm": 1, "runs": 3}``      ``{"seconds": [[...], ...]}``, a list per feed
``{"output": "name", "feed": feed}``                 ``{"values": [...]}``, flattened
anything that fails                                  ``{"error": "one line"}``, and the worker goes on
==================================================== ===================================================

This module imports nothing that the timed process does not need. ``bundle_worker`` speaks the same
protocol with a whole bundle in the session's place.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, TextIO

import numpy as np
import onnxruntime

Array = np.ndarray[Any, Any]

REFUSED = 3
"""Exit code of a worker that says in the last line of its errors what is wrong with what it was to run."""


class Runner(Protocol):
    """What a worker runs."""

    def describe(self) -> dict[str, Any]:
        """Names of the ``inputs`` and ``outputs``, the ``backend`` and the ``engine`` with its version."""
        ...

    def prepare(self, feed: Mapping[str, Array]) -> Callable[[], object]:
        """A run on these arrays, with nothing left to do that a caller does once."""
        ...

    def output(self, name: str, feed: Mapping[str, Array]) -> Array:
        """Run once and give one output."""
        ...


class Session:
    """One ONNX Runtime session.

    Args:
        model: ONNX file.
        threads: Threads that one operator may use.
        outputs: What a timed run fetches; None: every output.
    """

    def __init__(self, model: Path, threads: int, outputs: list[str] | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        if threads > 1:
            # Threads that spin after a run would slow the process whose turn is next.
            options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # pybind's exceptions share no base class
            raise ValueError(f"onnxruntime {onnxruntime.__version__} refuses the graph: {error}") from error
        self._outputs = outputs

    def describe(self) -> dict[str, Any]:
        """Names of the graph's inputs and outputs."""
        return {
            "inputs": [node.name for node in self._session.get_inputs()],
            "outputs": [node.name for node in self._session.get_outputs()],
            "backend": "onnxruntime",
            "engine": f"onnxruntime {onnxruntime.__version__}",
        }

    def prepare(self, feed: Mapping[str, Array]) -> Callable[[], object]:
        """A run of the graph."""
        return partial(self._session.run, self._outputs, dict(feed))

    def output(self, name: str, feed: Mapping[str, Array]) -> Array:
        """Run once and give one output."""
        (values,) = self._session.run([name], dict(feed))
        return np.asarray(values)


class Worker:
    """What runs, and the arrays that it may be fed."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._arrays: dict[str, Array] = {}

    def describe(self) -> dict[str, Any]:
        """What it is; see ``Runner``."""
        return self._runner.describe()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one request asks.

        Raises:
            ValueError: It asks for nothing known.
            KeyError: It names an array that was not loaded.
        """
        if "load" in request:
            with np.load(request["load"], allow_pickle=False) as arrays:
                loaded = {name: arrays[name] for name in arrays.files}
            self._arrays.update(loaded)
            return {"loaded": sorted(loaded)}
        if "time" in request:
            return {"seconds": self._time(request["time"], request["warm"], request["runs"])}
        if "output" in request:
            values = self._runner.output(request["output"], self._feed(request["feed"]))
            return {"values": values.astype(np.float64).ravel().tolist()}
        raise ValueError(f"got a request for {sorted(request)}, expected load, time or output")

    def _feed(self, names: dict[str, str]) -> dict[str, Array]:
        return {name: self._arrays[array] for name, array in names.items()}

    def _time(self, feeds: list[dict[str, str]], warm: int, runs: int) -> list[list[float]]:
        """Seconds of every run, per feed; the feeds take turns, so that all see the same conditions."""
        ready = [self._runner.prepare(self._feed(feed)) for feed in feeds]
        seconds: list[list[float]] = [[] for _ in ready]
        for index in range(warm):
            ready[index % len(ready)]()
        gc.disable()
        try:
            for _ in range(runs):
                for run, own in zip(ready, seconds, strict=True):
                    start = perf_counter()
                    run()
                    own.append(perf_counter() - start)
        finally:
            gc.enable()
        return seconds


def serve(worker: Worker, requests: Iterable[str], answers: TextIO) -> None:
    """Answer requests, one JSON line each, until there are no more."""
    print(json.dumps(worker.describe()), file=answers, flush=True)
    for line in requests:
        try:
            answer = worker.answer(json.loads(line))
        except Exception as error:  # pybind's exceptions share no base class
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        print(json.dumps(answer), file=answers, flush=True)


def serve_process(make: Callable[[argparse.Namespace], Runner], parser: argparse.ArgumentParser) -> None:
    """Run a worker on this process's standard input and output.

    Args:
        make: Makes what runs, of the parsed arguments. What it raises ends the process, in one line.
        parser: Of the command line.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which then closes our input
    # Answers alone go to standard output: whatever a library prints there joins the errors.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    arguments = parser.parse_args()
    try:
        worker = Worker(make(arguments))
    except Exception as error:  # as above
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(REFUSED)
    serve(worker, sys.stdin, answers)


def main() -> None:
    """Run one session."""
    parser = argparse.ArgumentParser(description="One ONNX Runtime session answering JSON lines.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", action="append", help="an output to fetch; default: all")
    serve_process(lambda chosen: Session(chosen.model, chosen.threads, chosen.output), parser)


if __name__ == "__main__":
    main()
