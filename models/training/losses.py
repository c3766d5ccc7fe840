"""Losses of ACM training (arXiv 2312.10193) and what one model for all prices adds to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from adaptrt.models.families.gate import Decision
from adaptrt.models.tokens import Selection

_GAIN_QUANTILES = 512


def distillation(contributions: Tensor, bias: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Error of every number of learners against the replaced layer (phase 1).

    Args:
        contributions: ``s_n(x)``, ``[N, T, E]``.
        bias: ``[E]``.
        target: The replaced layer's output, ``[T, E]``.

    Returns:
        The loss, the mean over k in 1..N and, with a weight of 0.1, k = 0, which has only the bias to
        learn; and the squared error per token ``[N + 1, T]`` for k = 0..N.
    """
    partial = torch.cat([torch.zeros_like(contributions[:1]), contributions.cumsum(0)]) + bias
    error = (partial - target).square().mean(2)
    return error.mean(1)[1:].mean() + 0.1 * error[0].mean(), error.detach()


def relative_distillation(contributions: Tensor, bias: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """``distillation`` relative to the variance of the replaced layer's output, so that layers can be compared."""
    loss, error = distillation(contributions, bias, target)
    scale = target.var().clamp_min(1e-6)
    return loss / scale, error / scale


def gain_quantiles(errors: Sequence[Tensor]) -> Tensor:
    """The scale of prices for ``gain_targets``: quantiles of what learners gain in several modules, ``[Q]``.

    Args:
        errors: Of every module, ``[N + 1, T]`` from ``distillation``.
    """
    gains = torch.cat([(error[:-1] - error[1:]).cummin(0).values.flatten() for error in errors]).sort().values
    return gains[(torch.linspace(0, 1, _GAIN_QUANTILES, device=gains.device) * (len(gains) - 1)).long()]


def gain_targets(error: Tensor, price_of_gain: Tensor) -> Tensor:
    """Gains that the price gate should give out (phase 2).

    The marginal gain of learner n is the drop of the squared error it brings, made non-increasing over
    n, and placed on the scale of prices by its rank among all gains: a price p then runs a share of
    about 1 - p of the learners.

    Args:
        error: ``[N + 1, T]`` from ``distillation``.
        price_of_gain: Quantiles of the gains, ascending, ``[Q]``.

    Returns:
        Targets in (0, 1), ``[T, N]``.
    """
    gains = (error[:-1] - error[1:]).cummin(0).values.T
    rank = torch.searchsorted(price_of_gain, gains.contiguous()).to(torch.float32)
    return ((rank + 0.5) / (len(price_of_gain) + 1)).clamp(0.01, 0.99)


def smallest_sufficient(error: Tensor, ratio: float = 0.9) -> Tensor:
    """Target of the argmax gate (phase 2): the smallest n whose successor no longer helps.

    n is sufficient when ``error[n + 1] > ratio * error[n]``; N where no n is.

    Returns:
        int64 ``[T]``.
    """
    enough = error[1:] > ratio * error[:-1]
    enough = torch.cat([enough, torch.ones_like(enough[:1])])
    return enough.to(torch.int8).argmax(0)


def utilisation(decision: Decision, tokens: int) -> Tensor:
    """Share of its present tokens' learners each image runs, ``[B]``, differentiable through the mask."""
    share = decision.mask.mean(1) if decision.costs is None else decision.mask @ decision.costs
    if decision.present is None:
        return share.reshape(-1, tokens).mean(1)
    present = decision.present.reshape(-1, tokens)
    return (share.reshape(-1, tokens) * present).sum(1) / present.sum(1)


def kept_share(selection: Selection, class_token: bool) -> Tensor:
    """Share of the tokens that were there, class token apart, that a selection keeps, ``[B]``, differentiable."""
    assert selection.keeping is not None and selection.present is not None
    first = int(class_token)
    present = selection.present.detach()[:, first:]
    return (selection.keeping[:, first:] * present).sum(1) / present.sum(1).clamp_min(1)


def budget_loss(used: Tensor, wanted: Tensor, groups: int) -> Tensor:
    """Distance of the mean utilisation from what the price asks for.

    The paper's |mean - beta| for one beta; here images of one price form a group, so that a price
    fixes the mean over images and easy ones may use less.

    Args:
        used: ``[B]``, sorted so that equal prices stand together.
        wanted: ``[B]``.
        groups: Number of prices in the batch.
    """
    return (used - wanted).reshape(groups, -1).mean(1).abs().mean()


def entropy_loss(decision: Decision, tokens: int, weight: Tensor) -> Tensor:
    """Minus the entropy of each image's histogram of k in one module, weighted per image ``[B]``.

    Keeps a gate from giving all tokens the same k.
    """
    choices = _choice_shares(decision, tokens).clamp_min(1e-6)
    return (weight * (choices * choices.log()).sum(1)).mean()


def diversity_loss(used: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Minus the mean distance between the loads of images that run at the same price.

    Rewards a gate that spends more on some images than on others.

    Args:
        used: ``[B]``, sorted so that equal prices stand together.
        weight: Per image, ``[B]``.
        groups: Number of prices in the batch.
    """
    loads = used.reshape(groups, -1)
    return -((loads[:, :, None] - loads[:, None]).abs() * weight.reshape(groups, -1, 1)).mean()


def traffic_loss(decision: Decision, tokens: int) -> Tensor:
    """Mean square root of the share of an image's tokens that each learner runs for.

    A learner that runs for one token reads as many weights as one that runs for all, and at small
    batches reading them is what it costs. For the same work the concave root is smallest when each
    learner runs for all tokens of an image or for none. Not in the paper, which counts MACs only.
    """
    runs = decision.mask if decision.present is None else decision.mask * decision.present[:, None]
    share = runs.reshape(-1, tokens, runs.shape[1]).mean(1)
    return (share.clamp_min(0) + 1e-3).sqrt().mean()


def _choice_shares(decision: Decision, tokens: int) -> Tensor:
    """Share of an image's tokens that run exactly k learners, ``[B, N + 1]``."""
    runs = functional.pad(decision.mask, (1, 0), value=1.0)
    exactly = runs - functional.pad(decision.mask, (0, 1))
    return exactly.reshape(-1, tokens, exactly.shape[1]).mean(1)
