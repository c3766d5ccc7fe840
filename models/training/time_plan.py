"""How many steps fit into the time that an adaptation is given: measured on this machine once, and kept."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from adaptrt import write_atomically
from adaptrt.models.data.samples import Samples
from adaptrt.models.training.devices import device_of, wait_for
from adaptrt.models.training.phase import TrainingError
from adaptrt.models.training.steps import StepPhase
from adaptrt.models.training.team import Team

if TYPE_CHECKING:
    from adaptrt.models.training.adapting import AdaptSettings

LAYERS_FILE, PLAN_FILE = "layers.json", "plan.json"
LEAST_JOINT_STEPS = 20
_LAYERS_SHARE = 0.12
"""Of the time, for the phases by layer; the joint phase gains more from it."""
_TIMED_STEPS = 5


def layer_steps(
    settings: AdaptSettings, phase: Callable[[], StepPhase], trained: nn.Module, blocks: int, folder: Path
) -> AdaptSettings:
    """Settings whose phases by layer take no more than their part of the time.

    Args:
        settings: With the steps that are wanted.
        phase: Makes one layer's distillation, which is timed.
        trained: What it trains.
        blocks: Number of layers.
        folder: Where the answer is kept.
    """
    if settings.hours is None:
        return settings
    path = folder / LAYERS_FILE
    if not path.exists():
        seconds = _seconds(phase(), trained, range(_TIMED_STEPS))
        most = _LAYERS_SHARE * 3600 * settings.hours / (2 * seconds * blocks)
        steps = [max(1, min(wanted, int(most))) for wanted in (settings.distil_steps, settings.gate_steps)]
        write_atomically(path, json.dumps({"distil_steps": steps[0], "gate_steps": steps[1]}).encode())
    return dataclasses.replace(settings, **json.loads(path.read_text()))


def joint_steps(
    settings: AdaptSettings,
    phase: Callable[[], StepPhase],
    trained: nn.Module,
    samples: Samples,
    folder: Path,
    started: float,
    team: Team,
) -> int:
    """How many joint steps fit into the time.

    Args:
        settings: With the time; without, they say the number.
        phase: Makes the joint phase, a few steps of which are timed.
        trained: What it trains.
        samples: Whose lengths decide which steps are timed.
        folder: Where the answer is kept.
        started: When everything began, on the monotonic clock.
        team: Processes that train together.

    Raises:
        TrainingError: Not even a few do.
    """
    path = folder / PLAN_FILE
    planned = team.share(int(json.loads(path.read_text())["joint_steps"]) if team.leads and path.exists() else None)
    if planned is not None:
        return planned
    steps = settings.joint_steps
    if settings.hours is not None:
        with team.own_threads():
            seconds = _seconds(phase(), trained, _usual_steps(samples, settings))
        part = 1.0 if settings.acm is None else 1 - _LAYERS_SHARE
        seconds, spent = team.share((seconds, time.monotonic() - started))
        steps = int((3600 * settings.hours * part - spent) / seconds)
        if steps < LEAST_JOINT_STEPS:
            needed = (spent + 1.1 * LEAST_JOINT_STEPS * seconds) / part / 3600
            raise TrainingError(
                f"got {settings.hours:g} hours, expected at least {needed:.2g} for this network on this machine; give "
                "more time"
            )
    if team.leads:
        write_atomically(path, json.dumps({"joint_steps": steps}).encode())
    return steps


def _usual_steps(samples: Samples, settings: AdaptSettings) -> list[int]:
    """Steps of the first pass whose texts are of all lengths in turn: steps of long ones take many times as long."""
    order = samples.order(settings.batch, settings.seed, 0)
    if samples.lengths is None:
        return list(range(min(_TIMED_STEPS, len(order))))
    longest = np.argsort([int(samples.lengths[rows].max()) for rows in order], kind="stable")
    middles = (np.arange(_TIMED_STEPS) + 0.5) / _TIMED_STEPS * len(order)
    return [int(longest[int(place)]) for place in middles]


def _seconds(phase: StepPhase, trained: nn.Module, steps: Sequence[int]) -> float:
    """What a step takes: the mean of some, after one that does not count. No weight is changed."""
    trained.train()
    device = device_of(trained)
    times = []
    for step in (steps[0], *steps):
        begun = time.perf_counter()
        for part in phase.losses(step, torch.Generator().manual_seed(step)):
            part.backward()  # type: ignore[no-untyped-call]
        wait_for(device)
        times.append(time.perf_counter() - begun)
    trained.zero_grad(set_to_none=True)
    return sum(times[1:]) / len(steps)
