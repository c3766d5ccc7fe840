"""Gates: gains non-increasing, decisions monotone in the price, limits exact."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adaptrt.models.families.gate import ArgmaxGate, PriceGate

seeds = st.integers(0, 2**31 - 1)


def wild_gate(
    kind: type[PriceGate] | type[ArgmaxGate], seed: int, learners: int, cost: float = 1.0
) -> PriceGate | ArgmaxGate:
    """A gate whose weights are far from where they start."""
    torch.manual_seed(seed)
    gate = kind(12, learners, 16, cost)
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter, std=3.0)
    return gate.eval()


def price_tensor(price: float) -> Tensor:
    return torch.tensor([price], dtype=torch.float32)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, learners=st.integers(1, 9))
def test_gains_never_rise_over_the_learners(seed: int, learners: int) -> None:
    gate = wild_gate(PriceGate, seed, learners)
    gains = gate(torch.randn(50, 12), price_tensor(0.5)).gains
    assert gains.shape == (50, learners)
    assert (gains[:, 1:] <= gains[:, :-1]).all()
    assert (gains > 0).all() and (gains <= 1).all()


@pytest.mark.parametrize("kind", [PriceGate, ArgmaxGate])
@settings(max_examples=30, deadline=None)
@given(seed=seeds, prices=st.lists(st.floats(0, 1, width=32), min_size=2, max_size=6))
def test_k_never_rises_with_the_price(kind: type[PriceGate] | type[ArgmaxGate], seed: int, prices: list[float]) -> None:
    gate = wild_gate(kind, seed, 4)
    x = torch.randn(40, 12)
    low, high = gate.price_limits
    runs = [gate(x, price_tensor(low + price * (high - low))).k for price in sorted(prices)]
    for cheaper, dearer in itertools.pairwise(runs):
        assert (dearer <= cheaper).all()


@pytest.mark.parametrize("kind", [PriceGate, ArgmaxGate])
@pytest.mark.parametrize("cost", [1.0, 0.125])
@pytest.mark.parametrize("seed", range(5))
def test_the_limits_run_everything_and_nothing(
    kind: type[PriceGate] | type[ArgmaxGate], seed: int, cost: float
) -> None:
    gate = wild_gate(kind, seed, 4, cost)
    x = 10 * torch.randn(200, 12)
    low, high = gate.price_limits
    assert (gate(x, price_tensor(low)).k == 4).all()
    assert (gate(x, price_tensor(high)).k == 0).all()


def test_a_cheaper_learner_runs_at_a_higher_price() -> None:
    torch.manual_seed(0)
    dear = PriceGate(12, 4, 16).eval()
    cheap = PriceGate(12, 4, 16, cost=0.25).eval()
    cheap.load_state_dict(dear.state_dict())
    x = torch.randn(100, 12)
    assert torch.equal(cheap(x, price_tensor(0.8)).k, dear(x, price_tensor(0.2)).k)
    assert cheap(x, price_tensor(0.8)).k.sum() > dear(x, price_tensor(0.8)).k.sum()


@pytest.mark.parametrize("kind", [PriceGate, ArgmaxGate])
def test_at_least_one_learner_where_asked(kind: type[PriceGate] | type[ArgmaxGate]) -> None:
    gate = kind(12, 4, 16, at_least=1).eval()
    decision = gate(torch.randn(30, 12), price_tensor(gate.price_limits[1]))
    assert (decision.k == 1).all() and (decision.mask.sum(1) == 1).all()


def test_the_argmax_gate_is_the_argmax() -> None:
    gate = wild_gate(ArgmaxGate, 3, 4)
    x, price = torch.randn(100, 12), 0.7
    decision = gate(x, price_tensor(price))
    scores = decision.gains.detach().numpy() - price * np.arange(5)
    assert np.array_equal(decision.k.numpy(), scores.argmax(1))
    best = np.sort(scores, 1)
    np.testing.assert_allclose(decision.margin.detach().numpy()[:, 0], best[:, -1] - best[:, -2], atol=1e-5)


@pytest.mark.parametrize("kind", [PriceGate, ArgmaxGate])
def test_a_training_mask_is_hard_in_value_and_soft_in_gradient(
    kind: type[PriceGate] | type[ArgmaxGate],
) -> None:
    torch.manual_seed(0)
    gate = kind(12, 4, 16).train()
    decision = gate(torch.randn(64, 12), torch.rand(64, 1))
    mask = decision.mask.detach()
    torch.testing.assert_close(mask.round(), mask, atol=1e-6, rtol=0)
    assert (mask[:, 1:] <= mask[:, :-1] + 1e-6).all()  # always the first k
    assert torch.equal(mask.sum(1).round().to(torch.int32), decision.k)
    decision.mask.sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in gate.parameters())
