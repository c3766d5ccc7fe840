"""Processes that train together get what one gets; one that is gone is an error, after which a run goes on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adaptrt.models.training.team import Team, TeamError, joined, with_processes

from .team_member import adapted

pytestmark = pytest.mark.slow("trains, starts interpreters")
MEMBER = str(Path(__file__).with_name("team_member.py"))


def ran(folder: Path, *more: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """A team of members; what the first one said."""
    command = [MEMBER, str(folder), *more]
    with with_processes(processes, command) as first:
        return subprocess.run(
            [sys.executable, *command], env={**os.environ, **first}, capture_output=True, text=True, timeout=300
        )


@pytest.mark.parametrize("processes", [2, 3])
def test_the_weights_are_those_of_one_process(tmp_path: Path, processes: int) -> None:
    done = ran(tmp_path, processes=processes)
    assert done.returncode == 0, done.stderr
    together = torch.load(tmp_path / "weights.pt", weights_only=True)
    alone = adapted(tmp_path / "alone", Team()).state_dict()
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=2e-5, msg=name)
    assert not (tmp_path / "process1" / "joint.pt").exists()


def test_after_a_process_is_gone_the_same_command_goes_on(tmp_path: Path) -> None:
    died = ran(tmp_path, "dies")
    assert died.returncode != 0 and "a process that trains with this one is gone" in died.stderr
    assert not (tmp_path / "weights.pt").exists()
    again = ran(tmp_path)
    assert again.returncode == 0, again.stderr
    together = torch.load(tmp_path / "weights.pt", weights_only=True)
    for name, value in adapted(tmp_path / "alone", Team()).state_dict().items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=2e-5, msg=name)


def test_processes_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime

    monkeypatch.setattr("adaptrt.models.training.team._JOINS", datetime.timedelta(seconds=1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    there = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with pytest.raises(TeamError, match="got no answer from 2 processes"), joined(there):
        pass
    with pytest.raises(TeamError, match="variables of torchrun"), joined({"WORLD_SIZE": "2", "RANK": "0"}):
        pass
    with pytest.raises(TeamError, match="variables of torchrun"), joined({"WORLD_SIZE": "two", "RANK": "0"}):
        pass


def test_a_part_of_a_batch_is_one_process_s() -> None:
    for size in (1, 2, 3, 4):
        takers = [[Team(rank, size).takes(part) for rank in range(size)] for part in range(4)]
        assert all(sum(taken) == 1 for taken in takers)


def test_more_processes_than_prices(tmp_path: Path) -> None:
    with pytest.raises(TeamError, match="got 5 processes, expected at most 4"):
        adapted(tmp_path, Team(0, 5))
