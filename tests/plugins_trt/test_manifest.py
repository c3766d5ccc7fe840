"""Reading a manifest: what it says is found, what is wrong with it is refused on one line."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adaptrt.plugins_trt.errors import KernelError
from adaptrt.plugins_trt.manifest import read_manifest


def image(folder: Path, name: str) -> dict[str, str]:
    content = name.encode()
    (folder / name).write_bytes(content)
    return {"file": name, "sha256": hashlib.sha256(content).hexdigest()}


def kernel(folder: Path, variant: str, **changes: Any) -> dict[str, Any]:
    return {
        "op": "ConditionalMLPUp",
        "version": 1,
        "variant": variant,
        "arch": 87,
        "dtype": "float16",
        "weights": "float16",
        "entry": "conditional_mlp_up",
        "ptx": image(folder, f"{variant}.ptx"),
        "cubin": image(folder, f"{variant}.cubin"),
        "threads": 128,
        "shared_bytes": 1024,
        "registers": 64,
        "spill_bytes": 0,
        "requires": {},
        "at_least": {},
        "arguments": [
            {"name": "x", "kind": "input", "dtype": "float16"},
            *({"name": name, "kind": "size"} for name in ("T", "N", "D", "h")),
            {"name": "hidden", "kind": "output", "dtype": "float16"},
        ],
        "grid": [[{"size": "T", "per": 64}, {"size": "N", "per": 1}], [{"size": "h", "per": 128}], []],
        **changes,
    }


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    aligned = {"D": 16, "h": 16}
    return {
        "format_version": 1,
        "triton": "3.9.0",
        "source_sha256": "0" * 64,
        "kernels": [
            kernel(tmp_path, "large", requires=aligned, at_least={"T": 100}),
            kernel(tmp_path, "aligned", requires=aligned),
            kernel(tmp_path, "any"),
            kernel(tmp_path, "int8", weights="int8"),
            kernel(tmp_path, "order", op="ConditionalMLPOrder", dtype="int32", weights="int32"),
        ],
    }


def write(folder: Path, content: Any) -> Path:
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("sizes", "variant"),
    [
        ({"T": 100, "D": 32, "h": 16}, "large"),
        ({"T": 99, "D": 32, "h": 16}, "aligned"),
        ({"D": 32, "h": 16}, "aligned"),
        ({"T": 100, "D": 33, "h": 16}, "any"),
        ({}, "any"),
    ],
)
def test_the_first_kernel_that_suits_is_taken(
    tmp_path: Path, content: dict[str, Any], sizes: dict[str, int], variant: str
) -> None:
    manifest = read_manifest(write(tmp_path, content))
    assert manifest.find("ConditionalMLPUp", 87, "float16", sizes).variant == variant
    assert manifest.find("ConditionalMLPUp", 87, "float16", sizes, "int8").variant == "int8"
    assert manifest.find("ConditionalMLPOrder", 87, "bfloat16", sizes).variant == "order"
    assert manifest.read(manifest.kernels[0].ptx) == b"large.ptx"


def test_the_grid_is_a_product_of_rounded_up_quotients(tmp_path: Path, content: dict[str, Any]) -> None:
    one = read_manifest(write(tmp_path, content)).kernels[2]
    assert one.extents({"T": 65, "N": 4, "h": 129}) == (8, 2, 1)
    assert one.extents({"T": 0, "N": 4, "h": 129}) == (0, 2, 1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("ConditionalMLPUp", 90, "float16"), 'no kernel of ConditionalMLPUp for 90, only .*; make kernels ARCH="90"'),
        (("SelectTokens", 87, "float16"), "no kernel of SelectTokens for 87"),
        (("ConditionalMLPUp", 87, "float32"), "for float32 with float32 weights, only float16 with float16 weights"),
    ],
)
def test_what_there_is_no_kernel_for_is_said(
    tmp_path: Path, content: dict[str, Any], asked: tuple[str, int, str], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        read_manifest(write(tmp_path, content)).find(*asked, {})


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(content: Any) -> None:
        *steps, last = path.split(".")
        for step in steps:
            content = content[int(step) if step.isdigit() else step]
        if value is ...:
            del content[last]
        else:
            content[last] = value

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("format_version", 2), "format_version 2, expected 1; a newer adaptrt reads it"),
        (change("format_version", "1"), "format_version '1', expected 1"),
        (change("format_version", True), "format_version True, expected 1"),
        (change("kernels", ...), "lacks 'kernels'"),
        (change("kernels.0.threads", ...), "lacks 'threads'"),
        (change("kernels.0.threads", "many"), "got many where a whole number from 1 belongs"),
        (change("kernels.0.arch", 2**31), "where a whole number"),
        (change("kernels.0.op", 3), "got int where text belongs"),
        (change("kernels.0.ptx.sha256", "0" * 64), "has SHA-256 .*, expected 0000"),
        (change("kernels.0.cubin.file", "../manifest.json"), "is not inside the manifest's folder"),
        (change("kernels.0.cubin.file", "/etc/passwd"), "is not inside the manifest's folder"),
        (change("kernels.0.cubin.file", "nothing.cubin"), "cannot read .*nothing.cubin"),
        (change("kernels.0.grid", [[]]), "a grid has 1 extents"),
        (change("kernels.0.grid", [[{"size": "B", "per": 1}], [], []]), "names B, which is no size"),
        (change("kernels.0.requires", {"E": 16}), "names E, which is no size"),
        (change("kernels.0.arguments", [{"name": "x", "kind": "constant"}]), "an argument has kind 'constant'"),
    ],
)
def test_a_damaged_manifest_is_refused_on_one_line(
    tmp_path: Path, content: dict[str, Any], damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    read_manifest(write(tmp_path, content))
    damage(content)
    with pytest.raises(KernelError, match=message) as caught:
        read_manifest(write(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_files_that_were_changed_or_lead_out_are_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    folder = tmp_path / "kernels"
    folder.mkdir()
    for file in tmp_path.glob("*.*"):
        file.rename(folder / file.name)
    write(folder, content)
    (folder / "large.ptx").write_bytes(b"large.ptX")
    with pytest.raises(KernelError, match="large.ptx has SHA-256"):
        read_manifest(folder)
    (tmp_path / "elsewhere").write_bytes(b"large.ptx")
    (folder / "large.ptx").unlink()
    (folder / "large.ptx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KernelError, match="leads out of"):
        read_manifest(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(KernelError, match="make kernels"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(KernelError, match="make kernels again"):
        read_manifest(tmp_path)
