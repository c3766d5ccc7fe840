"""Steps that fit into a time: those that are timed are of all lengths, and the answer is kept."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from adaptrt.models.data.samples import Samples
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.training import time_plan
from adaptrt.models.training.adapting import AdaptSettings
from adaptrt.models.training.phase import TrainingError
from adaptrt.models.training.steps import StepPhase
from adaptrt.models.training.team import ALONE


def texts(lengths: list[int]) -> Samples:
    mask = np.arange(64) < np.array(lengths)[:, None]
    return Samples({"input_ids": mask.astype(np.int64), "attention_mask": mask.astype(np.int64)}, "attention_mask")


def phase_of(asked: list[int]) -> StepPhase:
    """One that notes which steps are run."""
    weight = nn.Parameter(torch.zeros(1))

    def losses(step: int, generator: torch.Generator) -> list[torch.Tensor]:
        del generator
        asked.append(step)
        return [weight.sum()]

    return StepPhase("joint", nn.ParameterList([weight]), [{"params": [weight], "lr": 1.0}], 1, losses)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock finds it a second later: a step takes one."""
    now = iter(range(10_000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(now)))


@pytest.mark.usefixtures("clock")
def test_timed_steps_are_of_all_lengths_and_decide(tmp_path: Path) -> None:
    samples = texts([1 + row % 60 for row in range(480)])
    settings = AdaptSettings(acm=ACMConfig(2), hours=1.0, batch=4)
    asked: list[int] = []
    phase = phase_of(asked)
    found = time_plan.joint_steps(
        settings, lambda: phase, phase.trained, samples, tmp_path, time.monotonic() - 36, ALONE
    )
    assert 3130 <= found <= 3132  # a second each, of 88% of an hour less the 36 seconds spent
    order = samples.order(4, 0, 0)
    longest = [int(samples.lengths[order[step]].max()) for step in asked[1:]]  # type: ignore[index]
    assert len(longest) == 5 and longest == sorted(longest) and longest[0] < 20 and longest[-1] > 45
    again: list[int] = []
    kept = time_plan.joint_steps(
        settings, lambda: phase_of(again), phase.trained, samples, tmp_path, time.monotonic(), ALONE
    )
    assert kept == found and not again and json.loads((tmp_path / "plan.json").read_text()) == {"joint_steps": found}


@pytest.mark.usefixtures("clock")
def test_too_short_a_time_says_what_would_do(tmp_path: Path) -> None:
    settings, asked = AdaptSettings(acm=ACMConfig(2), hours=0.005, batch=4), list[int]()
    phase = phase_of(asked)
    with pytest.raises(TrainingError, match=r"got 0.005 hours, expected at least 0\.00\d+"):
        time_plan.joint_steps(
            settings, lambda: phase, phase.trained, texts([5] * 40), tmp_path, time.monotonic(), ALONE
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("clock")
def test_layers_take_their_part_only(tmp_path: Path) -> None:
    settings = AdaptSettings(acm=ACMConfig(2), hours=0.1, batch=4)
    phase = phase_of([])
    fitted = time_plan.layer_steps(settings, lambda: phase, phase.trained, 2, tmp_path)
    assert (fitted.distil_steps, fitted.gate_steps) == (10, 10)  # 12% of 360 s for two phases of two layers
    whole = AdaptSettings(acm=ACMConfig(2))
    assert time_plan.layer_steps(whole, lambda: phase, phase.trained, 2, tmp_path) is whole
