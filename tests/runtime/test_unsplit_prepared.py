"""Of graphs that were prepared in a precision, the dense model's runs where everything would; engine.json names it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptrt.runtime import Budget, BundleError, load
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.bundle.engine_files import ENGINE_FILE, EngineFile, EngineStage, read_engines
from tests.prepared_engines import prepare
from tests.runtime.test_stages import exits_inputs

onnx = pytest.importorskip("onnx")

from tests.runtime.test_unsplit import MARK, WITH_WORK, with_dense  # noqa: E402 - which needs onnx as well

OWN_MARK = 11.0
"""What the prepared graph answers with, which the bundle's own does not."""
Change = Callable[[Callable[[dict[str, Any]], object]], None]


@pytest.fixture
def folder(exits: Path, edit: Any) -> Path:
    """A bundle with graphs for int8, which are in float32 here: what matters is which of them runs."""
    with_dense(exits, edit, WITH_WORK, of="answers_full")
    text = WITH_WORK.replace(str(MARK), str(OWN_MARK))
    graph = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)).SerializeToString()
    prepared = EngineFile("dense.onnx", hashlib.sha256(graph).hexdigest())
    dense = EngineStage(str(read_bundle(exits).dense.sha256), prepared)
    place = prepare(exits, "onnxruntime", "int8", weight_bits=7, activations="token", dense=dense)
    (place / "dense.onnx").write_bytes(graph)
    return exits


@pytest.fixture
def place(folder: Path) -> Path:
    return folder / "engines" / "onnxruntime-int8"


@pytest.fixture
def change(place: Path) -> Change:
    def altered(alter: Callable[[dict[str, Any]], object]) -> None:
        content = json.loads((place / ENGINE_FILE).read_text())
        alter(content)
        (place / ENGINE_FILE).write_text(json.dumps(content))

    return altered


def mark(folder: Path, **asked: Any) -> float:
    """What the first sample's first logit is."""
    logits = load(folder, precision="int8", threads=1).run(exits_inputs(3), **asked).outputs["logits"]
    return float(logits[0, 0])


def test_each_precision_has_its_own(folder: Path) -> None:
    assert mark(folder, budget=Budget.full()) == OWN_MARK
    exact = load(folder, threads=1).run(exits_inputs(3), budget=Budget.full())
    assert float(exact.outputs["logits"][0, 0]) == MARK
    result = load(folder, precision="int8", threads=1).run(exits_inputs(3), budget=Budget.full())
    np.testing.assert_array_equal(result.macs_fraction, np.full(3, 0.75, np.float32))
    np.testing.assert_array_equal(result.exit, np.full(3, 2))


@pytest.mark.parametrize(
    "asked", [{"knobs": {"price": 0.5}}, {"budget": Budget.fraction(0.3)}, {"deadline_ms": 1e6}], ids=str
)
def test_it_runs_nowhere_else(folder: Path, asked: dict[str, Any]) -> None:
    assert mark(folder, **asked) not in (MARK, OWN_MARK)


def test_without_it_the_stages_answer(folder: Path, place: Path, change: Change) -> None:
    (place / "dense.onnx").unlink()  # a device may leave it out
    assert mark(folder, budget=Budget.full()) not in (MARK, OWN_MARK)
    assert read_engines(place).dense is not None
    change(lambda content: content.pop("dense"))  # as versions before wrote it
    assert mark(folder, budget=Budget.full()) not in (MARK, OWN_MARK)


def test_a_bundle_that_the_stages_answer_for_does_not_run_it(folder: Path, edit: Any) -> None:
    edit(folder, lambda content: content["dense"].update(answers_full=False))
    assert mark(folder, budget=Budget.full()) not in (MARK, OWN_MARK)


def test_a_damaged_or_foreign_graph_is_refused(folder: Path, place: Path, change: Change) -> None:
    graph = (place / "dense.onnx").read_bytes()
    (place / "dense.onnx").write_bytes(graph + b"\0")
    with pytest.raises(BundleError, match=r"'dense\.onnx' was changed or damaged"):
        load(folder, precision="int8")
    with pytest.raises(BundleError, match=r"'dense\.onnx' was changed or damaged"):
        read_engines(place)
    (place / "dense.onnx").write_bytes(graph)
    change(lambda content: content["dense"].update(source_sha256="0" * 64))
    with pytest.raises(
        BundleError, match=r"the dense graph was made of a file whose sha256 is 000000000000…, expected"
    ):
        load(folder, precision="int8")
    assert load(folder).precision == "fp32"


def test_a_link_out_of_the_folder_is_refused(folder: Path, place: Path, tmp_path: Path) -> None:
    (place / "dense.onnx").rename(tmp_path / "dense.onnx")
    (place / "dense.onnx").symlink_to(tmp_path / "dense.onnx")
    with pytest.raises(BundleError, match=r"dense\.onnx"):
        load(folder, precision="int8")


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (lambda dense: dense["prepared"].update(file="../dense.onnx"), "dense: path"),
        (lambda dense: dense["prepared"].update(file="/etc/passwd"), "dense: path"),
        (lambda dense: dense["prepared"].update(file="stage0.onnx"), "file 'stage0.onnx' twice"),
        (lambda dense: dense["prepared"].update(sha256="0"), "dense: sha256"),
        (lambda dense: dense.update(source_sha256="?"), "dense: source_sha256"),
        (lambda dense: dense.update(engine=dict(dense["prepared"], file="e")), "dense: an engine"),
    ],
    ids=["outside", "absolute", "twice", "hash", "source", "engine"],
)
def test_what_engine_json_may_not_say(place: Path, change: Change, alter: Callable[[Any], object], said: str) -> None:
    change(lambda content: alter(content["dense"]))
    with pytest.raises(BundleError, match=said) as caught:
        read_engines(place)
    assert "\n" not in str(caught.value)


def test_scales_are_static_or_by_token(place: Path, change: Change) -> None:
    change(lambda content: content.update(dense_activations="rows"))
    with pytest.raises(BundleError, match="dense_activations 'rows', expected static, token or none"):
        read_engines(place)


def test_a_graph_of_another_network_is_refused(folder: Path, place: Path, change: Change) -> None:
    graph = (place / "stage0.onnx").read_bytes()
    (place / "dense.onnx").write_bytes(graph)
    change(lambda content: content["dense"]["prepared"].update(sha256=hashlib.sha256(graph).hexdigest()))
    with pytest.raises(BundleError, match="as it stands for all stages"):
        load(folder, precision="int8")
