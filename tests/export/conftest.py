"""Small models with random weights, exported once per test session."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from adaptrt.export.exporter import ExportReport, export_bundle
from adaptrt.export.graph.bodies import attach_bodies
from adaptrt.export.graph.trace import trace
from adaptrt.models import ACMConfig, LoadedModel, Network, ViTConfig
from adaptrt.models.data.split import DataSplits, Split
from tests.export.shared_traces import SharedTraces

SHAPE = ViTConfig(image_size=4, patch_size=2, width=16, depth=2, heads=2, ffn_width=32, classes=3)


def tiny_model(**acm: object) -> Network:
    """A tiny adaptive model whose gates spread their decisions."""
    torch.manual_seed(0)
    config = ACMConfig(gate_width=4, **acm)  # type: ignore[arg-type]
    model = Network.from_config(dataclasses.replace(SHAPE, acm=config)).eval()
    for name, parameter in model.named_parameters():
        if "gate." in name and name.endswith("weight"):
            torch.nn.init.normal_(parameter, std=0.7)
    return model


def tiny_data(samples: int = 96) -> DataSplits:
    generator = np.random.default_rng(0)

    def split() -> Split:
        return Split(generator.random((samples, 1, 4, 4), dtype=np.float32), generator.integers(0, 3, samples))

    return DataSplits("noise", calibration=split(), test=split())


def source(model: Network | None = None) -> LoadedModel:
    torch.manual_seed(1)
    return LoadedModel("tiny", model or tiny_model(), Network.from_config(SHAPE).eval(), "noise")


VARIANTS = {
    "price": {},
    "argmax": {"gate": "argmax"},
    "projections": {"projections": True},
    "one learner": {"learners": 1},
}


@pytest.fixture(scope="session", params=list(VARIANTS))
def model(request: pytest.FixtureRequest) -> Network:
    return tiny_model(**VARIANTS[request.param])


@pytest.fixture(scope="session")
def graph(model: Network) -> onnx.ModelProto:
    traced = trace(model, debug=True)
    attach_bodies(traced)
    return traced


@pytest.fixture(scope="session")
def traces() -> SharedTraces:
    return SharedTraces()


@pytest.fixture
def shared_traces(traces: SharedTraces, monkeypatch: pytest.MonkeyPatch) -> SharedTraces:
    """Exports in this test take graphs that were traced before, where there are any; not for tests of tracing."""
    traces.install(monkeypatch)
    return traces


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, traces: SharedTraces) -> ExportReport:
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        traces.install(patch)
        return export_bundle(source(), folder, calibration=tiny_data(), points=9)


@pytest.fixture
def bundle(exported: ExportReport, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    import shutil

    return Path(shutil.copytree(exported.bundle_folder, tmp_path / "tiny"))
