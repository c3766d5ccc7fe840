"""All commands on a convolutional network of transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.models.adapters.pretrained.tiny_models import saved

pytestmark = pytest.mark.slow("adapts, exports and estimates")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    saved(folder, "resnet_basic")
    settings = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 24}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(40):
        pixels = (draw.integers(0, 255, 3) + draw.normal(0, 5 + number, (30, 26, 3))).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")
    return folder


def test_from_a_checkpoint_to_an_answer(cli, checkpoint, pictures, tmp_path):
    model, bundle = tmp_path / "model", tmp_path / "bundle"
    work = ["--output", model, "--work", tmp_path / "work"]
    options = ["--data", pictures, "--steps", 4, "--batch", 8, "--precision", "float32", *work]
    result = cli("adapt", checkpoint, *options, "--families", "exits", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["families"] == ["exits"]
    result = cli("export", model, "--output", bundle, "--points", 4, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["parity"]["passed"]
    result = cli("inspect", bundle, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert len(content["stages"]) >= 2 and content["exit_criterion"] == "max_softmax"
    assert content["inputs"][0]["preprocessing"]["size"] == [27]  # 24 of 224/256
    result = cli("run", bundle, pictures / "00.png", "--budget", "90%", "--json")
    assert result.exit_code == 0, result.output
    assert cli("verify", bundle).exit_code == 0


def test_estimate(cli, checkpoint):
    result = cli("estimate", checkpoint, "--batch", 2, "--seconds", 1, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["tokens"] is None and {tuple(row["families"]) for row in report["rows"]} == {("exits",)}
    assert report["dense_macs"] > 0 and report["rows"][0]["latency_ms"]["2"]["median"] > 0


@pytest.mark.parametrize("family", ["acm", "tokens", "routes"])
def test_families_of_transformers_are_refused(cli, refused, checkpoint, pictures, tmp_path, family):
    places = ["--output", tmp_path / "out", "--work", tmp_path / "work", "--precision", "float32"]
    result = cli("adapt", checkpoint, "--data", pictures, "--families", family, *places)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2 and len(errors) == 1 and result.stderr.splitlines()[-1] == errors[0]
    assert f"cannot use the family '{family}'" in errors[0] and "no tokens and no FFNs" in errors[0]
    assert not (tmp_path / "out").exists()
    assert f"cannot use the family '{family}'" in refused("estimate", checkpoint, "--families", family)
