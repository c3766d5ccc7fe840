"""Train the exit heads of any network on labelled inputs: alone, or together with the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.staged_network import StagedNetwork, StageOutput
from adaptrt.models.tasks import CLASSIFICATION, Task, TaskError
from adaptrt.models.training.phase import Phase, Report, StepResult, parameter_groups, run_phase


@dataclass(frozen=True)
class ExitTraining:
    """How heads are trained.

    Attributes:
        frozen_backbone: Train what the network has for its exits only; everything else stays bit for bit as it was.
        epochs: Passes over the samples.
        batch: Samples per step.
        rate: Largest learning rate.
        weight_decay: AdamW's.
        label_smoothing: Of the heads' cross-entropy.
        head_weights: Weight of each head's cross-entropy, the last head's last; None: 1 each, as in MSDNet
            (arXiv 1703.09844, section 4). On a frozen backbone the last one has no effect.
        certainty_weight: Weight of each learned certainty's loss.
        seed: Everything random derives from it.
    """

    frozen_backbone: bool = False
    epochs: int = 10
    batch: int = 32
    rate: float = 1e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.0
    head_weights: tuple[float, ...] | None = None
    certainty_weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch) < 1:
            raise ValueError(f"got {self.epochs} epochs with batches of {self.batch}, expected at least 1")
        weights = (*(self.head_weights or ()), self.rate, self.weight_decay, self.certainty_weight)
        if not all(math.isfinite(value) and value >= 0 for value in weights):
            raise ValueError(f"got {self}, expected finite rates and weights of at least 0")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"got label smoothing {self.label_smoothing}, expected at least 0 and below 1")


def train_network(
    network: StagedNetwork,
    inputs: dict[str, Tensor] | Tensor,
    labels: Tensor,
    training: ExitTraining,
    checkpoint: Path,
    report: Report,
    *,
    knobs: dict[str, Tensor] | None = None,
) -> None:
    """Train a network's heads in place; it is left in evaluation mode.

    An interrupted call goes on where its last finished epoch ended, if it is made again with the same arguments.

    Args:
        network: Of one or several stages. A network of one stage is simply trained.
        inputs: The network's inputs by name, ``[B, ...]`` each; or the one input of a network with one.
        labels: int64 ``[B]``, from 0 to classes - 1; of other tasks than classification, what the task judges by.
        training: How.
        checkpoint: File that the training goes on from; written after every epoch.
        report: Called after every step. The accuracy is the last head's; on a frozen backbone, the last early head's.
        knobs: What the network runs with; None: everything runs.

    Raises:
        ValueError: The samples do not fit the network or each other, or there is nothing to train.
        CheckpointError: The checkpoint is damaged or another network's, or there is less than one batch.
    """
    by_name = _named(network, inputs, labels)
    stages, frozen = len(network.stage_names), training.frozen_backbone
    if frozen and stages == 1:
        raise ValueError("got a network without exits to train on a frozen backbone, expected one with; add exits")
    weights = training.head_weights or (1.0,) * stages
    if len(weights) != stages:
        raise ValueError(f"got {len(weights)} head weights, expected {stages}: one for each of {network.stage_names}")
    if frozen:
        weights = (*weights[:-1], 0.0)
    knobs = _everything_runs(network) if knobs is None else knobs
    trained: nn.Module = nn.ModuleList(network.exit_modules()) if frozen else network

    def step(rows: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        del generator
        outputs = network.run_stages({name: value[rows] for name, value in by_name.items()}, knobs)
        judged = outputs[-2 if frozen else -1]
        loss = exit_loss(
            outputs, labels, weights, training.label_smoothing, training.certainty_weight, task=network.task
        )
        if network.task is not CLASSIFICATION:
            return StepResult(loss)
        return StepResult(loss, int((judged.logits.argmax(1) == labels).sum()))

    learned = {id(parameter) for parameter in trained.parameters()}
    fixed = [p for p in network.parameters() if id(p) not in learned and p.requires_grad]
    groups = parameter_groups(trained, training.rate, gate_rate=training.rate)
    phase = Phase("heads" if frozen else "joint", trained, groups, training.epochs, step, training.weight_decay)
    network.eval()  # statistics of a frozen backbone's normalisation stay as they are
    _require_classes(network, by_name, knobs, labels)
    trained.train()
    try:
        for parameter in fixed:
            parameter.requires_grad_(False)
        run_phase(
            phase,
            torch.arange(len(labels)),
            labels,
            batch=training.batch,
            seed=training.seed,
            checkpoint=checkpoint,
            report=report,
        )
    finally:
        network.eval()
        for parameter in fixed:
            parameter.requires_grad_(True)


def exit_loss(
    outputs: list[StageOutput],
    labels: Tensor,
    weights: tuple[float, ...],
    label_smoothing: float = 0.0,
    certainty_weight: float = 1.0,
    *,
    task: Task = CLASSIFICATION,
) -> Tensor:
    """Weighted sum of the heads' losses, and of the losses of their learned certainties.

    A certainty learns, by binary cross-entropy, whether its head's prediction is right, or how good it is where the
    quality is no yes or no. (BERxiT, EACL 2021, section 3.3, takes the squared error, whose minimum is the same.)

    Args:
        outputs: One per stage.
        labels: What the task judges by: int64 ``[B]`` of classifiers.
        weights: One per stage.
        label_smoothing: Of classifiers' cross-entropies; other tasks have none.
        certainty_weight: Weight of each certainty's loss.
        task: What gives the loss and the quality.
    """
    total = torch.zeros(())
    for out, weight in zip(outputs, weights, strict=True):
        if task is CLASSIFICATION:
            loss = functional.cross_entropy(out.logits, labels, label_smoothing=label_smoothing)
        else:
            assert task.loss is not None
            loss = task.loss(out.outputs, labels)
        total = total + weight * loss
        if out.certainty is not None:
            arrays = {name: tensor.detach().float().numpy() for name, tensor in out.outputs.items()}
            quality = torch.from_numpy(task.judge(arrays, labels.numpy()).quality.clip(0.0, 1.0))
            right = quality.to(out.certainty.dtype)
            total = total + certainty_weight * functional.binary_cross_entropy_with_logits(out.certainty, right)
    return total


def _named(network: StagedNetwork, inputs: dict[str, Tensor] | Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The network's inputs by name, checked."""
    names = [spec.name for spec in network.input_specs()]
    if isinstance(inputs, Tensor):
        if len(names) != 1:
            raise ValueError(f"got one tensor of inputs, expected a dictionary with {', '.join(names)}")
        inputs = {names[0]: inputs}
    if set(inputs) != set(names):
        raise ValueError(f"got inputs {', '.join(sorted(inputs))}, expected {', '.join(names)}")
    counts = {name: len(value) for name, value in inputs.items()}
    classes = network.task is not CLASSIFICATION or (labels.ndim == 1 and labels.dtype == torch.int64)
    if not classes or set(counts.values()) != {len(labels)}:
        raise ValueError(
            f"got samples {counts} and labels {labels.dtype} of shape {list(labels.shape)}, expected as many of all, "
            "labels int64 [B]"
        )
    return inputs


@torch.no_grad()
def _require_classes(
    network: StagedNetwork, inputs: dict[str, Tensor], knobs: dict[str, Tensor], labels: Tensor
) -> None:
    """Check the labels against what the network gives for the first sample.

    Raises:
        ValueError: One is no class.
    """
    if not len(labels):
        return
    if network.task is not CLASSIFICATION:
        if network.task.loss is None:
            raise ValueError(f"got a network for {network.task.name}, expected a task with a loss; train it elsewhere")
        last = network.run_stages({name: value[:1] for name, value in inputs.items()}, knobs)[-1]
        try:
            network.task.judge({name: tensor.numpy() for name, tensor in last.outputs.items()}, labels[:1].numpy())
        except TaskError as error:
            raise ValueError(str(error)) from error
        return
    classes = network.run_stages({name: value[:1] for name, value in inputs.items()}, knobs)[-1].logits.shape[1]
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"got labels from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")


def _everything_runs(network: StagedNetwork) -> dict[str, Tensor]:
    """The knobs' defaults; integers, which are off, are left out."""
    specs = [spec for spec in network.knob_specs() if spec.dtype == "float32"]
    return {spec.name: torch.full(spec.shape, spec.default) for spec in specs}
