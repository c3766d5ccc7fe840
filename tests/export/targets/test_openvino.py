"""OpenVINO on the prepared graphs: the same as ONNX Runtime within 1e-4, and a difference is noticed."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from adaptrt.export.errors import ExportError, ParityError
from adaptrt.export.targets.build import build_target
from adaptrt.export.targets.inline import inlined
from adaptrt.export.targets.openvino_check import OpenVinoSession, require_agreement
from adaptrt.export.targets.quality import compare_quality
from adaptrt.export.targets.source import read_stages
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.bundle.engine_files import engine_folder, read_engines
from tests.export.targets.conftest import MAKERS
from tests.prepared_engines import require_openvino

require_openvino()
Bundles = Callable[[str], Path]


@pytest.mark.parametrize("name", MAKERS)
def test_openvino_agrees_with_onnx_runtime(copied: Bundles, name: str) -> None:
    folder = copied(name)
    report = build_target(folder, BuildSettings("openvino"))
    assert report.verified is not None and report.verified <= 1e-4
    assert report.quality is not None
    if name in ("combined", "text"):
        assert len({row.knobs["price"][0] for row in report.quality.rows}) >= 5
    engines = read_engines(engine_folder(folder, "openvino", "fp32"))
    assert engines == report.engines and engines.engine_version == "" and engines.arch == ""
    for stage in engines.stages:
        graph = onnx.load(str(report.folder / stage.prepared.file))
        assert not graph.functions and stage.engine is None
    assert build_target(folder, BuildSettings("openvino")).reused


def test_half_precision(copied: Bundles) -> None:
    report = build_target(copied("combined"), BuildSettings("openvino", precision="fp16", max_quality_drop=0.05))
    assert report.verified is not None and report.engines.precision == "fp16"


def test_another_result_is_noticed(written: Bundles) -> None:
    folder = written("fixed")
    bundle = read_bundle(folder)
    graphs = [inlined(stage) for stage in read_stages(folder, bundle)]
    others = []
    for graph in graphs:
        other = onnx.ModelProto()
        other.CopyFrom(graph)
        bias = next(w for w in other.graph.initializer if w.name.endswith("head.classifier.bias"))
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1e-3), bias.name))
        others.append(other)
    report = compare_quality(folder, bundle, graphs, others, OpenVinoSession)
    with pytest.raises(ParityError, match=r"OpenVINO's outputs differ from ONNX Runtime's by 1\.\d\de-03"):
        require_agreement(report, "it")
    with pytest.raises(ParityError, match="nothing was compared"):
        require_agreement(dataclasses.replace(report, rows=[]), "it")


def test_a_graph_that_openvino_refuses() -> None:
    graph = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20, "adaptrt" : 1]>
    g (float[3] x) => (float[3] y) { y = adaptrt.Unheard (x) }""")
    with pytest.raises(ExportError, match=r"OpenVINO 20\d\d\.\d.* refuses the prepared graph"):
        OpenVinoSession(graph)


def test_without_openvino_the_graphs_are_prepared_all_the_same(
    copied: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaptrt.export.targets.openvino_builder.openvino_installed", lambda: False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    report = build_target(copied("fixed"), BuildSettings("openvino"))
    assert report.verified is None and not report.reused
