"""TensorRT where it is installed: for the GPU that is there, with plugins registered before parsing.

TensorRT itself is not to be had from a package registry and needs a GPU; its builder's code path is that of
TensorRT-RTX, which test_tensorrt_rtx.py really runs. Here the engine's bytes come from elsewhere.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from adaptrt.export.errors import ExportError
from adaptrt.export.targets import nvidia_builder as build_module
from adaptrt.export.targets.build import build_target
from adaptrt.export.targets.engine_builder import EngineApi
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.runtime.bundle.engine_files import ENGINES

Bundles = Callable[[str], Path]
TENSORRT = BuildSettings("tensorrt", max_quality_drop=0.1)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """TensorRT 10.13 on a machine with an sm_87; what was registered and built, in order."""
    found: list[Any] = []

    def build_engine(api: EngineApi, graph: Path, engine: Path, ranges: dict[str, Any], **settings: Any) -> None:
        model = onnx.load(str(graph))
        found.append((api.target, {node.op_type for node in model.graph.node if node.domain}, settings))
        assert set(ranges) <= {value.name for value in model.graph.input}
        engine.write_bytes(b"engine")

    api = EngineApi("tensorrt", SimpleNamespace(__version__="10.13.3.9"))
    monkeypatch.setattr(build_module, "find_engine_api", lambda _: api)
    monkeypatch.setattr(build_module, "device_architecture", lambda: 87)
    monkeypatch.setattr(build_module, "build_engine", build_engine)
    return found


def test_it_builds_for_the_gpu_that_is_there(copied: Bundles, events: list[Any]) -> None:
    report = build_target(copied("combined"), dataclasses.replace(TENSORRT, precision="fp16"))
    assert report.engines.arch == "87" and report.engines.engine_version == "10.13.3.9"
    assert report.commands == [] and not (report.folder / "trtexec.sh").exists()
    assert [(target, ops) for target, ops, _ in events] == [("tensorrt", set())] * 2
    assert all(settings["architectures"] == () for *_, settings in events)
    assert all(stage.engine is not None for stage in report.engines.stages)


def test_a_library_is_loaded_and_bodies_stay(copied: Bundles, events: list[Any], tmp_path: Path) -> None:
    library = tmp_path / "libadaptrt_trt.so"
    settings = dataclasses.replace(TENSORRT, plugins="library", plugin_library=library)
    report = build_target(copied("combined"), settings)
    assert all(given["plugin_library"] == library for *_, given in events)
    assert set().union(*(ops for _, ops, _ in events)) == {"ConditionalMLP", "SelectTokens"}
    graph = onnx.load(str(report.folder / "stage0.onnx"))
    assert {function.name for function in graph.functions} == {"ConditionalMLP", "SelectTokens"}


def test_python_plugins_are_registered_first(copied: Bundles, events: list[Any]) -> None:
    settings = dataclasses.replace(TENSORRT, plugins="python")
    build_target(copied("combined"), settings, register_plugins=lambda *asked: events.append(asked))
    assert events[0] == (87, ["ConditionalMLPDown", "ConditionalMLPOrder", "ConditionalMLPUp"])  # what graphs ask for
    assert {op for _, ops, _ in events[1:] for op in ops} == {
        "ConditionalMLPOrder",
        "ConditionalMLPUp",
        "ConditionalMLPDown",
    }


@pytest.mark.parametrize(("here", "expected"), [(None, "has no GPU, expected sm_89"), (87, "has a GPU of sm_87")])
def test_another_gpu_or_none(
    copied: Bundles, events: list[Any], monkeypatch: pytest.MonkeyPatch, here: int | None, expected: str
) -> None:
    monkeypatch.setattr(build_module, "device_architecture", lambda: here)
    folder = copied("resnet")
    with pytest.raises(ExportError, match=expected):
        build_target(folder, dataclasses.replace(TENSORRT, architectures=(89,)))
    assert not events and not (folder / ENGINES).exists()


def test_another_version_than_asked_for(copied: Bundles, events: list[Any]) -> None:
    with pytest.raises(ExportError, match=r"got version 10\.3, expected 10\.13\.3\.9, which is installed"):
        build_target(copied("resnet"), dataclasses.replace(TENSORRT, engine_version="10.3"))
    assert not events
