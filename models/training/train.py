"""Train a dense encoder and adapt it: distillation, gates, then everything jointly for all prices."""

from __future__ import annotations

import dataclasses
import json
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
from adaptrt.models.training.phase import CheckpointError, Phase, Report, StepResult, parameter_groups, run_phase
from adaptrt.models.training.priced_losses import draw_shares, learner_losses, price_knobs, selection_losses
from adaptrt.models.training.recipe import RECIPE_FILE, Recipe


def train(recipe: Recipe, data: DataSplits, folder: Path, report: Report) -> tuple[Network, Network]:
    """Run a recipe; an interrupted run goes on where its last finished epoch ended.

    Args:
        recipe: What to do.
        data: Its training part is learned from; the others are not touched.
        folder: For checkpoints; made if missing.
        report: Called after every step.

    Returns:
        The dense and the adaptive model, in evaluation mode; the same one twice where the recipe adapts nothing.

    Raises:
        DataError: The data has no training part.
        CheckpointError: The folder's checkpoints are damaged or another recipe's.
    """
    if data.train is None:
        raise DataError(f"data {data.name!r} has no training part; train with one that has, such as digits")
    _claim_folder(recipe, folder)
    inputs, labels = torch.from_numpy(data.train.inputs), torch.from_numpy(data.train.labels)
    torch.manual_seed(recipe.seed)
    dense = Network.from_config(recipe.vit)

    def run(phase: Phase, samples: int | None = None) -> None:
        phase.trained.train()
        checkpoint = folder / f"{phase.name}.pt"
        run_phase(
            phase,
            inputs[:samples],
            labels[:samples],
            batch=recipe.batch,
            seed=recipe.seed,
            checkpoint=checkpoint,
            report=report,
        )
        phase.trained.eval()

    run(_dense_phase(recipe, dense))
    if not recipe.adapts:
        return dense.eval(), dense.eval()
    name = dense.input_specs()[0].name
    torch.manual_seed(recipe.seed + 1)  # gates start the same whether or not the run was resumed
    adaptive = adapt(
        dense,
        {name: inputs[:256]},
        acm=recipe.acm,
        pruning=recipe.pruning,
        exits=recipe.exits,
    )
    if recipe.acm is not None:
        run(distil_phase(recipe, dense, adaptive), recipe.warm_samples)
        run(gate_phase(recipe, dense, adaptive, inputs[:256]), recipe.warm_samples)
    if recipe.exits is not None and recipe.exit_epochs:
        run(_head_phase(recipe, dense, adaptive))
        adaptive.requires_grad_(True)
    if recipe.joint_epochs:
        run(_joint_phase(recipe, dense, adaptive))
    return dense.eval(), adaptive.eval()


def _claim_folder(recipe: Recipe, folder: Path) -> None:
    """Record the recipe beside its checkpoints, and refuse those of another."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RECIPE_FILE
    own = json.dumps(dataclasses.asdict(recipe), indent=2, sort_keys=True)
    if path.exists() and path.read_bytes() != own.encode():
        raise CheckpointError(
            f"{folder} holds checkpoints of another recipe; remove the folder or choose another one to start afresh"
        )
    write_atomically(path, own.encode())


def _correct(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(1) == labels).sum())


def _dense_phase(recipe: Recipe, dense: Network) -> Phase:
    def step(inputs: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        with recipe.autocast():
            logits = dense(recipe.augmentation(inputs, generator)).logits.float()
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
