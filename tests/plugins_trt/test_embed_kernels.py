"""The manifest as it is embedded into the plugin library, and what is refused before anything is written."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.plugins_trt.plugin_host import CSRC
from tests.plugins_trt.standin_manifest import kernel, write_kernels

Change = Callable[[dict[str, Any]], None]


def embed(folder: Path, output: Path) -> subprocess.CompletedProcess[str]:
    # -S -I: no package of ours or of others may be needed where the library is built.
    words = [sys.executable, "-S", "-I", CSRC / "embed_kernels.py", folder]
    words += ["--source", output / "kernels.cpp", "--images", output / "kernels.bin"]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    write_kernels(
        tmp_path / "kernels", [kernel("ConditionalMLPUp", 87, "float16"), kernel("SelectTokens", 90, "float32")]
    )
    return tmp_path / "kernels"


def change(folder: Path, edit: Change) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def refusal(kernels: Path, tmp_path: Path) -> str:
    done = embed(kernels, tmp_path / "output")
    assert done.returncode == 2
    assert not (tmp_path / "output").exists()
    [line] = done.stderr.splitlines()
    return line


def test_images_are_embedded_as_they_are(kernels: Path, tmp_path: Path) -> None:
    done = embed(kernels, tmp_path / "output")
    assert done.returncode == 0, done.stderr
    assert "embedded 2 kernels of ConditionalMLPUp, SelectTokens for sm_87, sm_90" in done.stdout
    source = (tmp_path / "output" / "kernels.cpp").read_text()
    images = (tmp_path / "output" / "kernels.bin").read_bytes()
    manifest = json.loads((kernels / "manifest.json").read_text())
    for record in manifest["kernels"]:
        for kind in ("ptx", "cubin"):
            content = (kernels / record[kind]["file"]).read_bytes()
            offset = images.index(content)
            assert offset % 64 == 0 and images[offset + len(content)] == 0
            assert f"{{{offset}, {len(content)}}}" in source
    # sm_87 may be compiled for later architectures, sm_90a may not.
    assert source.count(", true},") == 1 and source.count(", false},") == 1


def test_embedding_again_changes_nothing(kernels: Path, tmp_path: Path) -> None:
    embed(kernels, tmp_path)
    first = [(tmp_path / name).read_bytes() for name in ("kernels.cpp", "kernels.bin")]
    embed(kernels, tmp_path)
    assert first == [(tmp_path / name).read_bytes() for name in ("kernels.cpp", "kernels.bin")]


def test_kernels_that_no_plugin_asks_for_are_left_out(tmp_path: Path) -> None:
    quantised = kernel("ConditionalMLPUp", 87, "float16", weights="int8")
    # int8 weights without their scales.
    quantised["arguments"] = [one for one in quantised["arguments"] if one["name"] != "w1_scale"]
    unknown = kernel("SelectTokens", 87, "float16") | {"op": "SegmentReduce"}
    write_kernels(tmp_path / "kernels", [quantised, unknown, kernel("SelectTokens", 87, "float16")])
    done = embed(tmp_path / "kernels", tmp_path)
    assert "embedded 1 kernels of SelectTokens" in done.stdout
    write_kernels(tmp_path / "kernels", [quantised, unknown])
    assert "has kernels of none of ConditionalMLPOrder" in refusal(tmp_path / "kernels", tmp_path / "nothing")


def test_int8_variants_are_embedded(tmp_path: Path) -> None:
    kinds = [("", ""), ("int8", ""), ("int8", "int8")]
    write_kernels(
        tmp_path / "kernels", [kernel("ConditionalMLPDown", 87, "float16", "any", 0, *kind) for kind in kinds]
    )
    assert "embedded 3 kernels of ConditionalMLPDown" in embed(tmp_path / "kernels", tmp_path).stdout
    source = (tmp_path / "kernels.cpp").read_text()
    assert '{"w2", ArgumentKind::kInput, ElementType::kInt8}' in source
    assert '{"hidden", ArgumentKind::kInput, ElementType::kInt8}' in source
    assert 'OpContract{"ConditionalMLPDownW8A8", 1, {TensorRule{"hidden", TypeRule::kInt8,' in source


@pytest.mark.parametrize("name", ["w2", "w2_scale", "hidden_scale"])
def test_int8_variants_whose_tensors_are_of_other_types_are_left_out(tmp_path: Path, name: str) -> None:
    odd = kernel("ConditionalMLPDown", 87, "float16", "any", 0, "int8", "int8")
    for argument in odd["arguments"]:
        if argument["name"] == name:
            argument["dtype"] = "int32"
    write_kernels(tmp_path / "kernels", [odd, kernel("SelectTokens", 87, "float16")])
    assert "embedded 1 kernels of SelectTokens" in embed(tmp_path / "kernels", tmp_path).stdout


def first(name: str, value: object) -> Change:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["kernels"][0][name] = value

    return edit


def top(name: str, value: object) -> Change:
    def edit(manifest: dict[str, Any]) -> None:
        manifest[name] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (top("format_version", 2), "has format_version 2, expected 1; make kernels again"),
        (top("format_version", None), "has format_version None"),
        (top("source_sha256", "x"), "has no source_sha256 of 64 hex digits"),
        (top("kernels", []), "names no kernel"),
        (top("kernels", [3]), "kernel 0 is int, expected an object"),
        (first("version", 2), "ConditionalMLPUp has version 2, the plugin knows up to 1"),
        (first("entry", 'x"); system("'), "entry is 'x\"); system(\"', expected letters"),
        (first("op", None), "op is None"),
        (first("variant", "a b"), "variant is 'a b'"),
        (first("arch", "87"), "arch is '87', expected a whole number from 50 to 999"),
        (first("threads", 0), "threads is 0, expected a whole number from 1 to 1024"),
        (first("shared_bytes", True), "shared_bytes is True"),
        (first("arguments", []), "expected a list of 1 to 24 arguments"),
        (
            first("arguments", [{"name": "x", "kind": "scale"}]),
            "x has kind 'scale', expected one of input, size, output",
        ),
        (first("arguments", [{"name": "x", "kind": "input", "dtype": "fp8"}]), "x has dtype 'fp8', expected one of"),
        (first("grid", [[], []]), "grid is not three lists of factors"),
        (first("grid", [[{"size": "Q", "per": 1}], [], []]), "names none of the sizes D, N, T, h"),
        (first("grid", [[{"size": "T", "per": 0}], [], []]), "grid factor per of T is 0"),
        (first("requires", {"Q": 16}), "requires is {'Q': 16}, expected numbers for D, N, T, h"),
        (first("at_least", {"T": -1}), "at_least T is -1"),
        (first("ptx", {"file": "../manifest.json", "sha256": ""}), "ptx file ../manifest.json lies outside"),
        (first("cubin", {}), "names no cubin file"),
        (first("grid", [[{"size": [], "per": 1}], [], []]), "is not of the form expected"),
        (first("ptx", {"file": "a\0b", "sha256": ""}), "is not of the form expected"),
        (first("arch", 88), "has target sm_87, expected sm_88"),
    ],
)
def test_bad_manifest(kernels: Path, tmp_path: Path, edit: Change, message: str) -> None:
    change(kernels, edit)
    assert message in refusal(kernels, tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff"])
def test_no_manifest(kernels: Path, tmp_path: Path, text: str) -> None:
    (kernels / "manifest.json").write_text(text, encoding="latin-1")
    assert refusal(kernels, tmp_path).startswith("embed_kernels: ")


def test_changed_file(kernels: Path, tmp_path: Path) -> None:
    path = next(kernels.glob("sm_87/*.cubin"))
    path.write_bytes(path.read_bytes() + b"\0")
    assert f"{path} has SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}" in refusal(kernels, tmp_path)
    path.unlink()
    assert f"got no {path} (No such file or directory)" in refusal(kernels, tmp_path)


@pytest.mark.parametrize(("kind", "content"), [("cubin", b"no ELF"), ("ptx", b".target sm_87\n\0"), ("ptx", b"text")])
def test_file_of_another_kind(kernels: Path, tmp_path: Path, kind: str, content: bytes) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        record = manifest["kernels"][0][kind]
        (kernels / record["file"]).write_bytes(content)
        record["sha256"] = hashlib.sha256(content).hexdigest()

    change(kernels, edit)
    message = refusal(kernels, tmp_path)
    assert "is no cubin" in message or "is no PTX" in message or "has target none" in message
