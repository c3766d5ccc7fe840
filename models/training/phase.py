"""The loop that every training phase runs in: seeded epochs, progress, a checkpoint after each."""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from adaptrt import AdaptrtError, write_atomically
from adaptrt.models.training.team import ALONE, Team


class CheckpointError(AdaptrtError):
    """A checkpoint that cannot be used."""


class TrainingError(AdaptrtError):
    """A training that does not converge."""


@dataclass(frozen=True)
class Progress:
    """Where a training run stands, reported after every step.

    Attributes:
        phase: Name of the phase.
        step: Steps done in this phase, resumed ones included.
        steps: All steps of this phase.
        loss: Mean loss over the current epoch so far; NaN where a phase has none.
        accuracy: Training accuracy over the current epoch so far, None where a phase has none.
        seconds_left: Estimate for this phase.
        epochs: Passes over the data in this phase.
    """

    phase: str
    step: int
    steps: int
    loss: float
    accuracy: float | None
    seconds_left: float
    epochs: int = 1


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class StepResult:
    """Loss to descend, and how many of the batch were classified correctly (None: not a classifier)."""

    loss: Tensor
    correct: int | None = None


@dataclass(frozen=True)
class Phase:
    """One phase of training.

    Attributes:
        name: Names the checkpoint and seeds the phase's randomness.
        trained: Module whose weights the checkpoint keeps.
        groups: Parameter groups for AdamW, each with its ``lr``.
        epochs: Number of passes over the data.
        step: Computes the loss of one batch, ``step(inputs, labels, generator)``.
        weight_decay: AdamW's.
        warmup: Share of all steps during which the rate rises.
    """

    name: str
    trained: nn.Module
    groups: list[dict[str, object]]
    epochs: int
    step: Callable[[Tensor, Tensor, torch.Generator], StepResult]
    weight_decay: float = 0.0
    warmup: float = 0.05


def parameter_groups(
    module: nn.Module, rate: float, *, gate_rate: float, new: Sequence[nn.Module] = ()
) -> list[dict[str, object]]:
    """Parameter groups: matrices with weight decay, the rest without, gates at their own rate; frozen ones in none.

    Args:
        module: What is trained.
        rate: Its largest learning rate.
        gate_rate: That of gates and selectors.
        new: Modules that begin from nothing, too: they learn at the gates' rate.
    """
    young = {id(parameter) for part in new for parameter in part.parameters()}
    matrices, others, gates = [], [], []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if "gate." in name or "selector." in name or id(parameter) in young:
            gates.append(parameter)
        elif parameter.ndim > 1 and "position" not in name:
            matrices.append(parameter)
        else:
            others.append(parameter)
    groups: list[dict[str, object]] = [{"params": matrices, "lr": rate}]
    groups.append({"params": others, "lr": rate, "weight_decay": 0.0})
    if gates:
        groups.append({"params": gates, "lr": gate_rate, "weight_decay": 0.0})
    return groups


def run_phase(
    phase: Phase,
    inputs: Tensor,
    labels: Tensor,
    *,
    batch: int,
    seed: int,
    checkpoint: Path,
    report: Report,
    effort: float = 1.0,
) -> None:
    """Train one phase, going on from its checkpoint if there is one.

    Every epoch draws its randomness from the seed, the phase and the epoch's number alone, so that a
    resumed run equals an uninterrupted one. The last incomplete batch of an epoch is left out.

    Args:
        phase: What to do.
        inputs: All samples, ``[samples, ...]``.
        labels: Of each.
        batch: Samples per step.
        seed: Everything random derives from it.
        checkpoint: File that it goes on from, written after every epoch.
        report: Called after every step.
        effort: Share of the samples that an epoch sees, drawn anew for each, up to 1.

    Raises:
        CheckpointError: The checkpoint is damaged or belongs to another model.
        TrainingError: The loss is NaN or infinite.
    """
    steps_per_epoch = epoch_steps(len(labels), batch, effort)
    if not steps_per_epoch:
        raise CheckpointError(f"got {len(labels)} samples, expected at least one batch of {batch}")
    steps = phase.epochs * steps_per_epoch
    optimizer = torch.optim.AdamW(phase.groups, weight_decay=phase.weight_decay)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    first_epoch = _restore(phase, optimizer, checkpoint)
    started = time.monotonic()
    for epoch in range(first_epoch, phase.epochs):
        epoch_seed = crc32(f"{seed}/{phase.name}/{epoch}".encode())
        generator = torch.Generator().manual_seed(epoch_seed)
        torch.manual_seed(epoch_seed)
        order = torch.randperm(len(labels), generator=generator)
        loss_sum, correct = 0.0, 0
        for index in range(steps_per_epoch):
            done = epoch * steps_per_epoch + index
            set_rates(optimizer, rates, done / steps, phase.warmup)
            rows = order[index * batch : (index + 1) * batch]
            result = phase.step(inputs[rows], labels[rows], generator)
            remedy = "lower the learning rate, the checkpoint of the last epoch is kept"
            loss_sum += descend(
                [result.loss], optimizer, phase.trained, f"step {done + 1} of phase {phase.name}", remedy
            )
            correct += result.correct or 0
            ran = done + 1 - first_epoch * steps_per_epoch
            report(
                Progress(
                    phase.name,
                    done + 1,
                    steps,
                    loss_sum / (index + 1),
                    None if result.correct is None else correct / ((index + 1) * batch),
                    (time.monotonic() - started) / ran * (steps - done - 1),
                    phase.epochs,
                )
            )
        _save(phase, optimizer, checkpoint, epoch + 1)


def epoch_steps(samples: int, batch: int, effort: float = 1.0) -> int:
    """Steps of an epoch that sees a share of the samples: at least one, where there is a batch of them."""
    whole = samples // batch
    return min(whole, max(1, round(effort * whole)))


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float], progress: float, warmup: float) -> None:
    """Set every group's learning rate from its largest, for a share of all steps."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * _rate_factor(progress, warmup)


def descend(
    parts: Iterable[Tensor],
    optimizer: torch.optim.Optimizer,
    trained: nn.Module,
    where: str,
    remedy: str,
    team: Team = ALONE,
) -> float:
    """Take one step with clipped gradients; gives the loss. Where it is not finite no weight is changed.

    Args:
        parts: Of one batch's loss, their sum. Each is made when the one before has its gradients, and its memory again.
        optimizer: Of what is trained.
        trained: Whose gradients are clipped together.
        where: Which step it is, for the message.
        remedy: What to do, for the message.
        team: Processes that train together, each with parts of its own.

    Raises:
        TrainingError: The loss is NaN or infinite.
        TeamError: A process is gone.
    """
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for part in parts:
        total += float(part.detach())
        part.backward()  # type: ignore[no-untyped-call]
    total = team.add_up(trained, total)
    if not math.isfinite(total):
        raise TrainingError(f"got a loss of {total} in {where}, expected a finite one; {remedy}")
    nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
    optimizer.step()
    return total


def _rate_factor(progress: float, warmup: float) -> float:
    """Linear warm-up, then a half cosine to zero."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def write_checkpoint(checkpoint: Path, state: Mapping[str, object]) -> None:
    """Write what a training goes on from, atomically."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(checkpoint, buffer.getvalue())


@contextlib.contextmanager
def reading_checkpoint(checkpoint: Path) -> Iterator[dict[str, Any]]:
    """Give what was written; whatever goes wrong with it within is the checkpoint's fault.

    Raises:
        CheckpointError: It cannot be read, or does not fit.
    """
    try:
        yield torch.load(checkpoint, weights_only=True, map_location="cpu")
    except Exception as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"cannot go on from {checkpoint} ({cause}); remove it, or the folder it is in, to start afresh"
        ) from error


def _save(phase: Phase, optimizer: torch.optim.Optimizer, checkpoint: Path, epochs_done: int) -> None:
    state = {
        "weights": phase.trained.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epochs": epochs_done,
    }
    write_checkpoint(checkpoint, state)


def _restore(phase: Phase, optimizer: torch.optim.Optimizer, checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    with reading_checkpoint(checkpoint) as state:
        phase.trained.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["epochs"])
