"""How near an adaptive network's answers are to those of the dense one it follows; no labels are needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.models.tokens import Tokens

_SCORES = ("logits", "start_logits", "end_logits")
"""Outputs that a softmax makes probabilities of; others are vectors, whose direction counts."""


def distance(outputs: Mapping[str, Tensor], wanted: Mapping[str, Tensor], real: Tensor | None = None) -> Tensor:
    """The mean distance from the dense network's answers; 0 where they are the same.

    Scores by the Kullback-Leibler divergence from the dense network's probabilities, vectors by 1 - cosine; a mean over
    the outputs.

    Args:
        outputs: ``[B, ...]`` each.
        wanted: The dense network's, likewise.
        real: Which tokens count, ``[B, K]``, of outputs that have an answer for each of them; None: all.
    """
    found = [_distances(name, value.float(), wanted[name].float(), real) for name, value in outputs.items()]
    return torch.stack([_mean(each, real) for each in found]).mean()


def likeness(outputs: Mapping[str, Tensor], wanted: Mapping[str, Tensor], real: Tensor | None = None) -> Tensor:
    """How far each sample's answer is the dense network's, in 0..1, ``[B]``: what a learned certainty predicts.

    Of scores whether the largest stands at the same place, of vectors the cosine; a mean over tokens and outputs.
    """
    found = []
    for name, value in outputs.items():
        if name in _SCORES:
            same = (value.argmax(-1) == wanted[name].argmax(-1)).float()
        else:
            same = functional.cosine_similarity(value.float(), wanted[name].float(), dim=-1).clamp(0, 1)
        if same.ndim > 1:
            weight = torch.ones_like(same) if real is None or real.shape != same.shape else real.to(same.dtype)
            same = (same * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1)
        found.append(same)
    return torch.stack(found).mean(0)


def _distances(name: str, value: Tensor, wanted: Tensor, real: Tensor | None) -> Tensor:
    if name not in _SCORES:
        return 1 - functional.cosine_similarity(value, wanted, dim=-1)
    if real is not None and value.shape == real.shape:  # an answer is a place in the text
        value, wanted = (torch.where(real, each, -1e4) for each in (value, wanted))
    return functional.kl_div(value.log_softmax(-1), wanted.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def _mean(distances: Tensor, real: Tensor | None) -> Tensor:
    if real is None or distances.shape != real.shape:
        return distances.mean()
    weight = real.to(distances.dtype)
    return (distances * weight).sum() / weight.sum().clamp_min(1)


@contextlib.contextmanager
def block_tokens(network: AdaptableNetwork) -> Iterator[list[Tokens]]:
    """The tokens after each block of every run within, in order."""
    found: list[Tokens] = []

    def keep(block: nn.Module, given: object, result: object) -> None:
        del block, given
        found.append(network.block_tokens(result))

    hooks = [block.register_forward_hook(keep) for block in network.blocks]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def hidden_distance(tokens: Sequence[Tokens], wanted: Sequence[Tokens]) -> Tensor:
    """Mean squared distance of the tokens after each block from the dense network's, relative to these' variance.

    Padding does not count, nor do tokens that would have been pruned by then.
    """
    total = torch.zeros(())
    for own, other in zip(tokens, wanted, strict=True):
        target = other.x.float()
        error = (own.x.float() - target).square().mean(1)
        weight = own.presence if own.presence is not None else other.valid
        scale = target.var().clamp_min(1e-6)
        if weight is None:
            total = total + error.mean() / scale
        else:
            there = weight.detach().reshape(-1).to(error.dtype)
            total = total + (error * there).sum() / there.sum().clamp_min(1) / scale
    return total / len(tokens)
