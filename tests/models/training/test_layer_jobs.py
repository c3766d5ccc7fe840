"""Layers distilled in several processes: the same weights as in one, processes that die, going on, refusals."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptrt.models.network import Network
from adaptrt.models.training.adapting import adapt_network
from adaptrt.models.training.layer_executors import executor_for
from adaptrt.models.training.layer_jobs import InProcess, LayerExecutor, LayerJob, LayerJobError, using_threads
from adaptrt.models.training.layer_phases import adaptive_of, ffn_of
from adaptrt.models.training.layer_processes import Processes
from adaptrt.models.training.layer_ray import RayNodes
from adaptrt.models.training.phase import CheckpointError, Progress
from tests.models.training.test_adapting import SETTINGS, StoppedError, dense_of, quiet, samples_of

pytestmark = pytest.mark.slow("starts interpreters that import torch")

LONG = dataclasses.replace(SETTINGS, distil_steps=400, joint_steps=2)
"""Long enough that a process can be killed in the middle of a layer."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with using_threads(1):
        yield


def same(one: Network, other: Network) -> bool:
    """Whether all weights are equal, bit by bit."""
    others = other.state_dict()
    return all(torch.equal(value, others[name]) for name, value in one.state_dict().items())


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    dense = dense_of()
    samples = samples_of(dense)
    alone = adapt_network(dense, samples, SETTINGS, tmp_path / "alone", quiet)
    news: list[Progress] = []
    executor = Processes(2, threads=1)
    together = adapt_network(dense, samples, SETTINGS, tmp_path / "together", news.append, executor)
    assert same(alone, together) and not executor.pids()
    logs = [(tmp_path / name / "losses.json").read_text() for name in ("alone", "together")]
    assert logs[0] == logs[1]
    layers = [progress for progress in news if progress.phase == "distil 3 layers"]
    assert layers[-1].step == layers[-1].steps == 3 * SETTINGS.distil_steps
    assert all(first.step <= second.step for first, second in itertools.pairwise(layers))
    assert not list((tmp_path / "together").glob(".*"))


class Killer:
    """Kills a process that is at work, so many times."""

    def __init__(self, executor: Processes, times: int) -> None:
        self.executor, self.left, self.killed = executor, times, set[int]()

    def __call__(self, progress: Progress) -> None:
        fresh = [pid for pid in self.executor.pids() if pid not in self.killed]
        if progress.phase.startswith("distil") and 0 < progress.step < progress.steps and self.left and fresh:
            self.left -= 1
            self.killed.add(fresh[0])
            os.kill(fresh[0], signal.SIGKILL)


def test_a_killed_process_is_replaced(tmp_path: Path) -> None:
    dense = dense_of()
    samples = samples_of(dense)
    executor = Processes(2, threads=1)
    killer = Killer(executor, 1)
    adaptive = adapt_network(dense, samples, LONG, tmp_path / "killed", killer, executor)
    assert killer.left == 0
    assert same(adaptive, adapt_network(dense, samples, LONG, tmp_path / "whole", quiet))


def test_a_layer_that_kills_its_processes_is_an_error(tmp_path: Path) -> None:
    dense = dense_of()
    executor = Processes(1, threads=1)
    with pytest.raises(LayerJobError, match=r"died 2 times \(the last by signal 9\).*fewer --workers"):
        adapt_network(dense, samples_of(dense), LONG, tmp_path, Killer(executor, 9), executor)
    assert not executor.pids()


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    dense = dense_of()
    samples = samples_of(dense)
    whole = adapt_network(dense, samples, SETTINGS, tmp_path / "whole", quiet)

    def stop(progress: Progress) -> None:
        if progress.phase == "distil 3 layers" and progress.step >= SETTINGS.distil_steps:
            raise StoppedError

    executor = Processes(1, threads=1)
    with pytest.raises(StoppedError):
        adapt_network(dense, samples, SETTINGS, tmp_path / "parts", stop, executor)
    assert not executor.pids()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("distil*.pt")}
    assert finished

    class Counted(InProcess):
        """Counts the jobs that it is given."""

        numbers: list[tuple[str, int]]

        def run(self, jobs: Any, *rest: Any) -> None:
            self.numbers = [*getattr(self, "numbers", []), *((job.kind, job.number) for job in jobs)]
            super().run(jobs, *rest)

    counted = Counted(1)
    again = adapt_network(dense, samples, SETTINGS, tmp_path / "parts", quiet, counted)
    assert same(whole, again)
    assert len(counted.numbers) == 6 - len(finished)
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())

    class Never(LayerExecutor):
        """Must not be asked."""

        def run(self, *_: Any) -> None:
            raise AssertionError

    assert same(whole, adapt_network(dense, samples, SETTINGS, tmp_path / "parts", quiet, Never()))


def test_a_damaged_checkpoint_is_told_by_the_process_that_reads_it(tmp_path: Path) -> None:
    dense = dense_of()
    (tmp_path / "distil1.pt").write_bytes(b"nothing")
    executor = Processes(2, threads=1)
    with pytest.raises(CheckpointError, match=r"cannot go on from .*distil1.pt"):
        adapt_network(dense, samples_of(dense), SETTINGS, tmp_path, quiet, executor)
    assert not executor.pids()


_SCRIPT = """
import sys
from pathlib import Path
from adaptrt.models.training.layer_jobs import using_threads
from adaptrt.models.training.adapting import adapt_network
from adaptrt.models.training.layer_processes import Processes
from tests.models.training.test_adapting import dense_of, samples_of
from tests.models.training.test_layer_jobs import LONG
import dataclasses

def tell(progress):
    print(progress.phase, progress.step, *executor.pids(), flush=True)

if __name__ == "__main__":
    executor = Processes(2, threads=1)
    dense = dense_of()
    settings = dataclasses.replace(LONG, distil_steps=100_000)
    adapt_network(dense, samples_of(dense), settings, Path(sys.argv[1]), tell, executor)
"""


@pytest.mark.parametrize("how", ["Ctrl-C", "killed"])
def test_an_end_leaves_no_process(tmp_path: Path, how: str) -> None:
    root = Path(__file__).parents[3]
    (tmp_path / "script.py").write_text(_SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])}
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "work")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert process.stdout is not None and process.stderr is not None
    words: list[str] = []
    for line in process.stdout:
        words = line.split()
        if words[0] == "distil" and int(words[3]) > 0 and len(words) > 5:
            break
    pids = [int(word) for word in words[4:]]
    assert len(pids) == 2 and all(alive(pid) for pid in pids), process.stderr.read()
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all
    else:
        process.kill()
    process.stdout.close()
    said = process.stderr.read()
    process.wait(20)
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in pids)
    assert said.count("Traceback") <= 1, said
    assert not list((tmp_path / "work").glob(".*"))


# ---- what needs no process ----


def job_of() -> LayerJob:
    dense = dense_of()
    adaptive = dense.with_families([SETTINGS.acm])  # type: ignore[list-item]
    return LayerJob(1, ffn_of(dense.blocks[1]), adaptive_of(adaptive.blocks[1]), SETTINGS)


def test_a_job_is_packed_with_its_weights() -> None:
    job = job_of()
    again = pickle.loads(job.packed())
    x = torch.randn(5, 32)
    assert torch.equal(job.source(x), again.source(x)) and again.settings == job.settings
    assert torch.equal(job.ffn.learners.contributions(x), again.ffn.learners.contributions(x))
    assert again.source.activation is job.source.activation  # type: ignore[union-attr]


def test_who_distils(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(executor_for(None, None), InProcess) and isinstance(executor_for(1, None), InProcess)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    several = executor_for(3, None)
    assert isinstance(several, Processes) and (several.workers, several.threads) == (3, 2)
    assert isinstance(executor_for(None, "localhost:6379"), RayNodes)
    for build in (lambda: Processes(0), lambda: InProcess(0)):
        with pytest.raises(ValueError, match="expected at least 1"):
            build()


@pytest.mark.parametrize("address", ["auto", "", "host", "host:", ":6379", "host:x", "ray://host:10001", "host:99999"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(LayerJobError, match="expected HOST:PORT of a running cluster"):
        executor_for(None, address)
