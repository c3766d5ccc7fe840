"""Layers distilled by the machines of a Ray cluster, which need no common disk.

A task gets its block's activations as an object of Ray's store, which workers of a machine read without copying, and
gives back the checkpoint of its phase's end. Ray itself begins the task of a lost machine anew on another one.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptrt import AdaptrtError, write_atomically
from adaptrt.models.training.activations import Activations
from adaptrt.models.training.layer_jobs import (
    CommonProgress,
    LayerExecutor,
    LayerJob,
    LayerJobError,
    checkpoint_of,
    unpacked,
    using_threads,
)
from adaptrt.models.training.phase import Report

_RETRIES = 2
"""Of a task whose process or machine is lost; Ray counts them."""
_ANSWER_SECONDS = 12.0
"""To join the cluster: asked for one that is not there, Ray itself tries for more than a minute."""
_SOCKET_SECONDS = 3.0
_EMPTY_SECONDS = 60.0
"""Without a machine that could take a task before the run is given up."""

_JOIN = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR'); ray.shutdown()"


class RayNodes(LayerExecutor):
    """Jobs as tasks of a Ray cluster, of which this machine is a part.

    Args:
        address: HOST:PORT of the cluster, as ``ray start --head`` prints it.
        threads: Of each task, which is given as many CPUs; None: all CPUs divided by the layers, at least one.
    """

    def __init__(self, address: str, threads: int | None = None) -> None:
        super().__init__(threads)
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not port.isdecimal() or int(port) > 65535:
            raise LayerJobError(
                f"got --ray {address!r}, expected HOST:PORT of a running cluster; start one with `ray start --head`, "
                "which prints its address"
            )
        self.address, self._host, self._port = address, host.strip("[]"), int(port)
        self._joined = False

    def check(self) -> None:
        """Join the cluster once, in a process that can be ended when no answer comes; see the base class."""
        import ray  # a missing package is told first  # noqa: F401

        try:
            socket.create_connection((self._host, self._port), timeout=_SOCKET_SECONDS).close()
        except OSError as error:
            raise self._no_answer(error.strerror or str(error) or type(error).__name__) from error
        command = [sys.executable, "-c", _JOIN, self.address]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise self._no_answer("it speaks no Ray, or is too busy") from error
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise self._no_answer(lines[-1] if lines else f"exit code {done.returncode}")

    def _no_answer(self, cause: str) -> LayerJobError:
        return LayerJobError(
            f"cannot join Ray at {self.address}: {cause}; expected a running cluster that this machine is part of: "
            f"`ray start --head` on one machine, `ray start --address={self.address}` on the others"
        )

    def run(self, jobs: Sequence[LayerJob], kept: Activations, folder: Path, report: Report) -> None:
        """Run them; see the base class."""
        import ray

        if not self._joined and not ray.is_initialized():
            self.check()
            # Always to an address: without one Ray joins whatever cluster it finds on this machine.
            ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")
            self._joined = True
        if self.threads is None:
            self.threads = _threads(ray, len(kept.blocks))
        # Ray's own choice fills half of this machine first.
        remote = ray.remote(num_cpus=self.threads, max_retries=_RETRIES, scheduling_strategy="SPREAD")(_run_far)
        common, waiting, running = CommonProgress(jobs, report), deque(jobs), dict[Any, LayerJob]()
        last_room = time.monotonic()
        try:
            while waiting or running:
                cpus = float(ray.cluster_resources().get("CPU", 0))
                if cpus >= self.threads:
                    last_room = time.monotonic()
                elif time.monotonic() - last_room > _EMPTY_SECONDS:
                    raise LayerJobError(
                        f"Ray at {self.address} has {cpus:g} CPUs left, expected {self.threads} for each layer; add "
                        "machines and run the command again, finished layers are kept"
                    )
                # No more than can run, and one that waits: activations of all blocks would fill the store.
                while waiting and len(running) <= cpus // self.threads:
                    job = waiting.popleft()
                    running[_submit(ray, remote, job, kept, folder, self.threads)] = job
                ready, _ = ray.wait([*running], num_returns=1, timeout=1.0)
                for reference in ready:
                    job = running.pop(reference)
                    write_atomically(checkpoint_of(job, folder), _result(ray, reference, job))
                    common.over(job.number)
                common.tell()
        except BaseException:
            for reference in running:
                with contextlib.suppress(Exception):
                    ray.cancel(reference)
            self.close()
            raise

    def close(self) -> None:
        """Leave the cluster, which ends this run's tasks."""
        if self._joined:
            import ray

            ray.shutdown()
            self._joined = False


def _threads(ray: Any, layers: int) -> int:
    """Threads of a task: the CPUs of all machines divided by the layers, but no more than the smallest machine has."""
    sizes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    sizes = [size for size in sizes if size]
    return max(1, min([sum(sizes) // layers, *sizes])) if sizes else 1


def _submit(ray: Any, remote: Any, job: LayerJob, kept: Activations, folder: Path, threads: int) -> Any:
    """Send a job with all it needs: its activations, and the checkpoint of an earlier run if there is one."""
    checkpoint = checkpoint_of(job, folder)
    begun = checkpoint.read_bytes() if checkpoint.exists() else None
    activations = ray.put(np.asarray(kept.of_block(job.number)))
    return remote.remote(job.packed(), activations, begun, threads)


def _result(ray: Any, reference: Any, job: LayerJob) -> bytes:
    """The checkpoint that a task gave back.

    Raises:
        LayerJobError: Its machines are lost, or cannot do it.
        AdaptrtError: What the phase itself raised.
    """
    try:
        content = ray.get(reference)
        assert isinstance(content, bytes)
        return content
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, AdaptrtError):
            raise cause from error
        missing = re.search(r"No module named '([\w.]+)'", str(error))
        if missing:
            raise LayerJobError(
                f"a machine of the cluster has no {missing[1]}, expected what this one has; install the same "
                "adaptrt[ray] on all of them"
            ) from error
        raise
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines()
        raise LayerJobError(
            f"the task that had block {job.number} was lost {1 + _RETRIES} times ("
            f"{lines[0].rstrip('.') if lines else type(error).__name__}), expected it to finish; look after the "
            "machines and run the command again, finished layers are kept"
        ) from error


def _run_far(packed: bytes, activations: npt.NDArray[np.float16], begun: bytes | None, threads: int) -> bytes:
    """Run a job on another machine; gives the checkpoint of its end."""
    job = unpacked(packed)
    with tempfile.TemporaryDirectory(prefix="adaptrt-") as folder, using_threads(threads):
        checkpoint = checkpoint_of(job, Path(folder))
        if begun is not None:
            checkpoint.write_bytes(begun)
        job.run(Activations({job.number: activations}), checkpoint, lambda _progress: None)
        return checkpoint.read_bytes()
