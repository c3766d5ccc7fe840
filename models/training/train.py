"""Train a dense encoder and adapt it: distillation, gates, then everything jointly for all prices."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from adaptrt import write_atomically
from adaptrt.models.adaptation import adapt
from adaptrt.models.data.split import DataError, DataSplits
from adaptrt.models.families.token_pruning import counts_at_share
from adaptrt.models.network import Network
from adaptrt.models.network_output import NetworkOutput
from adaptrt.models.training.distil import distil_phase, gate_phase
from adaptrt.models.training.phase import (
    CheckpointError,
    Phase,
    Report,
    StepResult,
    epoch_steps,
    parameter_groups,
    run_phase,
)
from adaptrt.models.training.priced_losses import draw_shares, learner_losses, price_knobs, selection_losses
from adaptrt.models.training.recipe import RECIPE_FILE, Recipe

EFFORT, TEACHER = "effort", "teacher"
"""In the record of a training beside its recipe, where it had less than all samples in an epoch, or a teacher."""
_TIMED_STEPS = 3


def train(
    recipe: Recipe,
    data: DataSplits,
    folder: Path,
    report: Report,
    *,
    teacher: Network | None = None,
    effort: float = 1.0,
) -> tuple[Network, Network]:
    """Run a recipe; an interrupted run goes on where its last finished epoch ended.

    Args:
        recipe: What to do.
        data: Its training part is learned from; the others are not touched.
        folder: For checkpoints; made if missing.
        report: Called after every step.
        teacher: A dense network whose predictions the dense model learns, too; one of the same shape starts with its
            weights. None: from the labels alone.
        effort: Share of the samples that every epoch sees, drawn anew for each, up to 1.

    Returns:
        The dense and the adaptive model, in evaluation mode; the same one twice where the recipe adapts nothing.

    Raises:
        DataError: The data has no training part.
        CheckpointError: The folder's checkpoints are damaged or another recipe's.
    """
    inputs, labels = _training_part(data)
    _claim_folder(recipe, folder, teacher, effort)
    training = _Training(recipe, inputs, teacher)
    for phase, samples in training.phases():
        phase.trained.train()
        run_phase(
            phase,
            inputs[:samples],
            labels[:samples],
            batch=recipe.batch,
            seed=recipe.seed,
            checkpoint=folder / f"{phase.name}.pt",
            report=report,
            effort=effort,
        )
        phase.trained.eval()
    return training.dense.eval(), training.adaptive.eval()


@dataclass(frozen=True)
class PhaseTime:
    """What a phase is expected to take: its name, its steps, and seconds of one."""

    phase: str
    steps: int
    step_seconds: float

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return self.steps * self.step_seconds


def time_phases(
    recipe: Recipe, data: DataSplits, *, teacher: Network | None = None, effort: float = 1.0
) -> list[PhaseTime]:
    """What every phase of a recipe will take on this machine, by a few steps of each; nothing is kept.

    Raises:
        DataError: The data has no training part.
    """
    inputs, labels = _training_part(data)
    found = []
    rows = torch.arange(recipe.batch)
    for phase, samples in _Training(recipe, inputs[: max(256, recipe.batch)], teacher).phases():
        phase.trained.train()
        times = []
        for number in range(1 + _TIMED_STEPS):
            begun = time.perf_counter()
            phase.step(inputs[rows], labels[rows], torch.Generator().manual_seed(number)).loss.backward()  # type: ignore[no-untyped-call]
            times.append(time.perf_counter() - begun)
        phase.trained.zero_grad(set_to_none=True)
        phase.trained.eval()
        steps = phase.epochs * epoch_steps(len(labels[:samples]), recipe.batch, effort)
        found.append(PhaseTime(phase.name, steps, statistics.median(times[1:])))
    return found


class _Training:
    """The networks of one run and its phases.

    Args:
        recipe: What to do.
        inputs: Training inputs, ``[samples, ...]``.
        teacher: As ``train`` has it.
    """

    def __init__(self, recipe: Recipe, inputs: Tensor, teacher: Network | None) -> None:
        self._recipe, self._sample, self._teacher = recipe, inputs[:256], teacher
        torch.manual_seed(recipe.seed)
        self.dense = self.adaptive = Network.from_config(recipe.vit)
        if teacher is not None and teacher.config == self.dense.config:
            self.dense.load_state_dict(teacher.state_dict())

    def phases(self) -> Iterator[tuple[Phase, int | None]]:
        """Every phase and the samples that it sees, None all; each is made when the one before has run."""
        recipe, dense = self._recipe, self.dense
        yield _dense_phase(recipe, dense, self._teacher), None
        if not recipe.adapts:
            return
        name = dense.input_specs()[0].name
        torch.manual_seed(recipe.seed + 1)  # gates start the same whether or not the run was resumed
        self.adaptive = adaptive = adapt(
            dense, {name: self._sample}, acm=recipe.acm, pruning=recipe.pruning, exits=recipe.exits
        )
        if recipe.acm is not None:
            yield distil_phase(recipe, dense, adaptive), recipe.warm_samples
            yield gate_phase(recipe, dense, adaptive, self._sample), recipe.warm_samples
        if recipe.exits is not None and recipe.exit_epochs:
            yield _head_phase(recipe, dense, adaptive), None
            adaptive.requires_grad_(True)
        if recipe.joint_epochs:
            yield _joint_phase(recipe, dense, adaptive), None


def _training_part(data: DataSplits) -> tuple[Tensor, Tensor]:
    if data.train is None:
        raise DataError(f"data {data.name!r} has no training part; train with one that has, such as digits")
    return torch.from_numpy(data.train.inputs), torch.from_numpy(data.train.labels)


def _claim_folder(recipe: Recipe, folder: Path, teacher: Network | None, effort: float) -> None:
    """Record the recipe beside its checkpoints, and refuse those of another, of another teacher or another effort."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RECIPE_FILE
    record = dataclasses.asdict(recipe)
    if effort != 1:
        record[EFFORT] = effort
    if teacher is not None:
        record[TEACHER] = _digest(teacher)
    own = json.dumps(record, indent=2, sort_keys=True)
    if path.exists() and path.read_bytes() != own.encode():
        raise CheckpointError(
            f"{folder} holds checkpoints of another recipe; remove the folder or choose another one to start afresh"
        )
    write_atomically(path, own.encode())


def _digest(network: Network) -> str:
    """The same for equal weights."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _correct(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(1) == labels).sum())


def _dense_phase(recipe: Recipe, dense: Network, teacher: Network | None = None) -> Phase:
    def step(inputs: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        with recipe.autocast():
            pixels = recipe.augmentation(inputs, generator)
            logits = dense(pixels).logits.float()
            if teacher is not None:
                with torch.no_grad():
                    wanted = teacher(pixels).logits.float()
                return StepResult(_task_loss(recipe, logits, labels, wanted), _correct(logits, labels))
        loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        return StepResult(loss, _correct(logits, labels))

    groups = parameter_groups(dense, recipe.dense_rate, gate_rate=recipe.dense_rate)
    return Phase("dense", dense, groups, recipe.dense_epochs, step, recipe.weight_decay)


def _task_loss(recipe: Recipe, logits: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy, and the distance from the dense model's predictions."""
    loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    return loss + recipe.teacher_weight * functional.kl_div(
        logits.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True
    )


def _exit_loss(recipe: Recipe, out: NetworkOutput, labels: Tensor, teacher: Tensor) -> Tensor:
    """Losses of the early heads; of a learned certainty, at all heads, whether the prediction was right."""
    total = torch.zeros(())
    for stage in out.stages[:-1]:
        total = total + recipe.exit_weight * _task_loss(recipe, stage.logits.float(), labels, teacher)
    for stage in out.stages:
        if stage.certainty is not None:
            right = (stage.logits.argmax(1) == labels).float()
            total = total + functional.binary_cross_entropy_with_logits(stage.certainty.float(), right)
    return total


def _head_phase(recipe: Recipe, dense: Network, adaptive: Network) -> Phase:
    """Early heads on a frozen backbone, everything running."""
    heads = torch.nn.ModuleList(adaptive.exit_modules())
    adaptive.eval().requires_grad_(False)  # no noise, and no gradients that nobody reads
    heads.requires_grad_(True)

    def step(inputs: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        pixels = recipe.augmentation(inputs, generator)
        named = {spec.name: spec for spec in adaptive.knob_specs()}
        price = torch.full((1,), named["price"].minimum) if "price" in named else None
        with recipe.autocast():
            with torch.no_grad():
                teacher = dense(pixels).logits.float()
            out = adaptive(pixels, price)
        return StepResult(_exit_loss(recipe, out, labels, teacher), _correct(out.stages[0].logits, labels))

    groups = parameter_groups(heads, recipe.dense_rate, gate_rate=recipe.dense_rate)
    return Phase("heads", heads, groups, recipe.exit_epochs, step, recipe.weight_decay)


def _joint_phase(recipe: Recipe, dense: Network, adaptive: Network) -> Phase:
    """Phase 3: all weights, new prices for every group of images, the work tied to the price."""

    def step(inputs: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        pixels = recipe.augmentation(inputs, generator)
        share, kept = draw_shares(recipe, adaptive, len(labels), generator)
        knobs = price_knobs(recipe, adaptive, share, kept)
        if recipe.pruning is not None and not adaptive.prunes_by_price:
            knobs["keep"] = _draw_keep(recipe, adaptive, generator)
        with recipe.autocast():
            with torch.no_grad():
                teacher = dense(pixels).logits.float()
            out = adaptive.run({adaptive.input_specs()[0].name: pixels}, knobs)
        logits = out.logits.float()
        loss = _task_loss(recipe, logits, labels, teacher) + _exit_loss(recipe, out, labels, teacher)
        if recipe.acm is not None:
            loss = loss + learner_losses(recipe, adaptive, out, share)
        if adaptive.prunes_by_price:
            loss = loss + selection_losses(recipe, adaptive, out, kept)
        return StepResult(loss, _correct(logits, labels))

    groups = parameter_groups(adaptive, recipe.joint_rate, gate_rate=10 * recipe.joint_rate)
    return Phase("joint", adaptive, groups, recipe.joint_epochs, step, recipe.weight_decay)


def _draw_keep(recipe: Recipe, adaptive: Network, generator: torch.Generator) -> Tensor:
    """Draw what a ``fixed`` or ``merge`` rule does to every sample of a batch, the same share at each selection."""
    assert recipe.pruning is not None
    low, high = recipe.keep_range
    share = low + (high - low) * float(torch.rand(1, generator=generator))
    numbers = counts_at_share(recipe.pruning, share, adaptive.tokens, adaptive.config.class_token)
    return torch.tensor(numbers, dtype=torch.int32)
