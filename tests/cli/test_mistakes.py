"""Mistakes that users make with bundles: each is one line and exit code 2, and nothing is written or changed.

What verbs say of damaged bundles is in ``test_bad_bundles.py``, of paths in ``test_unusable_paths.py``, of a user's own
network in ``tests/export/own_networks``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FIXTURES = Path(__file__).parents[1] / "runtime" / "fixtures"
FORMS = "expected a share of the dense work such as 0.5 or 50%, MACs such as 90M"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in: ``bundle``, two samples that it takes, and files that nothing takes."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FIXTURES / "exported", tmp_path / "bundle")
    samples = np.random.default_rng(0).random((2, 1, 4, 4), np.float32)
    np.savez("in.npz", pixels=samples)
    (tmp_path / "link.npz").symlink_to("in.npz")
    for name, array in (
        ("two.npy", samples),
        ("wide.npy", samples.astype(np.float64)),
        ("one.npy", samples[0]),
        ("nan.npy", samples * np.nan),
    ):
        np.save(name, array)
    (tmp_path / "empty.npy").touch()
    (tmp_path / "folder.npz").mkdir()
    return tmp_path


MISTAKES = [
    ("inspect bundle/bundle.json", "is not a folder; give the folder that holds bundle.json"),
    ("inspect folder.npz", "no bundle.json in 'folder.npz'; expected a bundle"),
    ("run bundle two.npy --budget nan%", "got a budget of nan; expected a share of the dense model's work, a finite"),
    ("run bundle two.npy --budget=-5%", "got a budget of -0.05; expected a share of the dense model's work, a finite"),
    ("run bundle two.npy --budget=-8ms", "got a budget of -8.0; expected milliseconds per call, a finite number above"),
    ("run bundle two.npy --budget 0ms", "got a budget of 0.0; expected milliseconds per call, a finite number above 0"),
    ("run bundle two.npy --budget infms", "got a budget of inf; expected milliseconds per call, a finite number above"),
    ("run bundle two.npy --budget 8parsec", f"got budget '8parsec', {FORMS}"),
    ("run bundle two.npy --budget 8MS", f"got budget '8MS', {FORMS}"),
    ("run bundle two.npy --budget 50", f"got budget '50', {FORMS}"),
    ("run bundle two.npy --budget 1_0%", f"got budget '1_0%', {FORMS}"),
    ("run bundle two.npy --budget ５０%", f"got budget '５０%', {FORMS}"),
    ("run bundle two.npy --price nan", "knob 'price': got nan, expected a number from 0 to 1; pass that"),
    ("run bundle two.npy --deadline 5", "got a deadline, but bundle 'exported' has no exits to answer early at"),
    (
        "run bundle two.npy --hard --budget 8ms",
        "got --hard with budget 8ms, expected a share or MACs; leave --hard out",
    ),
    ("run bundle two.npy --output folder.npz", "got output 'folder.npz', a folder, expected a file"),
    ("run bundle two.npy --output two.npy/out.npz", "whose folder does not exist, expected one that does"),
    ("run bundle two.npy --output /proc/out.npz", "cannot write /proc/out.npz: "),
    ("run bundle in.npz --output link.npz", "got 'link.npz' as input and output, expected two files"),
    ("run bundle wide.npy", "got float64 [2, 1, 4, 4], expected float32 [batch, 1, 4, 4]; convert it with"),
    ("run bundle one.npy", "got float32 [1, 4, 4], expected float32 [batch, 1, 4, 4]; add the missing axis"),
    ("run bundle nan.npy", "input 'pixels': got nan at [0, 0, 0, 0], expected finite numbers"),
    ("run bundle empty.npy", "cannot read 'empty.npy' (No data left in file), expected arrays"),
    ("run bundle two.npy --backend openvino", "no engines/openvino-fp32 in"),
    (
        "run bundle two.npy --plugin-library no.so",
        "got a plugin library with backend 'onnxruntime', expected it with 'tensorrt' alone; leave it out",
    ),
    ("verify bundle --plugin-library no.so", "got a plugin library with backend 'onnxruntime', expected it with"),
    ("verify bundle --backend nothing", "got backend 'nothing', expected one of 'onnxruntime', "),
    ("bench bundle --output bundle --no-plot", "got output 'bundle', expected a name that ends in .json; rename it"),
    ("bench bundle --output bundle/bundle.json --no-plot", "as input and output, expected two files"),
    ("bench bundle --plot /proc/plot.png --output numbers.json", "cannot write /proc/plot.png: "),
    (
        "bench bundle --input one.npy --no-plot",
        "got inputs float32 [1, 4, 4], expected at least one sample of 'pixels'",
    ),
    ("bench bundle --backend nothing", "error: got backend 'nothing', expected one of 'onnxruntime', "),
    ("build bundle --target nothing", "got target 'nothing', expected one of openvino, tensorrt, tensorrt-rtx"),
    ("build bundle --target openvino --arch 89", "got an architecture for openvino, expected none"),
    ("build bundle --target openvino --engine-version 10.3", "got an engine version for openvino, expected none"),
    ("build bundle --target tensorrt --engine-version ten", "got engine version 'ten', expected numbers such as 10.3"),
    ("build bundle --target tensorrt --batch 8:1:2", "8:1:2"),
    (
        "build bundle --target openvino --max-quality-drop nan",
        "got a quality drop of nan, expected a share from 0 to 1",
    ),
]


@pytest.mark.parametrize(("line", "says"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_line(refused: Any, contents: Any, folder: Path, line: str, says: str) -> None:
    before = contents(folder)
    assert says in refused(*line.split())
    assert contents(folder) == before


def _without_model(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()


def _model_is_a_folder(bundle: Path) -> None:
    _without_model(bundle)
    (bundle / "model.onnx").mkdir()


def _damaged_golden(bundle: Path) -> None:
    (bundle / "golden.npz").write_bytes(b"PK")


def _engines_is_a_file(bundle: Path) -> None:
    (bundle / "engines").touch()


def _engine_folder_of_others(bundle: Path) -> None:
    (bundle / "engines" / "openvino-fp32").mkdir(parents=True)
    (bundle / "engines" / "openvino-fp32" / "mine.txt").touch()


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (_without_model, "inspect bundle", "model.onnx"),
        (_without_model, "run bundle two.npy --output out.npz", "model.onnx"),
        (_without_model, "verify bundle", "model.onnx"),
        (_without_model, "bench bundle --rounds 1 --batch 1", "model.onnx"),
        (_without_model, "build bundle --target openvino", "model.onnx"),
        (_model_is_a_folder, "run bundle two.npy", "'model.onnx' is not a regular file; copy the whole folder"),
        (_damaged_golden, "verify bundle", "golden.npz: File is not a zip file; export the bundle again"),
        (_engines_is_a_file, "build bundle --target openvino", "engines"),
        (_engine_folder_of_others, "build bundle --target openvino", "holds files and no engine.json, expected what a"),
    ],
)
def test_a_folder_that_is_no_whole_bundle(
    refused: Any, contents: Any, folder: Path, change: Callable[[Path], None], line: str, says: str
) -> None:
    change(folder / "bundle")
    before = contents(folder)
    assert says in refused(*line.split())
    assert contents(folder) == before


@pytest.mark.parametrize("fixture", ["exits", "exported", "tiny", "tokens"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"stages": []}, "stages: 0 entries, expected 1 to 1000"),
        ({"stages": [5]}, r"Expected `object`, got `int` - at `$.stages[0]`"),
        ({"curve": [None]}, r"Expected `object`, got `null` - at `$.curve[0]`"),
        ({"outputs": None}, r"Expected `array`, got `null` - at `$.outputs`"),
        ({"format_version": 1.5}, "got `float` - at `$.format_version`"),
        ({"format_version": 3}, "format_version is 3, expected 2"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_damaged_bundle_of_format_1(
    refused: Any, contents: Any, folder: Path, fixture: str, damage: dict[str, Any], says: str
) -> None:
    shutil.copytree(FIXTURES / "format_1" / fixture, folder / "old")
    content = json.loads((folder / "old" / "bundle.json").read_text())
    (folder / "old" / "bundle.json").write_text(json.dumps(content | damage))
    before = contents(folder)
    assert says in refused("inspect", "old")
    assert contents(folder) == before
