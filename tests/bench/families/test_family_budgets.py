"""Networks whose caller chooses how many tokens they keep: their settings, and what they give at a budget."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.bench.families.budgets import accuracy_at
from adaptrt.bench.families.networks import FamilyNetwork, keep_settings
from adaptrt.bench.families.points import NetworkPoint
from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.network import Network
from adaptrt.models.training.recipe import Recipe

SMALL = ViTConfig(
    image_size=4, patch_size=2, width=16, depth=2, heads=2, ffn_width=32, classes=3, class_token=True
)  # fmt: skip
BASE = Recipe(data="fashion", vit=SMALL, acm=None)
FIXED = dataclasses.replace(BASE, pruning=PruningConfig(blocks=(0, 1), rule="fixed"))


def test_between_two_counts_of_tokens_accuracy_is_on_the_line(tmp_path: Path) -> None:
    fixed = FamilyNetwork("fixed", FIXED, tmp_path)
    points = [NetworkPoint({}, share, right) for share, right in ((0.8, 0.85), (0.4, 0.7), (0.6, 0.9))]
    found = [accuracy_at(fixed, points, fraction, 1000) for fraction in (0.39, 0.4, 0.5, 0.6, 0.7, 1.5)]
    assert found == [None, pytest.approx(0.7), pytest.approx(0.8), 0.9, 0.9, 0.9]


@given(
    st.sampled_from(["fixed", "merge"]), st.integers(1, 6), st.integers(5, 60), st.integers(2, 9),
    st.floats(0.05, 0.9), st.booleans(),
)  # fmt: skip
def test_settings_of_static_networks(
    rule: str, selections: int, tokens: int, count: int, low: float, class_token: bool
) -> None:
    recipe = dataclasses.replace(
        BASE,
        vit=dataclasses.replace(SMALL, class_token=class_token),
        pruning=PruningConfig(blocks=tuple(range(selections)), rule=rule),
        keep_range=(low, 1.0),
    )
    settings = keep_settings(FamilyNetwork("x", recipe, Path("x")), tokens, count)
    assert len(settings) == count and settings[-1] == {}  # everything stays
    left = []
    for setting in settings[:-1]:
        numbers = setting["keep"]
        assert isinstance(numbers, list) and len(numbers) == selections
        there = tokens
        for number in numbers:
            assert float(number).is_integer()
            assert 1 + class_token <= number <= there
            if rule == "merge":
                assert number >= there - (there - class_token) // 2  # more than half cannot be merged at once
            there = int(number)
        left.append(there)
    assert left == sorted(left)


@pytest.mark.parametrize("rule", ["fixed", "merge"])
def test_networks_keep_as_many_tokens_as_they_are_told(rule: str) -> None:
    config = dataclasses.replace(SMALL, image_size=8, pruning=PruningConfig(blocks=(0, 1), rule=rule))
    recipe = dataclasses.replace(BASE, vit=SMALL, pruning=config.pruning, keep_range=(0.6, 1.0))
    network, pixels = Network.from_config(config).eval(), torch.rand(3, 1, 8, 8)
    settings = keep_settings(FamilyNetwork("x", recipe, Path("x")), config.tokens, 5)
    for setting in settings[:-1]:
        wanted = setting["keep"]
        assert isinstance(wanted, list)
        out = network.run({"pixels": pixels}, {"keep": torch.tensor(wanted, dtype=torch.int32)})
        assert [selection.count.tolist() for selection in out.selections] == [[int(number)] * 3 for number in wanted]
