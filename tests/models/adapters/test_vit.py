"""The Network: what it computes, what it costs, how a dense one becomes adaptive."""

import numpy as np
import pytest
import torch

from adaptrt.models import ACMConfig, ConditionalLinear, ConditionalMLP, Network, ViTConfig, adapt
from adaptrt.ops import CONDITIONAL_LINEAR, CONDITIONAL_MLP
from tests.models.conftest import TINY, with_acm


def price(value: float) -> torch.Tensor:
    return torch.tensor([value])


def test_learners_compute_the_op() -> None:
    torch.manual_seed(0)
    mlp, linear = ConditionalMLP(3, 8, 5, 6), ConditionalLinear(3, 8, 5, 6)
    for module in (mlp, linear):
        torch.nn.init.normal_(module.b2)
    torch.nn.init.normal_(mlp.b1)
    x, k = torch.randn(40, 8), torch.randint(-1, 5, (40,), dtype=torch.int32)
    for module, record in ((mlp, CONDITIONAL_MLP), (linear, CONDITIONAL_LINEAR)):
        weights = {name: value.numpy() for name, value in module.state_dict().items()}
        wanted = record.reference(x=x.numpy(), k=k.numpy(), **weights)
        np.testing.assert_allclose(module(x, k).detach().numpy(), wanted, rtol=1e-4, atol=1e-5)
        partial = module.contributions(x).cumsum(0) + module.b2  # type: ignore[operator]
        everything = torch.full_like(k, 3)
        torch.testing.assert_close(partial[-1], module(x, everything), atol=1e-5, rtol=1e-4)


def test_macs_of_the_default_shape_by_hand() -> None:
    # 64 tokens, width 192: embedding, and per block projections, attention and FFN; the head at the end.
    by_hand = 64 * 192 + 6 * (64 * 4 * 192**2 + 2 * 64**2 * 192 + 64 * 2 * 192 * 768) + 192 * 10
    assert Network.from_config(ViTConfig()).dense_macs() == by_hand
    assert Network.from_config(ViTConfig(acm=ACMConfig())).dense_macs() == by_hand


def test_macs_of_vit_b_are_the_published_ones() -> None:
    # arXiv 2312.10193 counts 17.56 G for Network-B/16: FFN 11.15 G, projections 5.58 G, attention 0.72 G.
    config = ViTConfig(
        image_size=224,
        patch_size=16,
        channels=3,
        width=768,
        depth=12,
        heads=12,
        ffn_width=3072,
        classes=1000,
        class_token=True,
    )
    with torch.device("meta"):
        layers = Network.from_config(config).layers()
    for kind, published in (("ffn", 11.15), ("projections", 5.58), ("attention", 0.72)):
        counted = sum(layer.dense for layer in layers if layer.name.endswith(kind))
        assert counted / 1e9 == pytest.approx(published, abs=0.01)
    assert sum(layer.dense for layer in layers) / 1e9 == pytest.approx(17.56, abs=0.02)


def test_macs_fraction_counts_the_runs(adaptive: Network) -> None:
    images = torch.rand(5, 1, 4, 4)
    limits = adaptive.price_limits()
    for value in np.linspace(*limits, 7):
        out = adaptive(images, price(float(value)))
        layers = adaptive.layers()
        dense = sum(layer.dense for layer in layers)
        counted = np.full(5, sum(layer.dense if not layer.per_run else layer.gate for layer in layers), np.float64)
        gated = [layer for layer in layers if layer.per_run]
        for layer, decision in zip(gated, out.decisions, strict=True):
            counted += layer.per_run * decision.k.numpy().reshape(5, -1).sum(1)
        np.testing.assert_allclose(out.macs_fraction.numpy(), counted / dense, atol=1e-6)


def test_everything_running_costs_the_dense_work_and_the_gates(adaptive: Network) -> None:
    low, _ = adaptive.price_limits()
    layers = adaptive.layers()
    gates = sum(layer.gate for layer in layers) / sum(layer.dense for layer in layers)
    fraction = adaptive(torch.rand(2, 1, 4, 4), price(low)).macs_fraction
    torch.testing.assert_close(fraction, torch.full((2,), 1 + gates))
    assert gates > 0


def test_a_dense_model_uses_all_of_its_work(dense: Network) -> None:
    out = dense(torch.rand(3, 1, 4, 4))
    assert out.macs_fraction.tolist() == [1.0, 1.0, 1.0] and out.decisions == []


def test_a_sample_does_not_depend_on_its_batch(adaptive: Network) -> None:
    images = torch.rand(6, 1, 4, 4)
    low, high = adaptive.price_limits()
    together = adaptive(images, price((low + high) / 2))
    for index in range(6):
        alone = adaptive(images[index : index + 1], price((low + high) / 2))
        torch.testing.assert_close(alone.logits[0], together.logits[index], atol=1e-5, rtol=1e-5)
        assert alone.macs_fraction[0] == together.macs_fraction[index]


@pytest.mark.parametrize("class_token", [False, True])
def test_an_adapted_model_with_all_learners_is_the_dense_one(class_token: bool) -> None:
    import dataclasses

    torch.manual_seed(1)
    dense = Network.from_config(dataclasses.replace(TINY, class_token=class_token)).eval()
    images = torch.rand(8, 1, 4, 4)
    adaptive = adapt(dense, {"pixels": images}, acm=ACMConfig(learners=4)).eval()
    torch.testing.assert_close(adaptive(images, price(0.0)).logits, dense(images).logits, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(adaptive(images, price(1.0)).logits, dense(images).logits, atol=1e-3)


def test_adapted_projections_keep_the_largest_components() -> None:
    torch.manual_seed(1)
    dense = Network.from_config(TINY).eval()
    images = torch.rand(8, 1, 4, 4)
    adaptive = adapt(dense, {"pixels": images}, acm=ACMConfig(learners=4, projections=True)).eval()
    source, part = dense.blocks[0].projections.query, adaptive.blocks[0].projections.query  # type: ignore[union-attr]
    product = sum(part.w1[n] @ part.w2[n] for n in range(4))
    u, s, vt = torch.linalg.svd(source.weight.T)
    torch.testing.assert_close(product, (u[:, :8] * s[:8]) @ vt[:8], atol=1e-5, rtol=1e-4)


def test_only_a_dense_model_is_adapted() -> None:
    with pytest.raises(ValueError, match="adaptive already"):
        adapt(Network.from_config(with_acm()), {"pixels": torch.rand(2, 1, 4, 4)}, acm=ACMConfig())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"image_size": 5, "patch_size": 2}, "must be a multiple"),
        ({"acm": ACMConfig(learners=5), "ffn_width": 32}, "no multiple of 5 learners"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Network.from_config(ViTConfig(**config))  # type: ignore[arg-type]


def test_an_unknown_gate_is_refused() -> None:
    with pytest.raises(ValueError, match="got gate 'coin', expected one of price, argmax"):
        ACMConfig(gate="coin")
