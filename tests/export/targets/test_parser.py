"""NVIDIA's parser asks for our plugins by the right name, namespace, version and attributes, else takes the body."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from adaptrt.export.targets.prepare import prepare
from adaptrt.export.targets.source import read_stages
from adaptrt.runtime.bundle.bundle_file import read_bundle

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
Bundles = Callable[[str], Path]
SCRIPT = Path(__file__).with_name("parser_requests.py")


@pytest.fixture
def asked(written: Bundles, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Prepare the first stage of a bundle, let the parser read it with creators registered, give what happened."""

    def run(plugins: str, version: str, *creators: str, precision: str = "fp32") -> list[dict[str, Any]]:
        folder = written("combined")
        bundle = read_bundle(folder)
        knobs = {knob.name for knob in bundle.knobs}
        prepared = prepare(read_stages(folder, bundle), "tensorrt", precision, plugins, version, knobs)[0]
        graph, record = tmp_path / "stage.onnx", tmp_path / "record.jsonl"
        onnx.save(prepared.model, str(graph))
        record.unlink(missing_ok=True)
        command = [sys.executable, str(SCRIPT), str(graph), str(record), *creators]
        subprocess.run(command, capture_output=True, timeout=120, check=False)  # it may end in the middle
        return [json.loads(line) for line in record.read_text().splitlines()]

    return run


def test_it_asks_for_the_mlp_though_its_body_is_there(asked: Callable[..., list[dict[str, Any]]]) -> None:
    first, *_ = asked("library", "10.13", "ConditionalMLP@adaptrt@1")
    assert first["asked"] == "ConditionalMLP@adaptrt@1" and first["fields"] == {}


def test_it_hands_on_attributes(asked: Callable[..., list[dict[str, Any]]]) -> None:
    first, *_ = asked("library", "10.13", "SelectTokens@adaptrt@1", precision="fp16")
    assert first["asked"] == "SelectTokens@adaptrt@1" and first["fields"] == {"limits": "any"}
    first, *_ = asked("library", "", "SelectTokens@adaptrt@1")  # no bodies there
    assert first["asked"] == "SelectTokens@adaptrt@1" and first["fields"] == {"limits": "any"}
    first, *_ = asked("python", "", "ConditionalMLPOrder@adaptrt@1")
    assert first["asked"] == "ConditionalMLPOrder@adaptrt@1" and first["fields"] == {"learners": [2]}


def test_without_a_plugin_it_takes_the_body(asked: Callable[..., list[dict[str, Any]]]) -> None:
    assert asked("library", "10.13") == [{"parsed": True, "errors": []}]


@pytest.mark.parametrize("creator", ["ConditionalMLP@other@1", "ConditionalMLP@adaptrt@2", "AnotherMLP@adaptrt@1"])
def test_another_namespace_version_or_name_is_not_ours(
    asked: Callable[..., list[dict[str, Any]]], creator: str
) -> None:
    assert asked("library", "10.13", creator) == [{"parsed": True, "errors": []}]


def test_inlined_it_asks_for_nothing(asked: Callable[..., list[dict[str, Any]]]) -> None:
    creators = ("ConditionalMLP@adaptrt@1", "SelectTokens@adaptrt@1")
    assert asked("none", "", *creators) == [{"parsed": True, "errors": []}]


@pytest.mark.parametrize("plugins", ["library", "python"])
def test_without_body_and_plugin_it_says_so(asked: Callable[..., list[dict[str, Any]]], plugins: str) -> None:
    (last,) = asked(plugins, "")
    assert last["parsed"] is False and "Plugin not found" in last["errors"][0]
