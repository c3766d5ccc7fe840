"""The comparison that decides whether a prepared graph is written: what it counts, and that it refuses."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from adaptrt.export.errors import ExportError
from adaptrt.export.targets import build as build_module
from adaptrt.export.targets.build import build_target
from adaptrt.export.targets.prepare import Prepared, prepare
from adaptrt.export.targets.quality import QualityReport, QualityRow, compare_quality, require_quality
from adaptrt.export.targets.source import read_stages
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.bundle.engine_files import ENGINES

Bundles = Callable[[str], Path]


def noisy(model: onnx.ModelProto, size: float) -> onnx.ModelProto:
    """A copy with noise in its weights, as much of each as ``size``."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    generator = np.random.default_rng(0)
    for weight in copy.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.ndim > 1:
            noise = generator.standard_normal(values.shape) * values.std() * size
            weight.CopyFrom(numpy_helper.from_array((values + noise).astype(np.float32), weight.name))
    return copy


def compared(folder: Path, size: float) -> QualityReport:
    bundle = read_bundle(folder)
    stages = read_stages(folder, bundle)
    return compare_quality(folder, bundle, stages, [noisy(stage, size) for stage in stages])


def test_the_same_graphs_differ_in_nothing(written: Bundles) -> None:
    report = compared(written("combined"), 0.0)
    assert report.quality == report.reference_quality == 1
    assert report.flip_rate == 0 and report.largest_difference == 0
    assert all(row.decisions > 100 for row in report.rows)


def test_every_kind_of_decision_is_counted(written: Bundles) -> None:
    report = compared(written("combined"), 0.5)
    assert sum(row.learner_flips for row in report.rows) > 0
    assert sum(row.token_flips for row in report.rows) > 0
    assert sum(row.exit_flips for row in report.rows) > 0
    assert report.flip_rate is not None and 0 < report.flip_rate < 1
    assert report.quality < report.reference_quality == 1
    assert report.largest_difference > 0.1


def test_half_precision_is_near(written: Bundles) -> None:
    folder = written("combined")
    bundle = read_bundle(folder)
    stages = read_stages(folder, bundle)
    prepared = prepare(stages, "tensorrt-rtx", "fp16", "none", "", {knob.name for knob in bundle.knobs})
    report = compare_quality(folder, bundle, stages, [each.runnable for each in prepared])
    assert 0 < report.largest_difference < 0.1
    assert report.flip_rate is not None and report.flip_rate < 0.01
    assert report.quality > 0.95


def row(quality: float, flips: int = 3) -> QualityRow:
    return QualityRow({"price": [0.5]}, 20, quality, 1.0, 100, flips, 0, 0, 0.1, 0.1)


def test_the_bound() -> None:
    report = QualityReport([row(0.98), row(0.94)])
    assert report.quality == pytest.approx(0.96) and report.flip_rate == pytest.approx(0.03)
    require_quality("x", report.quality, report.reference_quality, report.flip_rate, 0.05)
    with pytest.raises(ExportError, match=r"x predicts 96\.0% .* with 3\.0% .* at most 3\.0% less .* 100\.0%; nothing"):
        require_quality("x", report.quality, report.reference_quality, report.flip_rate, 0.03)
    with pytest.raises(ExportError, match="x predicts nan%"):
        require_quality("x", float("nan"), 1.0, None, 1.0)


def test_a_bad_half_graph_is_refused_and_nothing_is_left(copied: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(stages: list[onnx.ModelProto], *settings: object) -> list[Prepared]:
        return [
            dataclasses.replace(each, runnable=noisy(each.runnable, 1.0))
            for each in prepare(stages, *settings)  # type: ignore[arg-type]
        ]

    folder = copied("combined")
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(build_module, "prepare", spoiled)
    settings = BuildSettings("tensorrt", precision="fp16")
    with pytest.raises(ExportError, match=r"'combined' in fp16 predicts .*; nothing was written: use --precision fp32"):
        build_target(folder, settings)
    assert sorted(folder.rglob("*")) == before and not (folder / ENGINES).exists()
    build_target(folder, dataclasses.replace(settings, max_quality_drop=1.0))
    # What is there is judged by the bound that is asked for, not by that which it was built under.
    with pytest.raises(ExportError, match="in fp16 predicts"):
        build_target(folder, settings)


def test_a_bundle_without_golden_runs(copied: Bundles) -> None:
    folder = copied("combined")
    (folder / "golden.npz").unlink()
    with pytest.raises(ExportError, match=r"has no golden\.npz"):
        build_target(folder, BuildSettings("tensorrt"))
    assert not (folder / ENGINES).exists()
