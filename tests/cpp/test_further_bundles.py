"""Bundles that the kit has none of: a dense model for the stages, weights beside the graph, the exported fixtures."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptrt.runtime import Budget, load
from tests.conformance.kit import KIT
from tests.cpp.programs import Fed, Programs
from tests.cpp.test_conformance import case, check

FIXTURES = KIT.parents[1] / "runtime" / "fixtures"
BUDGETS: list[tuple[dict[str, Any], Budget]] = [
    ({"kind": "full"}, Budget.full()),
    ({"kind": "fraction", "value": 0.6}, Budget.fraction(0.6)),
]


def compare(cpp: Programs, bundle: Path, inputs: dict[str, Any], scratch: Path) -> None:
    """Both budgets, of all samples and of none."""
    fed, model = Fed(scratch / "fed.bin"), load(bundle, threads=1)
    requests: list[dict[str, Any]] = [{"op": "load", "bundle": str(bundle)}]
    expected = []
    for entry, budget in BUDGETS:
        if model.bundle.budget_table is None and budget.kind != "full":
            continue
        for rows in (slice(None), slice(0, 0), slice(0, 1)):
            fewer = {name: array[rows] if len(array) > 1 else array for name, array in inputs.items()}
            requests.append({"op": "run", "budget": entry, **fed.inputs(fewer)})
            expected.append(model.run(fewer, budget=budget))
    fed.write()
    answered = cpp.ask(requests, scratch)
    assert answered.replies[0].get("ok"), answered.replies[0]
    for number, (reply, result) in enumerate(zip(answered.replies[1:], expected, strict=True)):
        check(answered, reply, result, f"{bundle.name} call {number}")


@pytest.mark.parametrize("there", [True, False])
def test_a_dense_model_without_exits_stands_for_the_stages(there: bool, cpp: Programs, tmp_path: Path) -> None:
    content, arrays = case("adapted")
    bundle = Path(shutil.copytree(KIT / content["bundle"], tmp_path / "bundle"))
    description = json.loads((bundle / "bundle.json").read_text())
    description["dense"].update(unsplit=True, answers_full=False)
    (bundle / "bundle.json").write_text(json.dumps(description))
    if not there:
        (bundle / "dense.onnx").unlink()
    compare(cpp, bundle, arrays.get_all(content["inputs"]), tmp_path)


def test_weights_beside_the_graph(cpp: Programs, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="making such a file takes onnx")
    bundle = Path(shutil.copytree(FIXTURES / "exported", tmp_path / "bundle"))
    description = json.loads((bundle / "bundle.json").read_text())
    (stage,) = description["stages"]
    model = onnx.load(bundle / stage["file"])
    onnx.save(
        model, bundle / stage["file"], save_as_external_data=True, location="weights.onnx.data", size_threshold=200
    )
    stage["sha256"] = hashlib.sha256((bundle / stage["file"]).read_bytes()).hexdigest()
    data = hashlib.sha256((bundle / "weights.onnx.data").read_bytes()).hexdigest()
    stage["external_data"] = [{"file": "weights.onnx.data", "sha256": data}]
    (bundle / "bundle.json").write_text(json.dumps(description))
    pictures = np.random.RandomState(5).uniform(0, 1, (9, 1, 4, 4)).astype(np.float32)
    compare(cpp, bundle, {"pixels": pictures}, tmp_path)
    (bundle / "weights.onnx.data").write_bytes(b"x" + (bundle / "weights.onnx.data").read_bytes()[1:])
    reply = cpp.ask([{"op": "load", "bundle": str(bundle)}], tmp_path).replies[0]
    assert reply["error"] == "bundle" and "'weights.onnx.data' was changed or damaged" in reply["text"]


def test_an_exported_network(cpp: Programs, tmp_path: Path) -> None:
    pictures = np.random.RandomState(4).uniform(0, 1, (33, 1, 4, 4)).astype(np.float32)
    compare(cpp, FIXTURES / "exported", {"pixels": pictures}, tmp_path)
