"""``adaptrt build`` for other servers: what it says, what it refuses, and that nothing is half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Cli = Callable[..., Result]
Refused = Callable[..., str]

TINY = Path(__file__).parent.parent / "runtime" / "fixtures" / "tiny"


def test_a_model_lies_beside_the_bundle(cli: Cli, tmp_path: Path) -> None:
    bundle = shutil.copytree(TINY, tmp_path / "tiny")
    result = cli("build", bundle, "--target", "triton")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "triton" / "tiny"
    assert f"{folder} built: model tiny; tritonserver --model-repository {tmp_path / 'triton'}" in result.stdout
    assert (folder / "config.pbtxt").is_file() and (folder / "1" / "bundle" / "bundle.json").is_file()
    assert not (bundle / "engines").exists()


def test_output_and_json(cli: Cli, tmp_path: Path) -> None:
    models = tmp_path / "models"
    result = cli("build", TINY, "--target", "triton-onnxruntime", "--output", models, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["model"] == "tiny_onnxruntime" and said["folder"] == str(models / "tiny_onnxruntime")
    assert "knobs" in said["notes"][0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--target", "triton", "--arch", 89), "got --arch for triton, expected none: no engine is built"),
        (("--target", "triton", "--tokens", "1:2:3"), "got --tokens for triton, expected none"),
        (("--target", "triton", "--batch", "many"), "got sizes 'many', expected MIN:OPT:MAX"),
        (("--target", "triton", "--precision", "int8"), "no engines/onnxruntime-int8 in "),
        (("--target", "triton", "--precision", "fp8"), "got precision 'fp8' for triton, expected fp32 or int8"),
        (("--target", "openvino", "--output", "models"), "got --output for openvino, expected none"),
        (("--target", "triton-server"), "got target 'triton-server', expected one of openvino"),
    ],
)
def test_mistakes(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TINY, tmp_path / "tiny")
    assert told in refused("build", "tiny", *words)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".") and any(path.iterdir())] == [
        "tiny"
    ]


def test_a_folder_of_somebody_else_is_left_alone(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "models" / "tiny" / "mine").write_text("mine")
    assert "holds other files" in refused("build", TINY, "--target", "triton", "--output", tmp_path / "models")
    assert "no folder" in refused("build", tmp_path / "nowhere", "--target", "triton", "--output", tmp_path / "models")
    (tmp_path / "file").write_text("")
    assert "file" in refused("build", TINY, "--target", "triton", "--output", tmp_path / "file")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "mine", "models", "tiny"]
