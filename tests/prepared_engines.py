"""What ``adaptrt build`` writes into a bundle, made here by the shortest way."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.bundle.engine_files import (
    ENGINE_FILE,
    FORMAT_VERSION,
    EngineFile,
    EngineSet,
    EngineStage,
    encode_engines,
    engine_folder,
)


def require_openvino() -> None:
    """Skip what needs OpenVINO, or onnx to prepare a graph for it, where that is missing.

    Not by importing it, as ``pytest.importorskip`` does: only the backend imports it, without its telemetry.
    """
    pytest.importorskip("onnx", reason="preparing a graph for OpenVINO takes onnx, which is not installed")
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed", allow_module_level=True)


def inlined(model: bytes) -> bytes:
    """A graph of standard operators only."""
    import onnx
    import onnx.inliner

    return onnx.inliner.inline_local_functions(onnx.load_model_from_string(model)).SerializeToString()


def prepare(
    bundle: Path,
    target: str = "openvino",
    precision: str = "fp32",
    *,
    convert: Callable[[bytes], bytes] = inlined,
    build: Callable[[bytes], bytes] | None = None,
    **changes: object,
) -> Path:
    """Put a folder of engines into a bundle.

    Args:
        bundle: its folder.
        target: as ``adaptrt build`` takes it.
        precision: likewise.
        convert: prepares the bytes of a stage's ONNX file.
        build: makes an engine of the prepared bytes; None leaves it out.
        changes: to the fields of ``engine.json``.
    """
    folder = engine_folder(bundle, target, precision)
    folder.mkdir(parents=True)
    stages = []
    for number, stage in enumerate(read_bundle(bundle).stages):
        prepared = convert((bundle / stage.file).read_bytes())
        engine = None if build is None else _write(folder, f"stage{number}.engine", build(prepared))
        stages.append(EngineStage(stage.sha256, _write(folder, f"stage{number}.onnx", prepared), engine))
    engines = EngineSet(FORMAT_VERSION, target, precision, "", "", "none", stages)
    (folder / ENGINE_FILE).write_bytes(encode_engines(msgspec.structs.replace(engines, **changes)))
    return folder


def _write(folder: Path, name: str, content: bytes) -> EngineFile:
    (folder / name).write_bytes(content)
    return EngineFile(name, hashlib.sha256(content).hexdigest())
