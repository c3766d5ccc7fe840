"""Phases 1 and 2 of ACM training (arXiv 2312.10193): distil every layer by itself, then teach the gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.adaptation import BlockInputs, layer_inputs
from adaptrt.models.block import Block, DenseProjections
from adaptrt.models.families.acm import AdaptiveFFN, AdaptiveProjections
from adaptrt.models.families.gate import ArgmaxGate, PriceGate
from adaptrt.models.network import Network
from adaptrt.models.symbolic.conditional_mlp import ConditionalGLU, ConditionalLinear, ConditionalMLP
from adaptrt.models.training import losses
from adaptrt.models.training.phase import Phase, StepResult, parameter_groups
from adaptrt.models.training.recipe import Recipe


class _Adapted(NamedTuple):
    """A gate, the learners it decides for, the dense layers they replace and what reaches those."""

    gate: PriceGate | ArgmaxGate
    learners: list[ConditionalMLP | ConditionalGLU | ConditionalLinear]
    sources: list[nn.Module]
    inputs: Callable[[BlockInputs], Tensor]


def _adapted(dense: Network, adaptive: Network) -> list[list[_Adapted]]:
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


def distil_phase(recipe: Recipe, dense: Network, adaptive: Network) -> Phase:
    """Phase 1: every replaced layer by itself, on the dense model's inputs."""
    blocks = _adapted(dense, adaptive)
    learners = nn.ModuleList(own for block in blocks for part in block for own in part.learners)
    name = dense.input_specs()[0].name

    def step(inputs: Tensor, labels: Tensor, generator: torch.Generator) -> StepResult:
        del labels
        pixels = recipe.augmentation(inputs, generator)
        total = torch.zeros(())
        with recipe.autocast():
            for block, reaching in zip(blocks, layer_inputs(dense, {name: pixels}), strict=True):
                for part in block:
                    total = total + sum(loss for loss, _ in _errors(part, part.inputs(reaching)))
        return StepResult(total / len(learners))

    groups = parameter_groups(learners, recipe.distil_rate, gate_rate=recipe.distil_rate)
    return Phase("distil", learners, groups, recipe.distil_epochs, step)


def _errors(part: _Adapted, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Loss and error per token of each layer's learners, relative to the layer's variance."""
    found = []
    for own, source in zip(part.learners, part.sources, strict=True):
        target = source(x).detach().float()
        found.append(losses.relative_distillation(own.contributions(x).float(), own.b2, target))
    return found


def gate_phase(recipe: Recipe, dense: Network, adaptive: Network, sample: Tensor) -> Phase:
    """Phase 2: gates learn to predict what each further learner would gain. Learners stay as they are."""
    blocks = _adapted(dense, adaptive)
    gates = nn.ModuleList(part.gate for block in blocks for part in block)
    name = dense.input_specs()[0].name

    @torch.no_grad()
    def errors(pixels: Tensor) -> list[tuple[PriceGate | ArgmaxGate, Tensor, Tensor]]:
        """Every gate, its input and the error of k = 0..N learners, a mean over the layers it decides for."""
        found = []
        for block, reaching in zip(blocks, layer_inputs(dense, {name: pixels}), strict=True):
            for part in block:
                x = part.inputs(reaching)
                error = torch.stack([error for _, error in _errors(part, x)]).mean(0)
                found.append((part.gate, x, error))
        return found

    quantiles = losses.gain_quantiles([error for _, _, error in errors(sample)])

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

    groups = parameter_groups(gates, recipe.distil_rate, gate_rate=recipe.distil_rate)
    return Phase("gates", gates, groups, recipe.gate_epochs, step)
