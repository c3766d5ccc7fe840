"""Training on a GPU, as far as that can be proved without one: nothing is mixed with the CPU, what is kept is of it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from adaptrt.models.training import devices, precision, time_plan
from adaptrt.models.training.adapting import adapt_network
from adaptrt.models.training.devices import CPU, DeviceError, checked_device, on_cpu
from adaptrt.models.training.layer_processes import Processes
from adaptrt.models.training.phase import reading_checkpoint
from adaptrt.models.training.precision import choose_precision
from adaptrt.models.training.steps import StepPhase, run_steps
from tests.models.training.test_adapting import SETTINGS, dense_of, quiet, samples_of


def said_by(*words: str) -> dict[str, str | None]:
    """What came of the cases of ``fake_gpu`` whose names begin so; the device is the process's for good."""
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])}
    command = [sys.executable, "-m", "tests.models.training.fake_gpu", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    said: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.slow("starts an interpreter")
@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("joint texts", "joint classes", "joint answers", "joint features", "joint pictures", "joint vectors"), 12),
        (("layer texts", "layer classes", "layer pictures", "maps"), 6),
        (("bfloat16 texts", "bfloat16 pictures"), 3),
    ],
)
def test_no_step_mixes_the_device_with_the_cpu(words: tuple[str, ...], count: int) -> None:
    said = said_by(*words)
    assert len(said) == count
    assert {name: error for name, error in said.items() if error is not None} == {}


@pytest.mark.slow("starts an interpreter")
def test_no_step_of_a_pretrained_network_does() -> None:
    pytest.importorskip("transformers")
    from tests.models.training.fake_gpu import PRETRAINED

    said = said_by(*(f"{what} {family}" for what in ("joint", "layer", "bfloat16") for family in PRETRAINED))
    assert len(said) == 2 * len(PRETRAINED) + 1
    assert {name: error for name, error in said.items() if error is not None} == {}


@pytest.mark.slow("starts an interpreter")
def test_what_is_made_on_the_cpu_is_found() -> None:
    said = said_by("broken")
    assert len(said) == 4
    for name, error in said.items():
        assert error is not None and "FakeTensorDeviceMismatchError" in error and "gpu:0" in error, (name, error)


def test_which_devices_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked_device("cpu") == CPU
    for name in ("gpu", "cuda:", "cuda:x", "cuda:1000", "meta", ""):
        with pytest.raises(DeviceError, match=r"expected cpu, cuda, or cuda:1"):
            checked_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceError, match="built without CUDA.*install a torch with CUDA, or use cpu$"):
        checked_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(DeviceError, match="finds no GPU.*nvidia-smi.*, or use cpu$"):
        checked_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert checked_device("cuda") == torch.device("cuda") and checked_device("cuda:1").index == 1
    with pytest.raises(DeviceError, match="expected one of 2, from cuda:0 on"):
        checked_device("cuda:2")


def test_states_are_taken_to_the_cpu_with_all_that_is_in_them() -> None:
    state = {
        "state": {0: {"step": torch.ones((), device="meta")}},
        "groups": [{"lr": 0.1, "params": [0, 1]}],
        "n": None,
    }
    with pytest.raises(NotImplementedError, match="meta"):
        on_cpu(state)  # it does reach the tensor, whose content a meta device does not have
    state["state"] = {0: {"step": torch.ones(())}}
    assert on_cpu(state) == state


def test_a_checkpoint_asks_for_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is saved has been taken to the CPU, and is read as of the CPU."""
    taken: list[Any] = []
    import adaptrt.models.training.steps as steps

    def keep(state: Any) -> Any:
        taken.append(state)
        return on_cpu(state)

    monkeypatch.setattr(steps, "on_cpu", keep)
    monkeypatch.setattr(steps, "CHECKPOINT_SECONDS", -1.0)
    torch.manual_seed(0)
    layer = nn.Linear(2, 2)
    groups: list[dict[str, object]] = [{"params": [*layer.parameters()], "lr": 0.1}]

    def losses(step: int, generator: torch.Generator) -> list[torch.Tensor]:
        return [layer(torch.rand(3, 2, generator=generator)).square().mean() + 0 * step]

    run_steps(StepPhase("one", layer, groups, 2, losses), seed=0, checkpoint=tmp_path / "one.pt", report=quiet)
    assert len(taken) == 3  # weights and optimiser, then weights alone
    read: list[Any] = []
    load = torch.load

    def watched(*args: Any, **named: Any) -> Any:
        read.append(named.get("map_location"))
        return load(*args, **named)

    monkeypatch.setattr(torch, "load", watched)
    with reading_checkpoint(tmp_path / "one.pt") as state:
        assert state["done"] == 2
    phase = StepPhase("one", layer, groups, 2, losses)
    assert steps.is_over(phase, tmp_path / "one.pt") and read == ["cpu", "cpu"]


def test_layers_on_a_gpu_are_not_for_several_processes(tmp_path: Path) -> None:
    dense = dense_of()
    with pytest.raises(DeviceError, match="got cuda and other processes"):
        adapt_network(dense, samples_of(dense), SETTINGS, tmp_path, quiet, Processes(2), device=torch.device("cuda"))
    assert not list(tmp_path.iterdir())


def test_a_gpu_trains_in_bfloat16_where_it_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(precision, "precision_of_this_machine", lambda: pytest.fail("the CPU was timed"))
    for has, wanted in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has, **_: has)
        choice = choose_precision("auto", tmp_path, device=torch.device("cuda"))
        assert choice.precision == wanted and "GPU" in choice.reason
    assert choose_precision("float32", tmp_path, device=torch.device("cuda")).precision == "float32"


def test_a_gpu_is_waited_for_before_the_clock_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call returns before the GPU has done its work."""
    layer, order = nn.Linear(2, 2), []
    monkeypatch.setattr(time_plan, "wait_for", lambda device: order.append(device.type))
    phase = StepPhase("one", layer, [], 1, lambda _step, _generator: [layer(torch.ones(1, 2)).sum()])
    assert time_plan._seconds(phase, layer, [0, 1]) > 0
    assert order == ["cpu"] * 3
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: order.append(str(device)))
    devices.wait_for(torch.device("cuda:1"))
    devices.wait_for(CPU)
    assert order[3:] == ["cuda:1"]


def test_the_device_is_no_setting_of_a_run() -> None:
    """A run that began on one goes on on another."""
    assert not any("device" in field.name for field in dataclasses.fields(SETTINGS))
