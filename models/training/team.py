"""Processes that train one network together, on one machine or several: every step's batch is divided among them.

Each process computes the gradients of its parts of a batch, these are added up over all, and all take the same step:
the weights are those that one process would get, up to rounding (synchronous data parallelism, as in PyTorch's
DistributedDataParallel, arXiv 2006.15704). Processes find each other by the variables that ``torchrun`` sets.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import pickle
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from adaptrt import AdaptrtError
from adaptrt.models.training.interpreters import end_interpreter, start_interpreter

T = TypeVar("T")

_WAITS = datetime.timedelta(hours=48)
"""For the first process, which distils the layers meanwhile."""
_JOINS = datetime.timedelta(seconds=120)
_LEAVES_SECONDS = 10.0


class TeamError(AdaptrtError):
    """Processes that train together do not find each other, or one of them is gone."""


class Team:
    """Processes that train together; by default one, which does everything.

    Args:
        rank: This process's number, from 0. The first one keeps checkpoints and tells what happens.
        size: Number of processes.
        on_machine: Of them on this machine, which share its threads.
    """

    def __init__(self, rank: int = 0, size: int = 1, on_machine: int = 1) -> None:
        self.rank, self.size, self.on_machine = rank, size, on_machine

    @property
    def leads(self) -> bool:
        """Whether this process is the first."""
        return self.rank == 0

    def takes(self, part: int) -> bool:
        """Whether a part of a batch is this process's."""
        return part % self.size == self.rank

    def share(self, value: T) -> T:
        """The first process's value, in all of them.

        Raises:
            TeamError: A process is gone.
        """
        if self.size == 1:
            return value
        held = [value]
        with _speaking():
            distributed.broadcast_object_list(held, src=0)
        return held[0]

    def add_up(self, trained: nn.Module, total: float) -> float:
        """Add up the gradients of all processes, and their losses, which it gives.

        A weight that has no gradient anywhere still has none.

        Raises:
            TeamError: A process is gone.
        """
        if self.size == 1:
            return total
        learned = [parameter for parameter in trained.parameters() if parameter.requires_grad]
        has_gradient = [float(parameter.grad is not None) for parameter in learned]
        there = torch.tensor([*has_gradient, total], dtype=torch.float64)
        with _speaking():
            distributed.all_reduce(there)
            reached = [parameter for parameter, has in zip(learned, there.tolist(), strict=False) if has]
            flat = torch.cat([_gradient(parameter).reshape(-1) for parameter in reached]).cpu()
            distributed.all_reduce(flat)
        for parameter, gradient in zip(reached, torch.split(flat, [p.numel() for p in reached]), strict=True):
            parameter.grad = gradient.reshape(parameter.shape).to(parameter.device)
        return float(there[-1])

    @contextlib.contextmanager
    def own_threads(self) -> Iterator[None]:
        """Within, this process uses its share of the machine's threads."""
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads // self.on_machine))
        try:
            yield
        finally:
            torch.set_num_threads(threads)


ALONE = Team()
"""One process."""


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@contextlib.contextmanager
def _speaking() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError, pickle.UnpicklingError) as error:
        raise TeamError(
            "a process that trains with this one is gone, expected all of them; the same command goes on from the last "
            "checkpoint"
        ) from error


@contextlib.contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[Team]:
    """The team that ``torchrun``'s variables describe; one process where there are none.

    Raises:
        TeamError: They are no numbers, or the others are not found.
    """
    if environment.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    try:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        on_machine = int(environment.get("LOCAL_WORLD_SIZE", "1"))
        address = f"tcp://{environment['MASTER_ADDR']}:{int(environment['MASTER_PORT'])}"
        found = rendezvous(f"{address}?rank={rank}&world_size={size}", timeout=_JOINS)
        store, _, _ = next(found)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_WAITS)
    except (KeyError, ValueError) as error:
        raise TeamError(
            f"got variables of torchrun that do not fit ({error}), expected RANK, WORLD_SIZE, MASTER_ADDR and "
            "MASTER_PORT"
        ) from error
    except RuntimeError as error:
        raise TeamError(
            f"got no answer from {size} processes at {address} within {_JOINS.seconds} seconds, expected all of them; "
            "start one on each machine, and see whether a firewall is between them"
        ) from error
    try:
        yield Team(rank, size, on_machine)
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def with_processes(count: int, command: Sequence[str]) -> Iterator[dict[str, str]]:
    """Start all processes of a team on this machine but the first, which is this one; they end with the block.

    Args:
        count: All of them.
        command: What the others run, after the interpreter.

    Yields:
        This process's variables for ``joined``.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile() as said:
        try:
            started.extend(
                start_interpreter(command, {**common, "RANK": str(rank)}, stderr=said) for rank in range(1, count)
            )
            yield {**common, "RANK": "0"}
            for process in started:
                end_interpreter(process, _LEAVES_SECONDS)
        except TeamError as error:
            said.seek(0)
            lines = said.read().decode(errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "")
            raise TeamError(f"{error}{f' (it said: {last.strip()})' if last else ''}") from error
        finally:
            for process in started:
                end_interpreter(process, 0.0)
