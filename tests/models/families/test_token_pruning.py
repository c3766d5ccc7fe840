"""Dropped tokens that still count in the mean that a head reads."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models import Network, ViTConfig
from adaptrt.models.families import token_pruning
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PriceSelector, PruningConfig
from adaptrt.models.tokens import Selection, Tokens

SHAPE = ViTConfig(
    image_size=8, patch_size=2, width=16, depth=3, heads=2, ffn_width=32, classes=3, class_token=False, task="embedding"
)
PRICE = 0.45
"""Keeps some tokens of an untrained network and drops some."""
PRUNING = PruningConfig((0, 1), averages_dropped=True)


def network(**families: object) -> Network:
    torch.manual_seed(0)
    model = Network.from_config(dataclasses.replace(SHAPE, **families)).eval()  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if "selector." in name and parameter.ndim > 1:
            nn.init.uniform_(parameter, -0.9, 0.9)  # unlike normal_, the same numbers under every instruction set
    return model


def answer(model: Network, images: Tensor, price: float) -> Tensor:
    with torch.no_grad():
        return model.run({"pixels": images}, {"price": torch.tensor([price])}).outputs["sentence_embedding"]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_mean_has_what_the_map_makes_of_dropped_tokens(images: Tensor) -> None:
    model, seen = network(pruning=PRUNING), []

    def keep(selector: nn.Module, given: tuple[Tokens, ...], found: tuple[Tokens, Selection]) -> None:
        seen.append((selector, given[0], found[1]))

    for block in model.blocks[:2]:
        block.selector.register_forward_hook(keep)
    last: list[Tokens] = []
    model.blocks[-1].register_forward_hook(lambda _block, _given, found: last.append(found[0]))
    given = answer(model, images, PRICE)
    dropped = 0
    for sample in range(len(images)):
        kept = int(seen[-1][2].count[sample])
        parts = [*last[0].grouped()[sample, :kept]]
        for selector, tokens, selection in seen:
            here = tokens.per_sample if tokens.valid is None else int(tokens.valid[sample].sum())
            staying = set(selection.index[sample, : int(selection.count[sample])].tolist())
            gone = [tokens.grouped()[sample, place] for place in range(here) if place not in staying]
            parts += [selector.stand_in(token) for token in gone]
            dropped += len(gone)
        assert len(parts) == 16
        wanted = model.norm(torch.stack(parts).mean(0))
        torch.testing.assert_close(given[sample], wanted, atol=1e-5, rtol=1e-5)
    assert dropped > 10


def test_where_nothing_is_dropped_nothing_changes(images: Tensor) -> None:
    counting, plain = network(pruning=PRUNING), network(pruning=dataclasses.replace(PRUNING, averages_dropped=False))
    plain.load_state_dict(counting.state_dict(), strict=False)
    torch.testing.assert_close(answer(counting, images, 0.0), answer(plain, images, 0.0))
    assert not torch.allclose(answer(counting, images, PRICE), answer(plain, images, PRICE), atol=1e-3)


def test_stages_hand_it_on(images: Tensor) -> None:
    whole, staged = network(pruning=PRUNING), network(pruning=PRUNING, exits=ExitConfig((1, 2), "certainty"))
    staged.load_state_dict(whole.state_dict(), strict=False)
    torch.testing.assert_close(answer(whole, images, PRICE), answer(staged, images, PRICE))
    names = [[spec.tensor.name for spec in staged.carried_specs(stage)] for stage in (1, 2)]
    assert all({"dropped", "dropped_count"} <= set(found) for found in names)
    plain = network(pruning=PruningConfig((2,), averages_dropped=True), exits=ExitConfig((1,), "certainty"))
    assert "dropped" not in [spec.tensor.name for spec in plain.carried_specs(1)]


def test_training_computes_what_evaluation_does(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(pruning=PRUNING)
    monkeypatch.setattr(token_pruning, "logistic_noise", torch.zeros_like)
    with torch.no_grad():
        out = model.run({"pixels": images}, {"price": torch.tensor([PRICE])})
    wanted = out.outputs["sentence_embedding"]
    assert min(float(selection.margin.abs().min()) for selection in out.selections) > 1e-5  # no ties
    model.train()
    price = torch.full((len(images), 1), PRICE)
    found = model.run({"pixels": images}, {"price": price})
    first, second = (selection.count for selection in found.selections)
    assert (first < 16).any() and (second < first).any() and (second > 1).any()  # both drop: both maps learn
    torch.testing.assert_close(found.outputs["sentence_embedding"], wanted, atol=1e-5, rtol=1e-4)
    functional.mse_loss(found.outputs["sentence_embedding"], torch.zeros_like(wanted)).backward()
    for block in model.blocks[:2]:
        assert isinstance(block.selector, PriceSelector) and block.selector.stand_in is not None
        gradient = block.selector.stand_in.weight.grad
        assert gradient is not None and gradient.abs().sum() > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"class_token": True, "pruning": PRUNING},
        {"pruning": dataclasses.replace(PRUNING, rule="fixed")},
    ],
)
def test_it_needs_a_head_that_reads_a_mean(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="got dropped tokens in the mean"):
        dataclasses.replace(SHAPE, **changes)  # type: ignore[arg-type]
