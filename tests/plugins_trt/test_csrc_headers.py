"""The plugin library against the headers of several TensorRT releases.

Headers are not ours to ship: ADAPTRT_TENSORRT_HEADERS names folders with NvInferRuntime.h, separated by colons.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.plugins_trt import plugin_host, standin_manifest
from tests.plugins_trt.test_csrc import SIZES, agree, mlp_expected, mlp_inputs, mlp_scenario

FOLDERS = [Path(folder) for folder in os.environ.get("ADAPTRT_TENSORRT_HEADERS", "").split(":") if folder]


@pytest.mark.skipif(not FOLDERS, reason="ADAPTRT_TENSORRT_HEADERS names no folders with NvInferRuntime.h")
@pytest.mark.parametrize("folder", FOLDERS or [None], ids=str)
def test_release(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORRT_INCLUDE_DIR", str(folder))
    manifest = standin_manifest.write_kernels(tmp_path / "kernels")
    signatures = tmp_path / "signatures"
    signatures.write_text(standin_manifest.signatures(tmp_path / "kernels", manifest))
    build = plugin_host.Build(plugin_host.build(tmp_path / "build", tmp_path / "kernels"), signatures)
    major = re.search(
        r"define (?:NV_TENSORRT_MAJOR|TRT_MAJOR_ENTERPRISE) (\d+)", (folder / "NvInferVersion.h").read_text()
    )
    assert major is not None and build.tensorrt.name == f"libnvinfer.so.{major[1]}"
    inputs = mlp_inputs(SIZES, "float16", "beyond")
    played = build.play(mlp_scenario([inputs] * 2, how={1: "capture"}), tmp_path / "play")
    assert played.status == 0 and played.report["independent"]
    agree(played.results[0][0], mlp_expected(inputs), "float16")
    report, _ = build.host("--tensorrt", build.other_tensorrt, "--load", "register")
    assert report["registered"] == -1


def test_headers_before_iplugin_v3_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "NvInferRuntime.h").touch()
    (tmp_path / "include" / "NvInferVersion.h").write_text("#define NV_TENSORRT_MAJOR 8 //!< major\n")
    monkeypatch.setenv("TENSORRT_INCLUDE_DIR", str(tmp_path / "include"))
    standin_manifest.write_kernels(tmp_path / "kernels")
    with pytest.raises(AssertionError, match=r"got\s+TensorRT\s+8\s+in\s+\S+\s+expected\s+10"):
        _build_or_skip(tmp_path)


def test_missing_kernels_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "NvInferRuntime.h").touch()
    (tmp_path / "include" / "NvInferVersion.h").write_text("#define NV_TENSORRT_MAJOR 10\n")
    monkeypatch.setenv("TENSORRT_INCLUDE_DIR", str(tmp_path / "include"))
    with pytest.raises(AssertionError, match=r"expected\s+compiled\s+kernels;"):
        _build_or_skip(tmp_path)


def _build_or_skip(folder: Path) -> None:
    try:
        plugin_host.build(folder / "build", folder / "kernels")
    except plugin_host.NotBuildableError as reason:
        pytest.skip(str(reason))
