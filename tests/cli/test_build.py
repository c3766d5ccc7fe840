"""``adaptrt build`` at the command line: tables, JSON, what it says where an engine is missing, and its errors."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from adaptrt.export.errors import ExportError
from adaptrt.export.staging import check_replaceable
from adaptrt.runtime.bundle.engine_files import ENGINES, read_engines

Cli = Callable[..., Result]
Refused = Callable[..., str]


@pytest.fixture
def bundle(exported: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported[0], tmp_path / "tiny"))


def test_without_tensorrt_the_graphs_and_the_commands(cli: Cli, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptrt.export.targets.nvidia_builder.find_engine_api", lambda _: None)
    result = cli("build", bundle, "--target", "tensorrt", "--precision", "fp16", "--batch", "1:8:32", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    folder = bundle / ENGINES / "tensorrt-fp16"
    (command,) = said["commands"]
    for part in (
        f"trtexec --onnx={folder}/stage0.onnx --saveEngine={folder}/stage0.engine --stronglyTyped --noTF32 ",
        "--minShapes=pixels:1x1x8x8 --optShapes=pixels:8x1x8x8 --maxShapes=pixels:32x1x8x8",
    ):
        assert part in command
    assert "dynamicPlugins" not in command
    assert any("TensorRT is not installed" in note for note in said["notes"])
    engines = read_engines(folder)
    assert engines.stages[0].engine is None and said["engines"]["flip_rate"] == engines.flip_rate
    assert said["engines"]["stages"][0]["prepared"]["sha256"] == engines.stages[0].prepared.sha256
    script = (folder / "trtexec.sh").read_text()
    assert 'cd "$(dirname "$0")"' in script and "--onnx=stage0.onnx --saveEngine=stage0.engine" in script
    again = cli("build", bundle, "--target", "tensorrt", "--precision", "fp16", "--batch", "1:8:32")
    assert again.exit_code == 0 and "was there already" in again.stdout and "trtexec --onnx=" in again.stdout


def test_a_plugin_library_is_named_in_the_command(
    cli: Cli, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaptrt.export.targets.nvidia_builder.find_engine_api", lambda _: None)
    library = tmp_path / "libadaptrt_trt.so"
    library.write_bytes(b"")
    options = ("--plugins", "library", "--plugin-library", library, "--engine-version", "10.3", "--json")
    result = cli("build", bundle, "--target", "tensorrt", *options)
    assert result.exit_code == 0, result.output
    assert f"--dynamicPlugins={library}" in json.loads(result.stdout)["commands"][0]


def test_openvino(cli: Cli, bundle: Path) -> None:
    result = cli("build", bundle, "--target", "openvino", "--no-verify")
    assert result.exit_code == 0, result.output
    assert "openvino, fp32" in result.stdout and "stage0.onnx" in result.stdout
    assert "golden predictions: 100.0% as in torch" in result.stdout


def test_tensorrt_rtx(cli: Cli, bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    arguments = ("build", bundle, "--target", "tensorrt-rtx", "--arch", 120, "--arch", 86, "--precision", "fp16")
    result = cli(*arguments, "--max-quality-drop", 0.1)
    assert result.exit_code == 0, result.output
    assert "sm_86 sm_120" in result.stdout and "stage0.engine" in result.stdout
    assert "building stage 1 of 1" in result.stderr
    shown = json.loads(cli(*arguments, "--max-quality-drop", 0.1, "--json").stdout)
    assert shown["reused"] is True and shown["engines"]["arch"] == "86 120"


def test_errors(refused: Refused, bundle: Path, tmp_path: Path) -> None:
    assert "got target 'tensort', expected one of openvino, tensorrt, tensorrt-rtx" in refused(
        "build", bundle, "--target", "tensort"
    )
    assert "no folder" in refused("build", tmp_path / "nowhere", "--target", "openvino")
    assert "only tensorrt takes plugins" in refused("build", bundle, "--target", "openvino", "--plugins", "python")
    assert "expected both or neither" in refused("build", bundle, "--target", "tensorrt", "--plugins", "library")
    library = ("--plugins", "library", "--plugin-library", tmp_path / "no.so")
    assert "no file" in refused("build", bundle, "--target", "tensorrt", *library)
    assert "got an architecture for openvino" in refused("build", bundle, "--target", "openvino", "--arch", 87)
    assert "expected MIN:OPT:MAX" in refused("build", bundle, "--target", "openvino", "--batch", "some")
    assert "expected ascending numbers" in refused("build", bundle, "--target", "openvino", "--batch", "4:2:8")
    for arguments in (("tensorrt", "--arch", 87), ("tensorrt-rtx", "--arch", 89, "--arch", 86)):
        if arguments[0] == "tensorrt-rtx" and find_spec("tensorrt_rtx_bindings") is None:
            continue  # another line then says that it is missing
        line = refused("build", bundle, "--precision", "fp8", "--target", *arguments)
        assert f"got architecture {arguments[-1]} for fp8, expected 89 or later" in line
    pairs = ("build", bundle, "--target", "tensorrt", "--precision")
    line = refused(*pairs, "fp8", "--arch", 89, "--plugins", "python")
    assert "got plugins 'python' for tensorrt in fp8, expected fp32, fp16 or int8 with plugins" in line
    line = refused(*pairs, "int8", "--plugins", "python", "--activations", "token")
    assert "got activations 'token' for tensorrt in int8, expected static" in line
    assert not (bundle / ENGINES).exists()


def test_an_engine_library_that_is_missing_is_named(
    refused: Refused, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaptrt.export.targets.nvidia_builder.find_engine_api", lambda _: None)
    line = refused("build", bundle, "--target", "tensorrt-rtx")
    assert "tensorrt_rtx_bindings is not installed" in line and "pip install 'adaptrt[tensorrt-rtx]'" in line
    assert not (bundle / ENGINES).exists()


def test_an_export_may_replace_a_bundle_with_its_engines(cli: Cli, bundle: Path) -> None:
    assert cli("build", bundle, "--target", "openvino", "--no-verify").exit_code == 0
    check_replaceable(bundle)
    (bundle / "dear.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"holds 'dear\.txt'"):
        check_replaceable(bundle)


def test_help_shows_examples(cli: Cli) -> None:
    shown = cli("build", "--help")
    assert shown.exit_code == 0
    assert "adaptrt build build/digits --target tensorrt-rtx --arch 89 --precision fp8" in shown.stdout
    assert "max-quality-drop" in shown.stdout and "0.01" in shown.stdout
