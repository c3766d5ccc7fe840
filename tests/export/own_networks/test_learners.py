"""Learners of adaptrt in a user's own module: counted by how many run, all of them in the dense network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adaptrt.export.errors import ExportError, ParityError
from adaptrt.export.exporter import export_bundle
from adaptrt.export.own.user_module import derived_model
from adaptrt.models import Adaptive, ConditionalGLU, ConditionalLinear, ConditionalMLP, Knob, Leave, PriceGate
from adaptrt.models.encoder_config import EncoderConfig
from adaptrt.models.families.acm import ACMConfig, AdaptiveFFN
from adaptrt.models.tokens import Tokens
from adaptrt.runtime import load

Named = dict[str, Tensor]
WIDTH, ROWS, LEARNERS = 8, 10, 4


class Gated(Adaptive):
    """A feed-forward network of learners over rows, some of them padding, and a head."""

    axes = {"x": ("batch", "n", WIDTH), "real": ("batch", "n")}
    padding = {"n": "real"}
    knobs = [Knob("dear", full=0.0, least=1.0)]

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.learners, self.gate, self.head = self.made(), PriceGate(WIDTH, LEARNERS, 6), nn.Linear(WIDTH, 3)

    def made(self) -> nn.Module:
        return ConditionalMLP(LEARNERS, WIDTH, 5, WIDTH)

    def example(self, batch: int) -> Named:
        real = torch.arange(ROWS)[None] < torch.randint(4, ROWS + 1, (batch, 1))
        return {"x": torch.randn(batch, ROWS, WIDTH), "real": real}

    def ffn(self, x: Tensor, real: Tensor, price: Tensor) -> Tensor:
        rows = x.reshape(-1, WIDTH)
        answer: Tensor = self.learners(rows, self.gate(rows, price, real).k)
        return answer.reshape(x.shape)

    def stage(self, number: int, state: Named, knobs: Named) -> Named:
        return {"x": state["x"] + self.ffn(state["x"], state["real"], knobs["dear"]), "real": state["real"]}

    def leave(self, number: int, state: Named) -> Leave:
        weight = state["real"].to(torch.float32)[:, :, None]
        return Leave({"logits": self.head((state["x"] * weight).sum(1) / weight.sum(1))})


class GatedGLU(Gated):
    def made(self) -> nn.Module:
        return ConditionalGLU(LEARNERS, WIDTH, 5, WIDTH)


class LowRank(Gated):
    def made(self) -> nn.Module:
        return ConditionalLinear(LEARNERS, WIDTH, 2, WIDTH)


class WholeACM(Gated):
    """The module that networks of ours have in their blocks, its gate inside."""

    def made(self) -> nn.Module:
        return AdaptiveFFN(ACMConfig(LEARNERS), EncoderConfig(width=WIDTH, depth=1, heads=1, ffn_width=20))

    def ffn(self, x: Tensor, real: Tensor, price: Tensor) -> Tensor:
        rows = x.reshape(-1, WIDTH)
        answer: Tensor = self.learners(rows, price, Tokens(rows, x.shape[1], real))[0]
        return answer.reshape(x.shape)


GATE = 6 * (WIDTH + LEARNERS) + LEARNERS**2
ACM_GATE = 16 * (WIDTH + LEARNERS) + LEARNERS**2


@pytest.mark.parametrize(
    ("kind", "per_run", "gate"),
    [
        (Gated, 2 * 5 * WIDTH, GATE),
        (GatedGLU, 3 * 5 * WIDTH, GATE),
        (LowRank, 2 * 2 * WIDTH, GATE),
        (WholeACM, 2 * 5 * WIDTH, ACM_GATE),
    ],
)
def test_learners_are_counted(tmp_path: Path, kind: type[Gated], per_run: int, gate: int) -> None:
    """Also where nobody but the trace says what they are: parity and the count of the graph's products are proved."""
    network = kind()
    source = derived_model(network, "learners")
    assert source.model.dense_macs() == ROWS * LEARNERS * per_run + 3 * WIDTH
    folder = export_bundle(source, tmp_path / "out", calibration=None).bundle_folder
    model = load(folder)
    inputs = {name: tensor.numpy() for name, tensor in network.example(6).items()}
    real = inputs["real"].sum(1)
    dense = real * LEARNERS * per_run + 3 * WIDTH
    for price in (0.0, 0.5, 1.0):
        result = model.run(inputs, knobs={"dear": price})
        with torch.no_grad():
            rows, valid = torch.from_numpy(inputs["x"]).reshape(-1, WIDTH), torch.from_numpy(inputs["real"])
            inner = network.learners.gate if kind is WholeACM else network.gate
            k = inner(rows, torch.tensor([price]), valid).k.reshape(6, -1).sum(1).numpy()  # type: ignore[operator]
        expected = (k * per_run + real * gate + 3 * WIDTH) / dense
        np.testing.assert_allclose(result.macs_fraction, expected, rtol=1e-5)
    assert result.macs_fraction.max() < 1  # at the last price, where none runs


def changed(**members: Any) -> Adaptive:
    return type("Mine", (Gated,), members)()  # type: ignore[no-any-return]


def with_k(change: Any) -> Any:
    def ffn(self: Gated, x: Tensor, real: Tensor, price: Tensor) -> Tensor:
        rows = x.reshape(-1, WIDTH)
        answer: Tensor = self.learners(rows, change(self.gate(rows, price, real).k))
        return answer.reshape(x.shape)

    return ffn


@pytest.mark.parametrize(
    ("ffn", "says"),
    [
        (with_k(lambda k: k.long()), r"got x \[33, 8\] and k \[33\] in int64, expected x \[tokens, width\] and k"),
        (
            with_k(lambda k: k[:, None]),
            r"got x .* and k \[33, 1\] in int32, expected .*; flatten and convert them; at \S*:\d+$",
        ),
        (
            lambda self, x, real, price: self.learners(x, self.gate(x.reshape(-1, WIDTH), price, real).k),
            r"got x \[3, 11, 8\] and k \[33\] in int32, expected x \[tokens, width\]",
        ),
    ],
)
def test_what_learners_do_not_take(ffn: Any, says: str) -> None:
    with pytest.raises(ExportError, match=rf"^Mine\.stage\(0\) {says}") as refusal:
        derived_model(changed(ffn=ffn), "mine")
    assert "\n" not in str(refusal.value)


def test_rows_that_are_not_sample_after_sample() -> None:
    def ffn(self: Gated, x: Tensor, real: Tensor, price: Tensor) -> Tensor:
        rows = x.transpose(0, 1).reshape(-1, WIDTH)
        answer: Tensor = self.learners(rows, self.gate(rows, price, real.transpose(0, 1)).k)
        return answer.reshape(x.shape[1], -1, WIDTH).transpose(0, 1)

    with pytest.raises(ExportError, match="got macs_fraction of Mine after stage 0 in which sample . changed by"):
        derived_model(changed(ffn=ffn), "mine")


def test_padding_that_runs_learners(tmp_path: Path) -> None:
    def ffn(self: Gated, x: Tensor, real: Tensor, price: Tensor) -> Tensor:
        del real
        rows = x.reshape(-1, WIDTH)
        answer: Tensor = self.learners(rows, self.gate(rows, price).k)
        return answer.reshape(x.shape)

    with pytest.raises((ExportError, ParityError), match="macs_fraction") as refusal:
        export_bundle(derived_model(changed(ffn=ffn), "mine"), tmp_path / "out", calibration=None)
    assert "\n" not in str(refusal.value) and not (tmp_path / "out").exists()
