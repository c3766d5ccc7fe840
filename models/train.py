"""Train a dense ViT and adapt it: distillation, gates, then everything jointly for all prices."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt import write_atomically
from adaptrt.models import losses
from adaptrt.models.acm import AdaptiveFFN, AdaptiveProjections
from adaptrt.models.adapt import BlockInputs, adapt, layer_inputs
from adaptrt.models.conditional_mlp import ConditionalLinear, ConditionalMLP
from adaptrt.models.data import DataError, DataSplits
from adaptrt.models.gate import ArgmaxGate, PriceGate
from adaptrt.models.phase import CheckpointError, Phase, Report, StepResult, run_phase
from adaptrt.models.recipe import Recipe
from adaptrt.models.vit import Block, DenseProjections, ViT

_GAIN_QUANTILES = 512


def train(recipe: Recipe, data: DataSplits, folder: Path, report: Report) -> tuple[ViT, ViT]:
    """Run a recipe; an interrupted run goes on where its last finished epoch ended.

    Args:
        recipe: What to do.
        data: Its training part is learned from; the others are not touched.
        folder: For checkpoints; made if missing.
        report: Called after every step.

    Returns:
        The dense and the adaptive model, in evaluation mode.

    Raises:
        DataError: The data has no training part.
        CheckpointError: The folder's checkpoints are damaged or another recipe's.
    """
    if data.train is None:
        raise DataError(f"data {data.name!r} has no training part; train with one that has, such as digits")
    _claim_folder(recipe, folder)
    inputs, labels = torch.from_numpy(data.train.inputs), torch.from_numpy(data.train.labels)
    torch.manual_seed(recipe.seed)
    dense = ViT(recipe.vit)

    def run(phase: Phase) -> None:
        phase.trained.train()
        checkpoint = folder / f"{phase.name}.pt"
        run_phase(phase, inputs, labels, batch=recipe.batch, seed=recipe.seed, checkpoint=checkpoint, report=report)
        phase.trained.eval()

    run(_dense_phase(recipe, dense))
    torch.manual_seed(recipe.seed + 1)  # gates start the same whether or not the run was resumed
    adaptive = adapt(dense, recipe.acm, inputs[:256])
    run(_distil_phase(recipe, dense, adaptive))
    run(_gate_phase(recipe, dense, adaptive, inputs[:256]))
    run(_joint_phase(recipe, dense, adaptive))
    return dense.eval(), adaptive.eval()


def _claim_folder(recipe: Recipe, folder: Path) -> None:
    """Record the recipe beside its checkpoints, and refuse those of another."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.json"
    own = json.dumps(dataclasses.asdict(recipe), indent=2, sort_keys=True)
    if path.exists() and path.read_bytes() != own.encode():
        raise CheckpointError(
            f"{folder} holds checkpoints of another recipe; remove the folder or choose another one to start afresh"
        )
    write_atomically(path, own.encode())


def _autocast(recipe: Recipe) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16")


def _decayed(module: nn.Module, rate: float, *, gate_rate: float) -> list[dict[str, object]]:
    """Parameter groups: matrices with weight decay, the rest without, gates at their own rate."""
    matrices, others, gates = [], [], []
    for name, parameter in module.named_parameters():
        if "gate." in name:
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


def _correct(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(1) == labels).sum())


def _dense_phase(recipe: Recipe, dense: ViT) -> Phase:
    def step(inputs: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        with _autocast(recipe):
            logits = dense(recipe.augmentation(inputs, generator)).logits.float()
        loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        return StepResult(loss, _correct(logits, labels))

    groups = _decayed(dense, recipe.dense_rate, gate_rate=recipe.dense_rate)
    return Phase("dense", dense, groups, recipe.dense_epochs, step, recipe.weight_decay)


class _Adapted(NamedTuple):
    """A gate, the learners it decides for, the dense layers they replace and what reaches those."""

    gate: PriceGate | ArgmaxGate
    learners: list[ConditionalMLP | ConditionalLinear]
    sources: list[nn.Module]
    inputs: Callable[[BlockInputs], Tensor]


def _adapted(dense: ViT, adaptive: ViT) -> list[list[_Adapted]]:
    """What has been replaced, by block."""
    found = []
    for source, block in zip(dense.blocks, adaptive.blocks, strict=True):
        assert isinstance(source, Block) and isinstance(block, Block)
        own: list[_Adapted] = []
        old, new = source.projections, block.projections
        if isinstance(new, AdaptiveProjections):
            assert isinstance(old, DenseProjections)
            learners, sources = [new.query, new.key, new.value], [old.query, old.key, old.value]
            own.append(_Adapted(new.qkv_gate, [*learners], [*sources], lambda inputs: inputs.qkv))
            own.append(_Adapted(new.out_gate, [new.out], [old.out], lambda inputs: inputs.out))
        if isinstance(block.ffn, AdaptiveFFN):
            own.append(_Adapted(block.ffn.gate, [block.ffn.learners], [source.ffn], lambda inputs: inputs.ffn))
        found.append(own)
    return found


def _distil_phase(recipe: Recipe, dense: ViT, adaptive: ViT) -> Phase:
    """Phase 1: every replaced layer by itself, on the dense model's inputs."""
    blocks = _adapted(dense, adaptive)
    learners = nn.ModuleList(own for block in blocks for part in block for own in part.learners)

    def step(inputs: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        del labels
        pixels = recipe.augmentation(inputs, generator)
        total = torch.zeros(())
        with _autocast(recipe):
            for block, reaching in zip(blocks, layer_inputs(dense, pixels), strict=True):
                for part in block:
                    total = total + sum(loss for loss, _ in _errors(part, part.inputs(reaching)))
        return StepResult(total / len(learners))

    groups = _decayed(learners, recipe.distil_rate, gate_rate=recipe.distil_rate)
    return Phase("distil", learners, groups, recipe.distil_epochs, step)


def _errors(part: _Adapted, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Loss and error per token of each layer's learners, relative to the layer's variance."""
    found = []
    for own, source in zip(part.learners, part.sources, strict=True):
        target = source(x).detach().float()
        loss, error = losses.distillation(own.contributions(x).float(), own.b2, target)
        scale = target.var().clamp_min(1e-6)
        found.append((loss / scale, error / scale))
    return found


def _gate_phase(recipe: Recipe, dense: ViT, adaptive: ViT, sample: Tensor) -> Phase:
    """Phase 2: gates learn to predict what each further learner would gain. Learners stay as they are."""
    blocks = _adapted(dense, adaptive)
    gates = nn.ModuleList(part.gate for block in blocks for part in block)

    @torch.no_grad()
    def errors(pixels: Tensor) -> list[tuple[PriceGate | ArgmaxGate, Tensor, Tensor]]:
        """Every gate, its input and the error of k = 0..N learners, a mean over the layers it decides for."""
        found = []
        for block, reaching in zip(blocks, layer_inputs(dense, pixels), strict=True):
            for part in block:
                x = part.inputs(reaching)
                error = torch.stack([error for _, error in _errors(part, x)]).mean(0)
                found.append((part.gate, x, error))
        return found

    gains = torch.cat([(e[:-1] - e[1:]).cummin(0).values.flatten() for _, _, e in errors(sample)])
    positions = torch.linspace(0, 1, _GAIN_QUANTILES)
    quantiles = gains.sort().values[(positions * (len(gains) - 1)).long()]

    def step(inputs: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        del labels
        total = torch.zeros(())
        for gate, x, error in errors(recipe.augmentation(inputs, generator)):
            logits = gate.logits(x)
            if isinstance(gate, PriceGate):
                wanted = losses.gain_targets(error, quantiles)
                total = total + functional.binary_cross_entropy_with_logits(logits, wanted)
            else:
                total = total + functional.cross_entropy(logits, losses.smallest_sufficient(error))
        return StepResult(total / len(gates))

    groups = _decayed(gates, recipe.distil_rate, gate_rate=recipe.distil_rate)
    return Phase("gates", gates, groups, recipe.gate_epochs, step)


def _joint_phase(recipe: Recipe, dense: ViT, adaptive: ViT) -> Phase:
    """Phase 3: all weights, a new price for every group of images, utilisation tied to the price."""
    tokens = adaptive.config.tokens

    def step(inputs: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        pixels = recipe.augmentation(inputs, generator)
        share, price = _draw_prices(recipe, len(labels), generator)
        with _autocast(recipe):
            with torch.no_grad():
                teacher = dense(pixels).logits.float()
            out = adaptive(pixels, price[:, None])
        logits = out.logits.float()
        loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        loss = loss + recipe.teacher_weight * functional.kl_div(
            logits.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True
        )
        used = _mean_utilisation(adaptive, [losses.utilisation(d, tokens) for d in out.decisions])
        middle = 4 * share * (1 - share)  # the collapse losses matter where there is a choice
        loss = loss + recipe.budget_weight * losses.budget_loss(used, share, recipe.prices)
        for decision in out.decisions:
            entropy = recipe.entropy_weight * losses.entropy_loss(decision, tokens, middle)
            traffic = recipe.traffic_weight * losses.traffic_loss(decision, tokens)
            loss = loss + (entropy + traffic) / len(out.decisions)
        loss = loss + recipe.diversity_weight * losses.diversity_loss(used, middle, recipe.prices)
        return StepResult(loss, _correct(logits, labels))

    groups = _decayed(adaptive, recipe.joint_rate, gate_rate=10 * recipe.joint_rate)
    return Phase("joint", adaptive, groups, recipe.joint_epochs, step, recipe.weight_decay)


def _draw_prices(recipe: Recipe, images: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw one price per group, spread over the scale: the share of learners wanted, and the price.

    Prices are uniform in the share: a price p of the price gate asks for 1 - p of the learners. The
    argmax gate's price is unbounded; there the share sets a logit.
    """
    cells = torch.arange(recipe.prices, dtype=torch.float32)
    share = (cells + torch.rand(recipe.prices, generator=generator)) / recipe.prices
    share = share.repeat_interleave(images // recipe.prices)
    price = 1 - share
    if recipe.acm.gate == "argmax":
        price = torch.logit(price.clamp(1e-3, 1 - 1e-3))
    return share, price


def _mean_utilisation(model: ViT, used: list[Tensor]) -> Tensor:
    """Utilisation of the modules weighted by what their learners cost, ``[B]``."""
    weights = torch.tensor([layer.per_run for layer in model.layers() if layer.per_run], dtype=torch.float32)
    return (torch.stack(used) * (weights / weights.sum())[:, None]).sum(0)
