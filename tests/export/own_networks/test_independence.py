"""Samples are computed each by itself: proved for every set of inputs alone, so that none hides behind another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adaptrt.export.errors import ExportError
from adaptrt.export.own.declaration import read_declaration
from adaptrt.export.own.independence import input_sets
from adaptrt.export.own.user_module import derived_model
from adaptrt.models import Adaptive, Knob, Leave, take
from tests.export.own_networks.networks import Matcher

Named = dict[str, Tensor]


class TwoSets(Adaptive):
    """Pools two sets of rows; of the first it takes those with a positive score, most scores being exactly 0."""

    axes = {"a": ("batch", "m", 4), "b": ("batch", "n", 4), "a_real": ("batch", "m"), "b_real": ("batch", "n")}
    padding = {"m": "a_real", "n": "b_real"}
    stages = 2
    knobs = (Knob("skip", full=0.0, least=0.5),)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(16, 3)

    def example(self, batch: int) -> Named:
        a_real = torch.arange(12)[None] < torch.randint(6, 13, (batch, 1))
        b_real = torch.ones(batch, 9, dtype=torch.bool)
        return {"a": torch.rand(batch, 12, 4), "b": torch.rand(batch, 9, 4), "a_real": a_real, "b_real": b_real}

    def stage(self, number: int, state: Named, knobs: Named) -> Named:
        if number:
            return state
        score = knobs["skip"] + torch.relu(state["a"][:, :, 0] - 0.6)
        first = torch.arange(score.shape[1])[None] < 1
        kept = take(self.first(state["a"]), score, above=knobs["skip"], always=first, valid=state["a_real"])
        a = pooled(kept.rows, kept.valid)
        return {"a": self.mix(a, state["a_real"]), "b": self.mix_second(self.second(state["b"]), state["b_real"])}

    def mix(self, a: Tensor, real: Tensor) -> Tensor:
        return a

    def mix_second(self, b: Tensor, real: Tensor) -> Tensor:
        return pooled(b, real)

    def leave(self, number: int, state: Named) -> Leave:
        logits = self.head(torch.cat([state["a"], state["b"]], 1))
        return Leave({"logits": logits}, logits.amax(1))


def pooled(rows: Tensor, real: Tensor) -> Tensor:
    weight = real.to(torch.float32)[:, :, None]
    return (rows * weight).sum(1) / weight.sum(1).clamp(min=1.0)


def changed(**members: Any) -> Adaptive:
    return type("Mine", (TwoSets,), members)()  # type: ignore[no-any-return]


def test_sets_are_the_inputs_of_one_axis() -> None:
    first, second = ("points0", "desc0", "valid0"), ("points1", "desc1", "valid1")
    assert input_sets(read_declaration(Matcher())) == {"m": frozenset(first), "n": frozenset(second)}
    fixed = changed(
        axes={"left": ("batch", 3), "right": ("batch", 3), "pairs": ("batch", "m", "n")},
        padding={},
        example=lambda _, batch: {
            "left": torch.rand(batch, 3),
            "right": torch.rand(batch, 3),
            "pairs": torch.rand(batch, 5, 6),
        },
    )
    alone = {name: frozenset({name}) for name in ("left", "right")}
    assert input_sets(read_declaration(fixed)) == alone | dict.fromkeys("mn", frozenset({"pairs"}))


def test_ties_that_fall_the_same_are_no_matter() -> None:
    assert derived_model(TwoSets(), "mine").model.stage_names == ["stage_0", "final"]


def centred(_: Adaptive, rows: Tensor, real: Tensor) -> Tensor:
    """Each sample less the mean of its batch, as in a normalisation that was left in training mode."""
    return pooled(rows - rows.mean(0, keepdim=True), real)


def scaled_by_the_longest(_: Adaptive, rows: Tensor, real: Tensor) -> Tensor:
    """Depends on the others by their real sizes alone, which the example never varies."""
    return pooled(rows, real) * real.sum(1).amax() / 9


@pytest.mark.parametrize("mixing", [centred, scaled_by_the_longest])
def test_mixing_in_the_second_set_does_not_hide_behind_the_first(mixing: Any) -> None:
    says = (
        r"^got (logits|sure) of Mine after stage 0 in which sample \d changed by \de[-+]\d\d beside others that differ "
        r"in b, b_real alone, expected none to depend on its batch; .*, mask padding"
    )
    with pytest.raises(ExportError, match=says) as refusal:
        derived_model(changed(mix_second=mixing), "mine")
    assert "\n" not in str(refusal.value)


def test_mixing_in_the_first_set_is_told_of_that() -> None:
    mixing = {"mix": lambda _, a, real: a * real.sum(1).amax() / 12}
    with pytest.raises(ExportError, match=r"beside others that differ in a, a_real alone, expected none"):
        derived_model(changed(**mixing), "mine")


def test_a_small_part_of_large_outputs_is_seen_in_the_state() -> None:
    def leave(self: TwoSets, number: int, state: Named) -> Leave:
        given = TwoSets.leave(self, number, {**state, "b": state["b"] * 1e-3})
        return Leave({"logits": given.outputs["logits"] * 1e3 + 1e5}, given.sure)

    with pytest.raises(ExportError, match=r"^got the state 'b' of Mine after stage 0 .* differ in b, b_real alone"):
        derived_model(changed(leave=leave, mix_second=centred), "mine")


def test_where_every_sample_falls_otherwise_at_a_tie_nothing_is_proved() -> None:
    def stage(self: TwoSets, number: int, state: Named, knobs: Named) -> Named:
        if number:
            return state
        a = state["a"]
        score = knobs["skip"] + 1e-6 * (a[:, :, 0] - a[:, :, 0].mean(0, keepdim=True) - 1e-3)
        kept = take(a, score, above=knobs["skip"], valid=state["a_real"])
        return {"a": pooled(self.first(kept.rows), kept.valid), "b": pooled(self.second(state["b"]), state["b_real"])}

    says = (
        r"^got takes of Mine that fall otherwise beside others that differ in a, a_real alone in every sample, each at"
    )
    with pytest.raises(ExportError, match=says):
        derived_model(changed(stage=stage), "mine")
