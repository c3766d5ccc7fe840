"""Routed feed-forward networks: big, small or past both, by a price on a linear router."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from adaptrt.models import Network, ViTConfig
from adaptrt.models.adaptation import adapt
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.routed_ffn import BIG, SKIP, SMALL, RoutedFFN, RoutedFFNConfig, Router
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.symbolic.call_record import CallRecord, calls_recorded
from adaptrt.models.training.losses import utilisation

SHAPE = ViTConfig(image_size=8, patch_size=2, width=16, depth=3, heads=2, ffn_width=32, classes=3)
GATED = dataclasses.replace(SHAPE, gated=True, activation="silu")


@pytest.fixture
def images() -> dict[str, Tensor]:
    return {"pixels": torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))}


def networks(shape: ViTConfig, images: dict[str, Tensor], small: float = 0.25) -> tuple[Network, Network]:
    torch.manual_seed(0)
    dense = Network.from_config(shape).eval()
    routed = adapt(dense, images, routed=RoutedFFNConfig(small)).eval()
    for gate in routed.gates():
        nn.init.normal_(gate.score.weight, std=0.7)  # type: ignore[union-attr, arg-type]
    return dense, routed


def ffns(model: Network) -> list[RoutedFFN]:
    found = [block.ffn for block in model.blocks]
    assert all(isinstance(ffn, RoutedFFN) for ffn in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [SHAPE, GATED], ids=["plain", "gated"])
def test_all_big_is_the_dense_network(shape: ViTConfig, images: dict[str, Tensor]) -> None:
    dense, routed = networks(shape, images)
    with torch.no_grad():
        out = routed.run(images, {"price": torch.tensor([0.0])})
        torch.testing.assert_close(out.logits, dense.run(images, {}).logits, atol=1e-5, rtol=1e-5)
        assert all((decision.k == BIG).all() for decision in out.decisions)
        nothing = routed.run(images, {"price": torch.tensor([1.0])})
    assert all((decision.k == SKIP).all() for decision in nothing.decisions)
    routers = 3 * sum(16 * 3 * 16 for _ in range(3)) / 3 / dense.dense_macs()
    assert float(out.macs_fraction[0]) == pytest.approx(1 + routers, rel=1e-5)


@pytest.mark.parametrize("shape", [SHAPE, GATED], ids=["plain", "gated"])
def test_forced_routes_compute_what_their_networks_do(shape: ViTConfig, images: dict[str, Tensor]) -> None:
    _, routed = networks(shape, images)
    ffn, x = ffns(routed)[0], torch.rand(9, 16)
    routes = torch.tensor([SKIP, SMALL, BIG] * 3, dtype=torch.int32)
    ffn.gate.register_forward_hook(lambda _gate, _given, found: found._replace(k=routes))
    tokens = type("T", (), {"valid": None, "per_sample": 9, "presence": None})()
    with torch.no_grad():
        y, _ = ffn(x, torch.tensor([0.5]), tokens)
        one = torch.ones(9, dtype=torch.int32)
        big, small, skip = ffn.big(x, one), ffn.small(x, one) + ffn.big.b2, ffn.big.b2.expand(9, -1)
    wanted = torch.stack([(skip, small, big)[route][row] for row, route in enumerate(routes.tolist())])
    torch.testing.assert_close(y, wanted, atol=1e-6, rtol=1e-5)
    with torch.no_grad(), calls_recorded(CallRecord(dense=True)) as record:
        everywhere, _ = ffn(x, torch.tensor([0.5]), tokens)
    torch.testing.assert_close(everywhere, big, atol=1e-6, rtol=1e-5)  # dense: big for all, whatever the routes
    assert record.learners == []


def test_the_small_network_has_the_units_that_contribute_most(images: dict[str, Tensor]) -> None:
    _, routed = networks(SHAPE, images)
    for ffn in ffns(routed):
        torch.testing.assert_close(ffn.small.w1, ffn.big.w1[..., :8])
        torch.testing.assert_close(ffn.small.w2, ffn.big.w2[:, :8])


@settings(max_examples=40, deadline=None)
@given(small=st.floats(0.01, 0.99), seed=st.integers(0, 1000), scale=st.floats(0.0, 100.0))
def test_work_never_rises_with_the_price_and_the_limits_hold(small: float, seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    router = Router(6, small).eval()
    nn.init.normal_(router.score.weight, std=scale)
    x, prices = torch.randn(20, 6), torch.linspace(0, 1, 21)
    with torch.no_grad():
        routes = torch.stack([router(x, price[None]).k for price in prices])
    assert (routes[0] == BIG).all() and (routes[-1] == SKIP).all()
    assert (torch.diff(routes, dim=0) <= 0).all()


def test_training_draws_routes_and_counts_what_they_cost(images: dict[str, Tensor]) -> None:
    _, routed = networks(SHAPE, images)
    routed.train()
    torch.manual_seed(3)
    out = routed.run(images, {"price": torch.full((5, 1), 0.5)})
    cost = torch.tensor([0.0, 0.25, 1.0])
    for decision in out.decisions:
        wanted = cost[decision.k.long()].reshape(5, -1).mean(1)
        torch.testing.assert_close(utilisation(decision, 16), wanted, atol=1e-5, rtol=1e-5)
    out.logits.square().sum().backward()
    for ffn in ffns(routed):
        assert ffn.gate.score.weight.grad is not None and ffn.gate.score.weight.grad.abs().sum() > 0
        assert ffn.small.b2.grad is None and not ffn.small.b2.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"acm": ACMConfig(2)}, "beside ACMs"),
        ({"pruning": PruningConfig((0,))}, "beside token selections"),
        ({"hard_budgets": True}, "beside hard budgets"),
        ({"others": {"routed_ffn": {"small": 0.01}}}, "of 32 units, expected at least 1"),
    ],
)
def test_what_it_does_not_stand_beside(changes: dict[str, object], message: str) -> None:
    fields = {"others": {"routed_ffn": {"small": 0.25}}, **changes}
    with pytest.raises(ValueError, match=message):
        Network.from_config(dataclasses.replace(SHAPE, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("small", [0.0, 1.0, 2, "half"])
def test_a_share_that_is_none(small: object) -> None:
    with pytest.raises(ValueError, match="expected a share between 0 and 1"):
        RoutedFFNConfig(small)  # type: ignore[arg-type]
