"""TensorRT-RTX parses every bundle and builds its engines, here, without a GPU; what is there is kept and checked."""

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from adaptrt.export.errors import ExportError
from adaptrt.export.exporter import ExportReport
from adaptrt.export.targets import nvidia_builder as build_module
from adaptrt.export.targets.build import BuildReport, build_target
from adaptrt.export.targets.engine_builder import build_engine, find_engine_api
from adaptrt.export.targets.prepare import prepare
from adaptrt.export.targets.profiles import SizeRange, stage_profiles
from adaptrt.export.targets.source import read_stages
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.runtime.bundle.bundle_file import BUNDLE_FILE, read_bundle
from adaptrt.runtime.bundle.engine_files import ENGINE_FILE, ENGINES, engine_folder, read_engines
from tests.export.targets.conftest import MAKERS

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
Bundles = Callable[[str], Path]
RTX = BuildSettings("tensorrt-rtx", architectures=(89,), batch=SizeRange(1, 2, 8), max_quality_drop=0.05)
FIXTURES = Path(__file__).parents[2] / "runtime" / "fixtures"
ARCHITECTURES = dict(zip(MAKERS, (86, 89, 120, 86, 89), strict=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", MAKERS)
def test_every_bundle_becomes_engines(copied: Bundles, name: str, precision: str) -> None:
    folder = copied(name)
    arch = ARCHITECTURES[name]
    settings = dataclasses.replace(RTX, precision=precision, architectures=(arch,))
    report = build_target(folder, settings)
    engines = read_engines(engine_folder(folder, "tensorrt-rtx", precision))
    assert engines == report.engines and not report.reused
    assert engines.arch == str(arch) and engines.engine_version and engines.plugins == "none"
    for number, stage in enumerate(engines.stages):
        assert stage.engine is not None and stage.engine.file == f"stage{number}.engine"
        assert (report.folder / stage.engine.file).stat().st_size > 1000
        graph = onnx.load(str(report.folder / stage.prepared.file))
        half = any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in graph.graph.initializer)
        assert half == (precision == "fp16")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["tiny", "exits", "tokens", "exported"])
def test_bundles_written_by_hand_or_long_ago(name: str, precision: str, tmp_path: Path) -> None:
    folder = FIXTURES / name
    bundle = read_bundle(folder)
    stages = read_stages(folder, bundle)
    for stage in stages:
        _rename(stage, "_", "unused")  # a name that this builder does not take
    knobs = {knob.name for knob in bundle.knobs}
    prepared = prepare(stages, "tensorrt-rtx", precision, "none", "", knobs)
    ranges = stage_profiles(folder, bundle, stages, SizeRange(1, 2, 8), SizeRange(1, 4, 8))
    api = find_engine_api("tensorrt-rtx")
    assert api is not None
    for number, (each, shapes) in enumerate(zip(prepared, ranges, strict=True)):
        graph, engine = tmp_path / f"{number}.onnx", tmp_path / f"{number}.engine"
        onnx.save(each.model, str(graph))
        build_engine(api, graph, engine, shapes, architectures=[86, 120], progress=lambda *_: None)
        assert engine.stat().st_size > 1000


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]


def test_an_exported_bundle_with_its_curve(exported: ExportReport, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(exported.bundle_folder, tmp_path / "tiny"))
    report = build_target(folder, dataclasses.replace(RTX, precision="fp16"))
    assert len(report.engines.stages) == 1 and report.engines.stages[0].engine is not None


@pytest.fixture
def built(copied: Bundles) -> tuple[Path, BuildReport]:
    folder = copied("resnet")
    return folder, build_target(folder, RTX)


def test_what_is_there_is_kept(built: tuple[Path, BuildReport]) -> None:
    folder, first = built
    before = contents(folder)
    again = build_target(folder, RTX)
    assert again.reused and again.notes == [] and again.engines == first.engines
    assert contents(folder) == before
    forced = build_target(folder, dataclasses.replace(RTX, rebuild=True))
    assert not forced.reused


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architectures": (86, 120)}, "architecture was 89, is 86 120"),
        ({"batch": SizeRange(1, 1, 4)}, "stage 0 is prepared otherwise now"),
    ],
)
def test_other_settings_build_again(built: tuple[Path, BuildReport], change: dict[str, object], reason: str) -> None:
    folder, _ = built
    again = build_target(folder, dataclasses.replace(RTX, **change))  # type: ignore[arg-type]
    assert not again.reused and len(again.notes) == 1 and reason in again.notes[0]
    assert build_target(folder, dataclasses.replace(RTX, **change)).reused  # type: ignore[arg-type]


def test_an_engine_of_another_version_is_built_again(built: tuple[Path, BuildReport]) -> None:
    folder, report = built
    file = report.folder / ENGINE_FILE
    said = json.loads(file.read_text())
    file.write_text(json.dumps({**said, "engine_version": "1.2.3"}))
    again = build_target(folder, RTX)
    assert again.notes == [f"built again: engine version was 1.2.3, is {report.engines.engine_version}"]
    assert read_engines(report.folder) == again.engines
    assert again.engines.engine_version == report.engines.engine_version


def test_damaged_engines_are_built_again(built: tuple[Path, BuildReport]) -> None:
    folder, report = built
    (report.folder / "stage0.engine").write_bytes(b"damaged")
    again = build_target(folder, RTX)
    assert not again.reused and "stage0.engine' was changed or damaged" in again.notes[0]
    (report.folder / ENGINE_FILE).write_text("{")
    assert "not readable as JSON" in build_target(folder, RTX).notes[0]


def test_an_interrupted_build_leaves_what_was_there(
    built: tuple[Path, BuildReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = built
    before = contents(folder)
    told = []

    def interrupt(what: str, share: float) -> None:
        assert 0 <= share <= 1
        told.append(what)
        if what.startswith("building stage1"):  # in the middle of the second engine, from within the builder
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build_target(folder, dataclasses.replace(RTX, rebuild=True), progress=interrupt)
    assert any(what.startswith("building stage0: ") for what in told)
    assert contents(folder) == before
    monkeypatch.setattr(build_module, "build_engine", lambda *_, **__: (_ for _ in ()).throw(ExportError("no")))
    with pytest.raises(ExportError, match="no"):
        build_target(folder, dataclasses.replace(RTX, rebuild=True))
    assert contents(folder) == before
    assert sorted(path.name for path in (folder / ENGINES).iterdir()) == ["tensorrt-rtx-fp32"]


def test_folders_that_no_build_wrote_are_left_alone(copied: Bundles) -> None:
    folder = copied("resnet")
    place = engine_folder(folder, "tensorrt-rtx", "fp32")
    place.mkdir(parents=True)
    (place / "dear.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"holds files and no engine\.json"):
        build_target(folder, RTX)
    assert (place / "dear.txt").read_text() == "mine"
    assert (folder / BUNDLE_FILE).is_file()


def test_a_refused_graph_is_one_line(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[n, 4] x) => (int64[2, m] y) { y = NonZero (x) }"""
    graph = tmp_path / "g.onnx"
    onnx.save(onnx.parser.parse_model(text), str(graph))
    api = find_engine_api("tensorrt-rtx")
    assert api is not None
    with pytest.raises(ExportError, match=r"of tensorrt-rtx 1\..* refuses g\.onnx: .+; expected a graph") as caught:
        build_engine(api, graph, tmp_path / "g.engine", {}, architectures=[89], progress=lambda *_: None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "g.engine").exists()


def test_weights_beside_the_graph(copied: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptrt.export.graph.saved_graph.EXTERNAL_DATA_FROM", 0)
    report = build_target(copied("combined"), RTX)
    for number, stage in enumerate(report.engines.stages):
        assert [data.file for data in stage.external_data] == [f"stage{number}.onnx.data"]
        assert (report.folder / f"stage{number}.onnx.data").stat().st_size > 0 and stage.engine is not None


def test_an_unknown_architecture(copied: Bundles) -> None:
    folder = copied("resnet")
    with pytest.raises(ExportError, match=r"got architecture 87, expected one that tensorrt-rtx .*: 75, 80, 86, 89"):
        build_target(folder, dataclasses.replace(RTX, architectures=(89, 87)))
    assert not (folder / ENGINES).exists()


def test_ranges_of_carried_tokens(copied: Bundles) -> None:
    folder = copied("combined")
    report = build_target(folder, RTX)
    (entry,) = (e for e in onnx.load(str(report.folder / "stage1.onnx")).metadata_props if e.key == "adaptrt.build")
    ranges = json.loads(entry.value)
    assert ranges["hidden"] == {"minimum": [1, 1, 16], "optimum": [2, 17, 16], "maximum": [8, 17, 16]}
    assert np.prod(ranges["valid"]["maximum"]) == 8 * 17
    fewer = dataclasses.replace(RTX, tokens=SizeRange(1, 5, 9))
    again = build_target(folder, fewer)
    assert "stage 1 is prepared otherwise" in again.notes[0]
