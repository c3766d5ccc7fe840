"""Losses: values by hand, and the traps of the published code."""

import pytest
import torch

from adaptrt.models.families.gate import Decision
from adaptrt.models.training import losses


def decision_of(mask: torch.Tensor) -> Decision:
    return Decision(mask.sum(1).to(torch.int32), mask, mask, mask)


def test_distillation_is_the_mean_over_all_k() -> None:
    contributions = torch.tensor([[[1.0]], [[2.0]]])  # two learners, one token, one channel
    loss, error = losses.distillation(contributions, torch.zeros(1), torch.tensor([[4.0]]))
    assert error[:, 0].tolist() == [16.0, 9.0, 1.0]
    assert loss.item() == pytest.approx((9 + 1) / 2 + 0.1 * 16)


def test_smallest_sufficient_tells_none_from_zero() -> None:
    # Token 0: learner 1 hardly helps, so 0 is enough. Token 1: every learner helps, so all are needed.
    error = torch.tensor([[1.0, 1.0], [0.95, 0.5], [0.1, 0.2]])
    assert losses.smallest_sufficient(error).tolist() == [0, 2]


def test_gain_targets_are_monotone_ranks() -> None:
    torch.manual_seed(0)
    error = torch.rand(5, 100)
    quantiles = (error[:-1] - error[1:]).cummin(0).values.flatten().sort().values
    targets = losses.gain_targets(error, quantiles)
    assert targets.shape == (100, 4)
    assert (targets[:, 1:] <= targets[:, :-1]).all()
    assert targets.mean().item() == pytest.approx(0.5, abs=0.02)  # a price p runs about 1 - p


def test_budget_loss_lets_images_of_one_price_differ() -> None:
    used = torch.tensor([0.9, 0.1, 0.2, 0.2])
    assert losses.budget_loss(used, torch.tensor([0.5, 0.5, 0.2, 0.2]), 2).item() == pytest.approx(0.0, abs=1e-7)
    assert losses.budget_loss(used, torch.full((4,), 0.5), 2).item() == pytest.approx(0.15)


def test_entropy_prefers_tokens_that_differ() -> None:
    ones = torch.ones(2)
    same = decision_of(torch.tensor([[1.0, 0.0]] * 8))
    mixed = decision_of(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]] * 2))
    assert losses.entropy_loss(same, 4, ones).item() == pytest.approx(0.0, abs=1e-4)
    assert losses.entropy_loss(mixed, 4, ones).item() == pytest.approx(-1.0397, abs=1e-3)


def test_diversity_prefers_images_that_differ() -> None:
    ones = torch.ones(4)
    even, spread = torch.full((4,), 0.5), torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert losses.diversity_loss(spread, ones, 1) < losses.diversity_loss(even, ones, 1)
    by_price = torch.tensor([0.9, 0.9, 0.1, 0.1])  # two prices: that images of each are alike earns nothing
    assert losses.diversity_loss(by_price, ones, 2).item() == 0


def test_traffic_prefers_all_tokens_or_none() -> None:
    half = decision_of(torch.tensor([[1.0, 1.0], [0.0, 0.0]] * 4))
    one_learner = decision_of(torch.tensor([[1.0, 0.0]] * 8))
    assert half.mask.mean() == one_learner.mask.mean()
    assert losses.traffic_loss(one_learner, 8) < losses.traffic_loss(half, 8)
