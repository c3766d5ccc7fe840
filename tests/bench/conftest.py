"""Tiny graphs to time: a product, a function of one number, and an exported bundle."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch

from adaptrt.bench.timing.session_process import SessionProcess
from adaptrt.export.exporter import export_bundle
from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.folder import LoadedModel
from adaptrt.models.network import Network
from tests.staged_bundle import write_staged

DOUBLING = """
<ir_version: 10, opset_import: ["" : 20]>
doubling (float[rows, 3] x) => (float[rows, 3] y) { y = Add (x, x) }
"""
CONFIG = ViTConfig(width=32, depth=2, heads=2, ffn_width=64, acm=ACMConfig(learners=2))


@pytest.fixture(scope="session")
def doubling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph ``y = 2 x`` over float32 ``[rows, 3]``."""
    file = tmp_path_factory.mktemp("graphs") / "doubling.onnx"
    onnx.save(onnx.parser.parse_model(DOUBLING), str(file))
    return file


@pytest.fixture
def process(doubling: Path) -> Iterator[SessionProcess]:
    """The doubling graph in a process, with the array ``ones`` loaded."""
    with SessionProcess(doubling) as running:
        running.load({"ones": np.ones((2, 3), np.float32)})
        yield running


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated bundle of a tiny Network with random weights; tests that change it copy it first."""
    torch.manual_seed(0)
    model, dense = (
        Network.from_config(CONFIG).eval(),
        Network.from_config(ViTConfig(width=32, depth=2, heads=2, ffn_width=64)).eval(),
    )
    generator = np.random.default_rng(0)
    splits = [
        Split(generator.random((count, 1, 8, 8), dtype=np.float32), generator.integers(0, 10, count))
        for count in (8, 64, 40)
    ]
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    export_bundle(LoadedModel("tiny", model, dense, None), folder, calibration=DataSplits("noise", *splits), points=5)
    return folder


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported bundle."""
    return Path(shutil.copytree(exported, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two stages, gates and token selections; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("bundles") / "staged"
    write_staged(folder)
    return folder
