"""A training phase counted in steps: seeded batches, progress, a checkpoint now and then, going on where it ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor, nn

from adaptrt import write_atomically
from adaptrt.models.training.devices import on_cpu
from adaptrt.models.training.phase import Progress, Report, descend, reading_checkpoint, set_rates, write_checkpoint
from adaptrt.models.training.team import ALONE, Team

CHECKPOINT_SECONDS = 60.0
"""Between checkpoints: what an interruption costs at most."""


@dataclass(frozen=True)
class StepPhase:
    """One phase.

    Attributes:
        name: Names the checkpoint and seeds the phase's randomness.
        trained: Module whose weights the checkpoint keeps.
        groups: Parameter groups for AdamW, each with its ``lr``.
        steps: Number of steps.
        losses: ``losses(step, generator)`` gives the loss of one batch in parts that add up to it, each computed when
            it is asked for; all that is random in them comes from the generator or from torch's own, both seeded by the
            step.
        weight_decay: AdamW's.
        warmup: Share of all steps during which the rate rises.
    """

    name: str
    trained: nn.Module
    groups: list[dict[str, object]]
    steps: int
    losses: Callable[[int, torch.Generator], Iterable[Tensor]]
    weight_decay: float = 0.0
    warmup: float = 0.05


@dataclass
class _Losses:
    """The mean over about the latest hundred steps, and every tenth step's for the log."""

    mean: float = math.nan
    kept: list[tuple[int, float]] = field(default_factory=list)

    def add(self, step: int, loss: float) -> None:
        self.mean = loss if math.isnan(self.mean) else self.mean + 0.05 * (loss - self.mean)
        if step % 10 == 0:
            self.kept.append((step, round(self.mean, 6)))


def run_steps(
    phase: StepPhase, *, seed: int, checkpoint: Path, report: Report, team: Team = ALONE
) -> list[tuple[int, float]]:
    """Train one phase, going on from its checkpoint if there is one.

    Every step draws its randomness from the seed, the phase and the step's number alone, so that a resumed run equals
    an uninterrupted one. The phase's last checkpoint stays: called again, the phase is over at once.

    Args:
        phase: What to do.
        seed: Everything random derives from it.
        checkpoint: File to keep weights and the optimiser's state in.
        report: Called after every step.
        team: Processes that train together; the first one's checkpoint counts.

    Returns:
        Step and smoothed loss, every tenth step.

    Raises:
        CheckpointError: The checkpoint is damaged or belongs to another run.
        TrainingError: The loss is NaN or infinite.
        TeamError: A process is gone.
    """
    _share_checkpoint(checkpoint, team)
    optimizer = torch.optim.AdamW(phase.groups, weight_decay=phase.weight_decay, fused=True)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    losses = _Losses()
    first = _restore(phase, optimizer, checkpoint, losses)
    started = saved = time.monotonic()
    phase.trained.train()
    for step in range(first, phase.steps):
        step_seed = crc32(f"{seed}/{phase.name}/{step}".encode())
        torch.manual_seed(step_seed)
        set_rates(optimizer, rates, step / phase.steps, phase.warmup)
        parts = phase.losses(step, torch.Generator().manual_seed(step_seed))
        where = f"step {step + 1} of phase {phase.name}"
        remedy = "train in float32, the last checkpoint is kept"
        losses.add(step + 1, descend(parts, optimizer, phase.trained, where, remedy, team))
        now = time.monotonic()
        left = (now - started) / (step + 1 - first) * (phase.steps - step - 1)
        report(Progress(phase.name, step + 1, phase.steps, losses.mean, None, left))
        if team.leads and (now - saved > CHECKPOINT_SECONDS or step + 1 == phase.steps):
            _save(phase, optimizer, checkpoint, step + 1, losses)
            saved = now
    phase.trained.eval()
    return losses.kept


def _share_checkpoint(checkpoint: Path, team: Team) -> None:
    """Give the first process's checkpoint to the others."""
    content = team.share(checkpoint.read_bytes() if team.leads and team.size > 1 and checkpoint.exists() else None)
    if not team.leads:
        checkpoint.unlink(missing_ok=True)
        if content is not None:
            write_atomically(checkpoint, content)


def is_over(phase: StepPhase, checkpoint: Path) -> bool:
    """Whether a checkpoint is of the phase's end; a damaged one is not, ``run_steps`` says what is wrong with it."""
    try:
        state = torch.load(checkpoint, weights_only=True, map_location="cpu")
        return bool(state["done"] == state["steps"] == phase.steps)
    except Exception:
        return False


def _save(phase: StepPhase, optimizer: torch.optim.Optimizer, checkpoint: Path, done: int, losses: _Losses) -> None:
    state = {
        "weights": on_cpu(phase.trained.state_dict()),
        # A finished phase takes no further step.
        "optimizer": on_cpu(optimizer.state_dict()) if done < phase.steps else None,
        "done": done,
        "steps": phase.steps,
        "mean": losses.mean,
        "losses": losses.kept,
    }
    write_checkpoint(checkpoint, state)


def _restore(phase: StepPhase, optimizer: torch.optim.Optimizer, checkpoint: Path, losses: _Losses) -> int:
    if not checkpoint.exists():
        return 0
    with reading_checkpoint(checkpoint) as state:
        done = int(state["done"])
        if int(state["steps"]) != phase.steps:
            raise ValueError(f"it is of {state['steps']} steps, not {phase.steps}")
        phase.trained.load_state_dict(state["weights"])
        if done < phase.steps:
            optimizer.load_state_dict(state["optimizer"])
        losses.mean, losses.kept = float(state["mean"]), [(int(s), float(v)) for s, v in state["losses"]]
    return done
