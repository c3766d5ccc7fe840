"""One model per process: two in one process slow each other by their thread pools."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from adaptrt.bench.errors import BenchError
from adaptrt.bench.timing.engine_choice import EngineChoice
from adaptrt.bench.timing.session_worker import REFUSED

Array = np.ndarray[Any, Any]
Feed = Mapping[str, str]
"""For each input of a graph, the name of a loaded array."""

_USUAL = EngineChoice()
_STDERR_SHOWN = 500  # characters
_PATIENCE = 5.0  # seconds that a killed process gets to be gone


class SessionProcess:
    """A process that holds one ONNX Runtime session and times its runs; use it in a ``with`` statement.

    The process ends with the block, whatever ends the block, and by itself when this one dies.

    Args:
        model: ONNX file.
        threads: Threads that one operator may use.
        outputs: What a timed run fetches; None: every output.
        options: Further words for the worker's command line.

    Attributes:
        inputs: Names of what can be fed.
        outputs: Names of what can be asked for.
        engine: What executes it, with its version.
        backend: Which of the runtime's backends that is.

    Raises:
        BenchError: The process or the session in it does not start.
    """

    _WORKER = "adaptrt.bench.timing.session_worker"

    def __init__(
        self, model: Path, *, threads: int = 1, outputs: Sequence[str] | None = None, options: Sequence[str] = ()
    ) -> None:
        if threads < 1:
            raise BenchError(f"got {threads} threads, expected at least 1")
        self.name = model.name
        fetched = [part for name in outputs or () for part in ("--output", name)]
        self._folder = tempfile.TemporaryDirectory(prefix="adaptrt-bench-", ignore_cleanup_errors=True)
        self._stderr = (Path(self._folder.name) / "stderr").open("w+b")
        self._process: subprocess.Popen[str] | None = None
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._WORKER, str(model), "--threads", str(threads), *fetched, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                encoding="utf-8",
            )
            described = self._read()
        except OSError as error:
            self.close()
            raise BenchError(f"cannot start a process for {self.name}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise
        self.inputs: list[str] = described["inputs"]
        self.outputs: list[str] = described["outputs"]
        self.engine: str = described["engine"]
        self.backend: str = described["backend"]

    def __enter__(self) -> SessionProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process at once; it has nothing to lose. Closing again does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # a request that never left
                        pipe.close()
        self._stderr.close()
        self._folder.cleanup()

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Give the process arrays to be named in feeds; one of a name loaded before replaces it.

        Raises:
            BenchError: The process died, or there is no space for them.
        """
        file = Path(self._folder.name) / "arrays.npz"
        try:
            with file.open("wb") as opened:
                np.savez(opened, **dict(arrays))  # type: ignore[arg-type]
            self._ask({"load": str(file)})
        except OSError as error:
            raise BenchError(f"cannot hand arrays to the process of {self.name}: {error.strerror or error}") from error
        finally:
            file.unlink(missing_ok=True)

    def time(self, feeds: Sequence[Feed], *, warm: int = 1, runs: int = 1) -> list[list[float]]:
        """Time runs of the session.

        Args:
            feeds: What to run, in turn.
            warm: Runs before, not timed.
            runs: Timed runs of each feed.

        Returns:
            Seconds: a list of ``runs`` for each feed.

        Raises:
            BenchError: A run failed or the process died.
        """
        if not feeds or runs < 1 or warm < 0:
            raise BenchError(f"got {len(feeds)} feeds, {runs} runs and {warm} to warm up, expected at least 1, 1 and 0")
        answer = self._ask({"time": [dict(feed) for feed in feeds], "warm": warm, "runs": runs})
        seconds: list[list[float]] = answer["seconds"]
        return seconds

    def output(self, name: str, feed: Feed) -> Array:
        """Run once and give an output, flattened, as float64; for small outputs.

        Raises:
            BenchError: The run failed or the process died.
        """
        return np.array(self._ask({"output": name, "feed": dict(feed)})["values"], np.float64)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._process is None:
            raise BenchError(f"the process of {self.name} is closed, expected a running one; start another")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        answer = self._read()
        if "error" in answer:
            raise BenchError(f"{self.name}: {answer['error']}")
        return answer

    def _read(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _death(self) -> BenchError:
        """Say how the process ended and what it last printed."""
        assert self._process is not None
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_PATIENCE)
        ending = "stopped answering" if code is None else f"ended with code {code}"
        self._stderr.seek(0)
        lines = [line for line in self._stderr.read().decode(errors="replace").split("\n") if line.strip()]
        if code == REFUSED and lines:
            return BenchError(f"{self.name}: {lines[-1]}")
        text = " ".join(" ".join(lines).split())
        said = f"…{text[-_STDERR_SHOWN:]}" if len(text) > _STDERR_SHOWN else text or "it printed nothing"
        return BenchError(f"the process of {self.name} {ending}, expected an answer: {said}")


@dataclass(frozen=True)
class FreshProcess:
    """A process that is started anew for every turn: one may be 5% faster than the next by where its memory lies.

    Attributes:
        start: Starts it.
        arrays: What its feeds name.
    """

    start: Callable[[], SessionProcess]
    arrays: Mapping[str, Array]

    def time(self, feeds: Sequence[Feed], *, warm: int = 1, runs: int = 1) -> list[list[float]]:
        """Time runs in a new process; see ``SessionProcess.time``.

        Raises:
            BenchError: It does not start, a run failed or it died.
        """
        with self.start() as process:
            process.load(self.arrays)
            return process.time(feeds, warm=warm, runs=runs)


class BundleProcess(SessionProcess):
    """A process that holds a bundle on ``adaptrt.runtime``; the stages of its network take turns in it.

    Feeds name an array for the bundle's inputs and for any of its knobs, those of the host among them;
    ``output`` knows ``exit`` as well.

    Args:
        folder: The bundle.
        threads: Threads that one operator may use.
        choice: The engine.
        dense: Run the bundle's dense model instead, which a worker can on OpenVINO; a path: this form of it.

    Raises:
        BenchError: The process does not start, or the bundle does not load.
    """

    _WORKER = "adaptrt.bench.timing.bundle_worker"

    def __init__(
        self, folder: Path, *, threads: int = 1, choice: EngineChoice = _USUAL, dense: bool | Path = False
    ) -> None:
        of_dense = ["--dense-file", str(dense)] if isinstance(dense, Path) else ["--dense"] * dense
        super().__init__(folder, threads=threads, options=[*choice.arguments, *of_dense])
