"""Batches of a calibration, run by several processes of this machine at once.

A sample's result depends neither on its batch-mates nor on who runs it, and every process has one thread: the answers
are those that one process gives, bit by bit.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from adaptrt import AdaptrtError
from adaptrt.export.calibration.worker_process import (
    PORTABLE,
    WORK,
    Array,
    Call,
    EngineOptions,
    Failed,
    SingleThreaded,
)
from adaptrt.export.errors import CalibrationError
from adaptrt.models.training.interpreters import end_interpreter, start_interpreter
from adaptrt.runtime.bundle.schema import Bundle
from adaptrt.runtime.device.processors import granted_processors

MOST_WORKERS = 8
"""Processes unless told otherwise: each holds the network once more, and a pass has some eight batches."""
_WORTH_A_WORKER = 1e11
"""Multiply-accumulates, some seconds of a core, below which a process takes about as long to start as it saves."""
_AHEAD = 4
"""Answers that wait for an earlier one, for each process, at most."""
_ENDING_SECONDS = 5.0


@dataclass
class _Worker:
    """A process, and the number of the call that it has."""

    process: subprocess.Popen[bytes]
    connection: Connection
    call: int | None = None


class Workers:
    """A bundle loaded by several processes, a ``StagedModel``; use as a context manager, which ends them.

    Args:
        folder: The bundle's files.
        bundle: What they are.
        count: Processes, at least 1; they start when the block is entered.
        engine: What runs the stages.
    """

    def __init__(self, folder: Path, bundle: Bundle, count: int, engine: EngineOptions = PORTABLE) -> None:
        self.bundle, self._folder, self._count, self._engine = bundle, folder.resolve(), count, engine
        self._running: list[_Worker] = []
        self._numbers = itertools.count()

    def __enter__(self) -> Workers:
        try:
            for _ in range(self._count):
                self._running.append(_start())
            for worker in self._running:
                self._send(worker, (self._folder, self.bundle, self._engine))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pids(self) -> list[int]:
        """The processes that run now."""
        return [worker.process.pid for worker in self._running]

    def run(self, inputs: Mapping[str, Array], *, knobs: Any = None, decisions: bool = False) -> Any:
        """Run a batch; see ``AdaptiveModel.run``."""
        return next(self.answers([Call("run", inputs, {"knobs": knobs, "decisions": decisions})]))

    def run_stages(self, inputs: Mapping[str, Array], *, knobs: Any = None) -> list[dict[str, Array]]:
        """Run every stage on all samples; see ``AdaptiveModel.run_stages``."""
        found: list[dict[str, Array]] = next(self.answers([Call("run_stages", inputs, {"knobs": knobs})]))
        return found

    def answers(self, calls: Iterable[Call]) -> Iterator[Any]:
        """What the calls give, in their order; those to come are worked on while one is used.

        Raises:
            CalibrationError: A process died.
            AdaptrtError: What a call raised.
        """
        waiting: Iterator[Call] | None = iter(calls)
        places: dict[int, int] = {}
        answers: dict[int, Any] = {}
        due = 0
        while True:
            for worker in [worker for worker in self._running if worker.call is None]:
                if waiting is None or len(places) - due >= _AHEAD * len(self._running):
                    break
                call = next(waiting, None)
                if call is None:
                    waiting = None
                    break
                worker.call = next(self._numbers)
                places[worker.call] = len(places)
                self._send(worker, (worker.call, call))
            if due in answers:
                yield _checked(answers.pop(due))
                due += 1
                self._hear(places, answers, seconds=0.0)
            elif waiting is None and due == len(places):
                return
            else:
                self._hear(places, answers, seconds=1.0)

    def _hear(self, places: Mapping[int, int], answers: dict[int, Any], *, seconds: float) -> None:
        """Take what has come; answers to calls of a search that ended before are dropped."""
        ready = wait([worker.connection for worker in self._running], timeout=seconds)
        for worker in self._running:
            if worker.connection not in ready:
                continue
            try:
                number, answer = worker.connection.recv()
            except (EOFError, OSError) as error:
                raise _died(worker) from error
            worker.call = None
            if number in places:
                answers[places[number]] = answer

    def _send(self, worker: _Worker, message: object) -> None:
        try:
            worker.connection.send(message)
        except OSError as error:
            raise _died(worker) from error

    def close(self) -> None:
        """End the processes: asked first, then killed."""
        for worker in self._running:
            worker.process.terminate()
        ending = time.monotonic() + _ENDING_SECONDS
        for worker in self._running:
            end_interpreter(worker.process, ending - time.monotonic())
            worker.connection.close()
        self._running.clear()


@contextlib.contextmanager
def opened(
    folder: Path, bundle: Bundle, workers: int, engine: EngineOptions = PORTABLE
) -> Iterator[SingleThreaded | Workers]:
    """A bundle to calibrate, loaded by this process or by several others.

    Args:
        folder: The bundle's files.
        bundle: What they are; a ``bundle.json`` need not be among them.
        workers: Processes; 1: this one.
        engine: What runs the stages.

    Raises:
        BundleError: A file is missing, damaged or another one.
        BackendError: The engine refuses the graphs.
    """
    if workers == 1:
        yield SingleThreaded(folder, bundle, engine)
        return
    with Workers(folder, bundle, workers, engine) as running:
        yield running


def chosen_workers(asked: int | None, macs: float) -> int:
    """How many processes to calibrate with.

    Args:
        asked: By the user; None: as many as there are cores to use, ``MOST_WORKERS`` at most, and no more than the
            work keeps busy.
        macs: Multiply-accumulates of the whole work, about.

    Raises:
        CalibrationError: Less than 1 is asked for.
    """
    if asked is None:
        return max(1, min(granted_processors().threads, MOST_WORKERS, int(macs / _WORTH_A_WORKER)))
    if asked < 1:
        raise CalibrationError(f"got {asked} workers, expected at least 1")
    return asked


def _start() -> _Worker:
    here, there = multiprocessing.Pipe()
    process = start_interpreter(["-c", WORK, str(there.fileno())], pass_fds=[there.fileno()])
    there.close()  # this process's copy: the connection ends when the other process does
    return _Worker(process, here)


def _died(worker: _Worker) -> CalibrationError:
    worker.connection.close()  # one that lives without it ends now
    end_interpreter(worker.process, _ENDING_SECONDS)
    code = worker.process.returncode
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return CalibrationError(
        f"a process that ran calibration data died ({how}), expected it to go on; free some memory or use fewer workers"
    )


def _checked(answer: Any) -> Any:
    if not isinstance(answer, Failed):
        return answer
    if isinstance(answer.error, AdaptrtError):
        raise answer.error
    raise RuntimeError(f"in a process that ran calibration data:\n{answer.error}")
