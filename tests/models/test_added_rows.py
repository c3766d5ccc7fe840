"""A family, an adapter and a task of another's own: one row in a table each, and everything works with them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adaptrt.export.exporter import export_bundle
from adaptrt.models import load_folder, save_model
from adaptrt.models.adapters import ADAPTERS
from adaptrt.models.adapters.adapter import Adapter
from adaptrt.models.encoder_config import FAMILIES, EncoderConfig
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.family import Family
from adaptrt.models.network import Network
from adaptrt.models.staged_network import KnobSpec, NamedTensor
from adaptrt.models.tasks import CLASSIFICATION, TASKS, Task
from adaptrt.models.tokens import Tokens
from adaptrt.runtime import load

pytestmark = pytest.mark.slow("exports a network of added parts")


class Echo(nn.Module):
    """Adds a linear map of the tokens, by as much as the knob ``echo`` says."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, tokens: Tokens, prices: Any) -> tuple[Tokens, list[Any]]:
        return tokens._replace(x=tokens.x + prices.others["echo"] * self.map(tokens.x)), []

    def count(self, work: Any, tokens: Tokens) -> None:
        work.tokens(tokens, per_token=self.map.in_features**2)


@dataclass(frozen=True)
class EchoConfig(Family):
    name: ClassVar[str] = "echo"

    block: int = 0

    def check(self, shape: EncoderConfig) -> None:
        if self.block >= shape.depth:
            raise ValueError(f"got an echo after block {self.block} of {shape.depth}, expected one of them")

    def number_knobs(self, network: Network) -> list[KnobSpec]:
        del network
        return [KnobSpec("echo", "float32", (1,), 0.0, 1.0, 1.0)]

    def part(self, shape: EncoderConfig, number: int) -> nn.Module | None:
        return Echo(shape.width) if number == self.block else None


@dataclass(frozen=True)
class SeriesConfig(EncoderConfig):
    """Time series of ``steps`` values."""

    steps: int = 5


class SeriesAdapter(Adapter[SeriesConfig]):
    architecture: ClassVar[str] = "series"

    def embedding(self) -> dict[str, nn.Module | nn.Parameter | None]:
        return {"embed": nn.Linear(1, self.shape.width)}

    def embed(self, network: Any, inputs: dict[str, Tensor]) -> Tokens:
        return Tokens(network.embed(inputs["series"].reshape(-1, 1)), self.shape.steps)

    def embedding_macs(self, network: Any) -> int:
        del network
        return self.shape.steps * self.shape.width

    @property
    def tokens(self) -> int:
        return self.shape.steps

    @property
    def token_axis(self) -> int:
        return self.shape.steps

    def inputs(self) -> list[NamedTensor]:
        return [NamedTensor("series", "float32", ("batch", self.shape.steps))]

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        return {"series": torch.rand(batch, self.shape.steps)}


RANKING = dataclasses.replace(CLASSIFICATION, name="ranking", metric="best first")


@pytest.fixture
def rows() -> Iterator[None]:
    FAMILIES["echo"], ADAPTERS[SeriesConfig], TASKS["ranking"] = EchoConfig, SeriesAdapter, RANKING
    yield
    del FAMILIES["echo"], ADAPTERS[SeriesConfig], TASKS["ranking"]


SHAPE: dict[str, Any] = {"width": 8, "depth": 2, "heads": 2, "ffn_width": 16, "classes": 3}


@pytest.mark.usefixtures("rows")
def test_rows_are_all_that_it_takes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = Network.from_config(SeriesConfig(**SHAPE, task="ranking"))
    model = dense.with_families([ACMConfig(2), EchoConfig(block=1)]).eval()
    assert [knob.name for knob in model.knob_specs()] == ["price", "echo"] and model.task is RANKING
    save_model(tmp_path / "model", model, dense, None, torch.float32)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architecture"] == "series" and config["series"]["others"] == {"echo": {"block": 1}}
    source = load_folder(tmp_path / "model", "mine")
    assert source.model.families == model.families  # type: ignore[attr-defined]
    export_bundle(source, tmp_path / "bundle", calibration=None)  # proves parity and counts the work anew
    running = load(tmp_path / "bundle")
    assert running.bundle.task == "ranking"
    series = torch.rand(4, 5)
    for echo in (0.0, 0.5):
        result = running.run({"series": series.numpy()}, knobs={"price": 0.0, "echo": echo})
        with torch.no_grad():
            wanted = model.run({"series": series}, {"price": torch.zeros(1), "echo": torch.tensor([echo])})
        np.testing.assert_allclose(result.outputs["logits"], wanted.logits.numpy(), atol=1e-5)


def test_without_their_rows_they_are_refused() -> None:
    with pytest.raises(
        ValueError, match="expected one of ViTConfig, TextEncoderConfig, PretrainedConfig; add an adapter for it"
    ):
        Network.from_config(SeriesConfig(**SHAPE))
    with pytest.raises(ValueError, match="got family 'echo', expected one of acm, pruning, exits, routed_ffn, hard"):
        Network(SeriesAdapter(SeriesConfig(**SHAPE)), [EchoConfig()])
    with pytest.raises(ValueError, match="got family 'echo', expected one of acm"):
        _ = SeriesConfig(**SHAPE, others={"echo": {}}).families
    with pytest.raises(ValueError, match="got task 'ranking', expected one of classification"):
        Network(SeriesAdapter(SeriesConfig(**SHAPE)), task=RANKING)
    with pytest.raises(ValueError, match="got two families 'acm', expected each at most once"):
        Network(SeriesAdapter(SeriesConfig(**SHAPE)), [ACMConfig(2), ACMConfig(4)])


@pytest.mark.usefixtures("rows")
def test_a_family_that_does_not_fit_the_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="got an echo after block 7 of 2"):
        Network(SeriesAdapter(SeriesConfig(**SHAPE)), [EchoConfig(block=7)])


def test_a_head_is_named_by_its_task() -> None:
    assert all(isinstance(task, Task) and task.head.startswith("adaptrt.") for task in TASKS.values())
