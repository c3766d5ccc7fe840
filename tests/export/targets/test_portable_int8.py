"""What was built in int8 as a bundle of its own: the same answers from portable files, or nothing and a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from adaptrt.cli.group import adaptrt
from adaptrt.export.errors import ExportError
from adaptrt.export.targets import activation_ranges
from adaptrt.export.targets.build import build_target
from adaptrt.export.targets.portable_int8 import write_int8_bundle
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.runtime import Budget, load
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.errors import BundleError
from tests.batch_mates import random_inputs
from tests.export.targets.conftest import MAKERS

Bundles = Callable[[str], Path]
INT8 = BuildSettings("onnxruntime", "int8", max_quality_drop=1.0)


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_ranges, "FEWEST_ROWS", 8)


@pytest.mark.usefixtures("small_products")
@pytest.mark.parametrize("name", [name for name in MAKERS if name != "resnet"])
def test_it_gives_what_the_engine_gives(copied: Bundles, tmp_path: Path, name: str) -> None:
    folder = copied(name)
    build_target(folder, INT8)
    write_int8_bundle(folder, tmp_path / "int8")
    built, own = load(folder, precision="int8", threads=1), load(tmp_path / "int8", threads=1)
    assert own.precision == "fp32" and own.bundle.name == f"{built.bundle.name}-int8"
    assert own.bundle.curve == built.bundle.curve and own.bundle.budget_table == built.bundle.budget_table
    inputs = random_inputs(own.bundle.inputs, 5)
    knobs = [{knob.name: value for knob in own.bundle.knobs} for value in (0.0, 0.3)]
    for how in ({"budget": Budget.full()}, *({"knobs": each} for each in knobs if _possible(own.bundle, each))):
        one, other = built.run(inputs, **how), own.run(inputs, **how)  # type: ignore[arg-type]
        assert all(np.array_equal(one.outputs[key], other.outputs[key]) for key in one.outputs)
        assert np.array_equal(one.macs_fraction, other.macs_fraction) and np.array_equal(one.exit, other.exit)
    exact = load(folder, threads=1).run(inputs, budget=Budget.full())
    assert any(not np.array_equal(exact.outputs[key], other.outputs[key]) for key in exact.outputs)


def _possible(bundle: object, knobs: dict[str, float]) -> bool:
    ranges = {knob.name: (knob.dtype, knob.minimum, knob.maximum) for knob in bundle.knobs}  # type: ignore[attr-defined]
    return all(
        ranges[name][0] == "float32" and ranges[name][1] <= value <= ranges[name][2] for name, value in knobs.items()
    )


@pytest.mark.usefixtures("small_products")
def test_what_cannot_be_written_is_refused_and_nothing_is_left(copied: Bundles, tmp_path: Path) -> None:
    folder, output = copied("fixed"), tmp_path / "int8"
    with pytest.raises(
        ExportError, match=r"no engines/onnxruntime-int8 in .*, expected graphs in int8; run `adaptrt build"
    ):
        write_int8_bundle(folder, output)
    build_target(folder, BuildSettings("onnxruntime", "int8", max_quality_drop=1.0, weight_bits=8))
    with pytest.raises(ExportError, match="weights of 8 bits in .*, expected 7, which are right on every CPU"):
        write_int8_bundle(folder, output)
    build_target(folder, INT8)
    for place in (folder, folder / "int8", folder.parent):
        with pytest.raises(ExportError, match="the bundle or a folder around or in it"):
            write_int8_bundle(folder, place)
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="other content"):
        write_int8_bundle(folder, output)
    assert [path.name for path in output.iterdir()] == ["notes.txt"]
    graph = folder / "engines/onnxruntime-int8/stage0.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(BundleError):
        write_int8_bundle(folder, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir() if path != folder) == ["int8"]


@pytest.mark.usefixtures("small_products")
def test_the_command_writes_it(copied: Bundles, tmp_path: Path) -> None:
    folder, output = copied("fixed"), tmp_path / "int8"
    words = ["build", str(folder), "--target", "onnxruntime", "--max-quality-drop", "1", "--as-bundle", str(output)]
    done = CliRunner().invoke(adaptrt, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads((output / "bundle.json").read_text())["name"] == read_bundle(folder).name + "-int8"
    refused = CliRunner().invoke(adaptrt, ["build", str(folder), "--target", "openvino", "--as-bundle", str(output)])
    assert refused.exit_code and "got --as-bundle for openvino, expected it for onnxruntime" in refused.output
