"""Estimates before training: shares of work are met with decisions that differ, at the length that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptrt import AdaptrtError
from adaptrt.export.calibration.exit_thresholds import exits_taken
from adaptrt.export.errors import ExportError
from adaptrt.export.pretrained.dense_source import full_inputs, load_dense
from adaptrt.export.pretrained.estimate import SHARES, make_candidates
from adaptrt.export.pretrained.random_decisions import with_random_decisions
from adaptrt.export.pretrained.work_search import PriceCurve, thresholds_at
from adaptrt.models import ACMConfig, Network, save_model
from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.runtime import load
from tests.models.adapters.pretrained.tiny_models import saved

SIZES = {"num_hidden_layers": 2, "intermediate_size": 256}


def dense_of(
    folder: Path, architecture: str = "BertForSequenceClassification", length: int | None = None, **changes: Any
) -> Any:
    saved(folder, "bert", architecture, **{**SIZES, **changes})
    return load_dense(folder, length)


@pytest.mark.slow("traces four adaptive networks")
def test_shares_are_met_or_said_to_be_out_of_reach(tmp_path: Path) -> None:
    source = dense_of(tmp_path / "model")
    inputs = full_inputs(source.dense, 16)
    told: list[str] = []
    candidates = make_candidates(source, inputs, tmp_path / "work", progress=lambda what, _share: told.append(what))
    assert [candidate.name for candidate in candidates] == ["acm", "exits", "tokens", "acm+exits+tokens"]
    assert "tokens: drawing decisions" in told
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    for number, candidate in enumerate(candidates):
        assert [setting.wanted for setting in candidate.settings] == list(SHARES)
        model = load(candidate.folder, threads=1)
        assert (model.bundle.dense.file is not None) == (number == 0)
        shares = [setting.share for setting in candidate.settings]
        assert shares == sorted(shares, reverse=True)
        for setting in candidate.settings:
            assert setting.reachable == (abs(setting.share - setting.wanted) <= 0.05)
            result = model.run(arrays, knobs=setting.knobs)
            assert result.macs_fraction.mean() == pytest.approx(setting.share, abs=1e-4)
        reached = {setting.wanted for setting in candidate.settings if setting.reachable}
        assert reached >= ({1.0, 0.75} if candidate.name == "tokens" else {1.0, 0.75, 0.5})
        if candidate.name == "acm+exits+tokens":
            assert reached == set(SHARES)
            exits = model.run(arrays, knobs=candidate.settings[2].knobs).exit
            assert exits is not None and len(set(exits.tolist())) > 1
    # Attention alone takes more than a quarter.
    assert not candidates[0].settings[-1].reachable


def test_decisions_differ_between_tokens_and_samples() -> None:
    torch.manual_seed(0)
    shape = ViTConfig(width=32, depth=3, heads=2, ffn_width=64)
    dense = Network.from_config(shape).eval()
    inputs = dense.example_inputs(16)
    families = {"acm": ACMConfig(learners=4), "pruning": PruningConfig((1,)), "exits": None}
    network = with_random_decisions(dense, families, inputs)
    assert not network.training
    half = {"price": torch.tensor([0.5]), "token_price": torch.tensor([0.5])}
    with torch.no_grad():
        output = network.run(inputs, half)
        everything = network.run(inputs, {"price": torch.zeros(1), "token_price": torch.zeros(1)})
        wanted = dense.run(inputs, {})
    for decision in output.decisions:
        assert decision.k.unique().numel() >= 4
    count = output.selections[0].count
    assert count.unique().numel() > 2 and 0.25 < count.float().mean() / dense.tokens < 0.75
    assert output.macs_fraction.std() > 0.01
    # With everything running it is the dense network.
    torch.testing.assert_close(everything.logits, wanted.logits, atol=1e-4, rtol=1e-4)
    again = with_random_decisions(dense, families, inputs)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_the_length_is_that_of_the_texts_and_of_the_work(tmp_path: Path) -> None:
    long = dense_of(tmp_path, max_position_embeddings=200)
    assert long.dense.tokens == 128
    inputs = full_inputs(long.dense, 3)
    assert inputs["input_ids"].shape == (3, 128) and bool((inputs["attention_mask"] == 1).all())
    short, shorter = load_dense(tmp_path, 150), load_dense(tmp_path, 20)
    assert short.dense.tokens == 150 and shorter.dense.tokens == 20
    assert shorter.dense.dense_macs() < long.dense.dense_macs() < short.dense.dense_macs()
    part = {name: tensor[:, :20] for name, tensor in inputs.items()}
    with torch.no_grad():
        outputs = [one.dense.run(part, {}).outputs for one in (long, shorter)]
    for name, value in outputs[0].items():
        torch.testing.assert_close(value, outputs[1][name])


def test_of_a_network_of_ours_its_dense_form_is_taken(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network.from_config(ViTConfig(width=32, depth=2, heads=2, ffn_width=64, acm=ACMConfig(learners=2)))
    save_model(tmp_path, network, None, "digits", torch.float32)
    source = load_dense(tmp_path)
    assert isinstance(source.dense, Network) and not source.dense.adaptive
    assert source.dense.tokens == network.tokens
    with pytest.raises(ExportError, match="one size"):
        load_dense(tmp_path, 16)


@pytest.mark.parametrize("length", [1, 41])
def test_lengths_that_a_model_does_not_take(tmp_path: Path, length: int) -> None:
    with pytest.raises(AdaptrtError, match=r"expected 2 to 40"):
        dense_of(tmp_path, length=length)


def test_no_such_family_or_model(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="expected a folder"):
        load_dense(tmp_path / "missing")
    source = dense_of(tmp_path / "model", "BertForTokenClassification")
    inputs = full_inputs(source.dense, 2)
    with pytest.raises(ExportError, match="every token needs an answer"):
        make_candidates(source, inputs, tmp_path / "work", families=("tokens",))
    with pytest.raises(ExportError, match="expected some of acm, exits, tokens, routes"):
        make_candidates(source, inputs, tmp_path / "work", families=("merging",))
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("wanted", [0.2, 0.35, 0.4, 0.5, 0.75, 0.9, 1.0, 1.5])
def test_thresholds_take_the_wanted_work(wanted: float) -> None:
    generator = np.random.default_rng(3)
    costs = np.repeat([[0.3], [0.6], [1.0]], 16, 1)
    confidence = generator.random((3, 16)).astype(np.float32)
    thresholds = thresholds_at(confidence, costs, wanted)
    exits = exits_taken(confidence, thresholds)
    cost = costs[exits, np.arange(16)].mean()
    assert cost == pytest.approx(min(max(wanted, 0.3), 1.0), abs=0.02)
    if 0.45 < wanted < 0.8:
        assert set(exits) == {0, 1, 2}


@pytest.mark.parametrize("wanted", [0.1, 0.31, 0.5, 0.77, 1.2])
def test_prices_are_found_on_curves_with_steps(wanted: float) -> None:
    asked: list[float] = []

    def work_at(price: float) -> float:
        asked.append(price)
        return 0.3 + 0.7 * float(np.floor(64 * (1 - price) ** 3) / 64)

    curve = PriceCurve(work_at, 1.0)
    price = curve.price_at(wanted)
    assert work_at(price) == pytest.approx(min(max(wanted, 0.3), 1.0), abs=0.02)
    assert len(asked) <= 12
    before = len(asked)
    assert curve.price_at(wanted) == price and len(asked) <= before + 8
