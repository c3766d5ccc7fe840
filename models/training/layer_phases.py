"""Phases by layer: one block's learners against the FFN that they replace, then its gate against what learners gain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.block import Block
from adaptrt.models.families.acm import AdaptiveFFN
from adaptrt.models.families.gate import PriceGate
from adaptrt.models.training import losses
from adaptrt.models.training.activations import Activations
from adaptrt.models.training.devices import device_of
from adaptrt.models.training.phase import parameter_groups
from adaptrt.models.training.steps import StepPhase

if TYPE_CHECKING:
    from adaptrt.models.training.adapting import AdaptSettings


def ffn_of(block: nn.Module) -> nn.Module:
    """The FFN of a block of the dense network."""
    assert isinstance(block, Block)
    return block.ffn


def adaptive_of(block: nn.Module) -> AdaptiveFFN:
    """The ACM in its place."""
    assert isinstance(block, Block) and isinstance(block.ffn, AdaptiveFFN)
    return block.ffn


def _error(source: nn.Module, ffn: AdaptiveFFN, x: Tensor, settings: AdaptSettings) -> tuple[Tensor, Tensor]:
    """Loss, and error of k = 0..N learners per token, relative to the variance of the layer's output."""
    with settings.autocast(x.device.type):
        target = source(x).detach().float()
        contributions = ffn.learners.contributions(x).float()
    return losses.relative_distillation(contributions, ffn.learners.b2, target)


def distil_phase(
    number: int, source: nn.Module, ffn: AdaptiveFFN, kept: Activations, settings: AdaptSettings
) -> StepPhase:
    """One block's learners against the FFN that they replace, every number of them; see ``losses.distillation``."""

    def losses_of(step: int, generator: torch.Generator) -> list[Tensor]:
        del step
        x = kept.draw(number, settings.layer_batch, generator).to(device_of(ffn))
        return [_error(source, ffn, x, settings)[0]]

    groups = parameter_groups(ffn.learners, settings.layer_rate, gate_rate=settings.layer_rate)
    return StepPhase(f"distil{number}", ffn.learners, groups, settings.distil_steps, losses_of)


@torch.no_grad()
def gain_quantiles(pairs: list[tuple[nn.Module, AdaptiveFFN]], kept: Activations, settings: AdaptSettings) -> Tensor:
    """What learners gain over all blocks, in ascending order, ``[512]``: the scale of prices."""
    errors = []
    for number, (source, ffn) in enumerate(pairs):
        x = kept.draw(number, settings.layer_batch, torch.Generator().manual_seed(settings.seed)).to(device_of(ffn))
        errors.append(_error(source, ffn, x, settings)[1])
    return losses.gain_quantiles(errors)


def gate_phase(
    number: int, source: nn.Module, ffn: AdaptiveFFN, kept: Activations, quantiles: Tensor, settings: AdaptSettings
) -> StepPhase:
    """One block's gate against what each further learner gains; see ``losses.gain_targets``."""
    gate = ffn.gate
    assert isinstance(gate, PriceGate)

    def losses_of(step: int, generator: torch.Generator) -> list[Tensor]:
        del step
        x = kept.draw(number, settings.layer_batch, generator).to(device_of(ffn))
        with torch.no_grad():
            wanted = losses.gain_targets(_error(source, ffn, x, settings)[1], quantiles)
        return [functional.binary_cross_entropy_with_logits(gate.logits(x), wanted)]

    groups = parameter_groups(gate, settings.layer_rate, gate_rate=settings.layer_rate)
    return StepPhase(f"gate{number}", gate, groups, settings.gate_steps, losses_of)
