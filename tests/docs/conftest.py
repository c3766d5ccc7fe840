"""A folder in which the pages' blocks run: small bundles where the pages have the ready models' ones."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adaptrt.export.exporter import export_bundle
from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.data.split import load_data
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.folder import LoadedModel
from adaptrt.models.network import Network
from tests.staged_bundle import write_staged

SHAPE = ViTConfig(width=32, depth=2, heads=2, ffn_width=64, acm=ACMConfig(learners=2))
PICTURES = ("image.png", "boot.png")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``build/digits`` as `make export` leaves it, of a smaller network with random weights, and the like.

    ``build/fashion`` and ``build/hard`` have exits, token selections and hard budgets; ``stage0.onnx`` stands for a
    file that `adaptrt build` prepared.
    """
    folder = tmp_path_factory.mktemp("pages")
    torch.manual_seed(0)
    dense = Network.from_config(dataclasses.replace(SHAPE, acm=None)).eval()
    source = LoadedModel("digits", Network.from_config(SHAPE).eval(), dense, "digits")
    export_bundle(source, folder / "build" / "digits", calibration=load_data("digits"), points=5)
    for name in ("fashion", "hard"):
        write_staged(folder / "build" / name)
    shutil.copy(folder / "build" / "digits" / "model.onnx", folder / "stage0.onnx")
    for name in PICTURES:
        pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder
