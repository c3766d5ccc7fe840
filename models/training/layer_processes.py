"""Layers distilled by several processes of this machine, each with its share of the threads."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from adaptrt import AdaptrtError
from adaptrt.models.training.activations import Activations
from adaptrt.models.training.interpreters import end_interpreter, start_interpreter
from adaptrt.models.training.layer_jobs import (
    CommonProgress,
    LayerExecutor,
    LayerJob,
    LayerJobError,
    checkpoint_of,
    unpacked,
)
from adaptrt.models.training.phase import Progress, Report

_TRIES = 2
"""Of a job whose process dies: what killed it may have been meant for another one."""
_NEWS_SECONDS = 0.2
_WORK = "from adaptrt.models.training.layer_processes import work; work()"
_ENDING_SECONDS = 5.0


@dataclass
class _Worker:
    """A process, and the job that it has."""

    process: subprocess.Popen[bytes]
    connection: Connection
    job: LayerJob | None = None


class Processes(LayerExecutor):
    """Jobs in processes that are started with a fresh interpreter and stay until the last job is done.

    A process that dies is replaced and its job tried once more, from its last checkpoint.

    Args:
        workers: Number of processes.
        threads: Of each; None: an equal share of those that torch uses here.
    """

    def __init__(self, workers: int, threads: int | None = None) -> None:
        if workers < 1:
            raise ValueError(f"got {workers} workers, expected at least 1")
        super().__init__(threads or max(1, torch.get_num_threads() // workers))
        self.workers = workers
        self._running: list[_Worker] = []

    def pids(self) -> list[int]:
        """The processes that run now."""
        return [worker.process.pid for worker in self._running]

    def run(self, jobs: Sequence[LayerJob], kept: Activations, folder: Path, report: Report) -> None:
        """Run them; see the base class."""
        assert kept.folder is not None and self.threads is not None
        waiting, tries = deque(jobs), dict.fromkeys((job.number for job in jobs), 0)
        common = CommonProgress(jobs, report)
        try:
            while waiting or any(worker.job for worker in self._running):
                while len(self._running) < min(self.workers, len(jobs)):
                    self._running.append(_start(kept.folder, folder, self.threads))
                for worker in self._running:
                    if worker.job is None and waiting:
                        job = waiting.popleft()
                        tries[job.number] += 1
                        worker.job = job
                        # A process that died meanwhile is found out below.
                        with contextlib.suppress(OSError):
                            worker.connection.send_bytes(job.packed())
                ready = wait([worker.connection for worker in self._running], timeout=1.0)
                common.tell()
                for worker in [worker for worker in self._running if worker.connection in ready]:
                    if not self._hear(worker, common):
                        self._bury(worker, waiting, tries)
        except BaseException:
            self.close()
            raise

    def _hear(self, worker: _Worker, common: CommonProgress) -> bool:
        """Take one message; False: the process is dead."""
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            return False
        assert worker.job is not None
        if isinstance(message, Progress):
            common.add(worker.job.number, message)
        elif isinstance(message, AdaptrtError):
            raise message
        elif isinstance(message, str):
            raise RuntimeError(f"in the process that had block {worker.job.number}:\n{message}")
        else:
            common.over(worker.job.number)
            worker.job = None
        return True

    def _bury(self, worker: _Worker, waiting: deque[LayerJob], tries: dict[int, int]) -> None:
        """Give a dead process's job to the next one that is free, unless it has cost two processes.

        Raises:
            LayerJobError: It has.
        """
        worker.connection.close()  # one that lives without it ends now
        end_interpreter(worker.process, _ENDING_SECONDS)
        self._running.remove(worker)
        job = worker.job
        if job is None:
            return
        if tries[job.number] >= _TRIES:
            code = worker.process.returncode
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise LayerJobError(
                f"the process that had block {job.number} died {_TRIES} times (the last by {how}), expected it to "
                "finish; free some memory or use fewer --workers, finished blocks are kept"
            )
        waiting.appendleft(job)

    def close(self) -> None:
        """End the processes: asked first, then killed."""
        for worker in self._running:
            worker.process.terminate()
        ending = time.monotonic() + _ENDING_SECONDS
        for worker in self._running:
            end_interpreter(worker.process, ending - time.monotonic())
            worker.connection.close()
        self._running.clear()


def _start(activations: Path, folder: Path, threads: int) -> _Worker:
    """Start a process."""
    here, there = multiprocessing.Pipe()
    command = ["-c", _WORK, str(there.fileno()), str(activations), str(folder), str(threads)]
    process = start_interpreter(command, pass_fds=[there.fileno()])
    there.close()  # this process's copy: the connection ends when the other process does
    return _Worker(process, here)


def work() -> None:
    """A process's life: job after job, until it is told to end or who started it is gone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # half-written files are removed on the way
    connection, activations, folder, threads = Connection(int(sys.argv[1])), *map(Path, sys.argv[2:4]), int(sys.argv[4])
    torch.set_num_threads(threads)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            job = unpacked(connection.recv_bytes())
            last_news = 0.0

            def tell(progress: Progress) -> None:
                nonlocal last_news
                if time.monotonic() - last_news > _NEWS_SECONDS:
                    connection.send(progress)
                    last_news = time.monotonic()

            try:
                job.run(Activations.of(activations, [job.number]), checkpoint_of(job, folder), tell)
            except ConnectionError:
                raise
            except AdaptrtError as error:
                connection.send(error)
            except Exception:
                connection.send(traceback.format_exc())
            else:
                connection.send(None)
