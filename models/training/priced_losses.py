"""What ties the work of learners and selections to the prices of a batch, whatever the network is trained for."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.network_output import NetworkOutput
from adaptrt.models.training import losses


class PriceWeights(Protocol):
    """Prices per batch and the weights of the losses; ``Recipe`` says what each is."""

    @property
    def acm(self) -> ACMConfig | None:
        """The learners."""
        ...

    @property
    def prices(self) -> int:
        """Prices per batch."""
        ...

    @property
    def budget_weight(self) -> float:
        """Of the distance of the work from what the price asks for."""
        ...

    @property
    def entropy_weight(self) -> float:
        """Of what keeps a gate from giving all tokens the same."""
        ...

    @property
    def diversity_weight(self) -> float:
        """Of what rewards a gate that spends more on some samples."""
        ...

    @property
    def traffic_weight(self) -> float:
        """Of what keeps a learner from running for a few tokens only."""
        ...


def price_knobs(weights: PriceWeights, adaptive: AdaptableNetwork, share: Tensor, kept: Tensor) -> dict[str, Tensor]:
    """The prices that ask for such shares, one for each sample.

    Args:
        weights: Of the training.
        adaptive: The network.
        share: Of learners to run, ``[B]``.
        kept: Of tokens to keep at each selection, ``[B]``.
    """
    knobs = {"price": learner_price(weights, share)[:, None]}
    if adaptive.prunes_by_price:
        knobs["price" if weights.acm is None else "token_price"] = (1 - kept)[:, None]
    return knobs


def learner_losses(weights: PriceWeights, adaptive: AdaptableNetwork, out: NetworkOutput, share: Tensor) -> Tensor:
    """What ties the learners' work to the price, and keeps gates from collapsing."""
    tokens = len(out.decisions[0].k) // len(share)  # texts are as long as the batch's longest
    used = _mean_utilisation(adaptive, [losses.utilisation(d, tokens) for d in out.decisions])
    middle = 4 * share * (1 - share)  # the collapse losses matter where there is a choice
    loss = weights.budget_weight * losses.budget_loss(used, share, weights.prices)
    for decision in out.decisions:
        entropy = weights.entropy_weight * losses.entropy_loss(decision, tokens, middle)
        traffic = weights.traffic_weight * losses.traffic_loss(decision, tokens)
        loss = loss + (entropy + traffic) / len(out.decisions)
    return loss + weights.diversity_weight * losses.diversity_loss(used, middle, weights.prices)


def draw_shares(
    weights: PriceWeights, adaptive: AdaptableNetwork, images: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw for every group of images what share of learners to run, and of tokens to keep at each selection.

    One family saves in all groups. Where there are two, groups take turns: nothing is saved, learners alone,
    tokens alone, both. Were both drawn everywhere, next to no image would see the whole network in training,
    and the network would be worse where it runs whole: the sandwich rule of slimmable networks (arXiv 1903.05134)
    includes the largest for that reason. On Fashion-MNIST that was 0.8 points.

    Returns:
        Both ``[images]``; 1 where a family saves nothing.
    """
    share, kept = torch.ones(weights.prices), torch.ones(weights.prices)
    saves_learners = saves_tokens = torch.ones(weights.prices, dtype=torch.bool)
    gated = bool(adaptive.gates())
    if gated and adaptive.prunes_by_price:
        turn = (torch.arange(weights.prices) + torch.randint(4, (1,), generator=generator)) % 4
        saves_learners, saves_tokens = turn % 2 == 1, turn >= 2
    share[saves_learners] = _spread(int(saves_learners.sum()), generator)
    if adaptive.prunes_by_price:
        staying = _spread(int(saves_tokens.sum()), generator)
        kept[saves_tokens] = staying[torch.randperm(len(staying), generator=generator)]
    repeats = images // weights.prices
    return share.repeat_interleave(repeats), kept.repeat_interleave(repeats)


def _spread(count: int, generator: torch.Generator) -> Tensor:
    """Random numbers in 0..1, one in each of as many equal parts, ascending."""
    return (torch.arange(count, dtype=torch.float32) + torch.rand(count, generator=generator)) / max(count, 1)


def learner_price(weights: PriceWeights, share: Tensor) -> Tensor:
    """The price that asks for a share of learners; the argmax gate's is unbounded, the share sets a logit."""
    price = 1 - share
    if weights.acm is not None and weights.acm.gate == "argmax":
        price = torch.logit(price.clamp(1e-3, 1 - 1e-3))
    return price


def selection_losses(weights: PriceWeights, adaptive: AdaptableNetwork, out: NetworkOutput, kept: Tensor) -> Tensor:
    """What ties the tokens that stay to their price."""
    class_token = bool(adaptive.config.class_token)
    staying = torch.stack([losses.kept_share(selection, class_token) for selection in out.selections]).mean(0)
    loss = weights.budget_weight * losses.budget_loss(staying, kept, weights.prices)
    return loss + weights.diversity_weight * losses.diversity_loss(staying, 4 * kept * (1 - kept), weights.prices)


def _mean_utilisation(model: AdaptableNetwork, used: list[Tensor]) -> Tensor:
    """Utilisation of the modules weighted by what their learners cost, ``[B]``."""
    per_run = [layer.per_run for layer in model.layers() if layer.per_run]
    weights = torch.tensor(per_run, dtype=torch.float32, device=used[0].device)
    return (torch.stack(used) * (weights / weights.sum())[:, None]).sum(0)
