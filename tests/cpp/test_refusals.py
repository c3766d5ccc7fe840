"""What must be refused is, in Python's words: inputs, budgets, knobs, and bundles that are damaged."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptrt import AdaptrtError
from adaptrt.runtime import load
from tests.conformance.check import _damage
from tests.conformance.kit import KIT, ArrayReader, read_json
from tests.cpp.programs import Fed, Programs
from tests.cpp.test_conformance import case, run_python

REFUSED = read_json(KIT / "refused.json")
KINDS = {"BundleError": "bundle", "InputError": "input", "BudgetError": "budget", "BackendError": "backend"}
OWN_REMEDY = re.compile(r"; (convert it|add the missing|reshape|it is a view|write one of|pass x|.*Budget[.:]).*$")
"""What to do is said in the language's own terms for arrays and budgets; what was got and expected is the same."""


def python_says(call: Any) -> tuple[str, str]:
    with pytest.raises(AdaptrtError) as raised:
        call()
    return KINDS[type(raised.value).__name__], str(raised.value)


def check_refused(reply: dict[str, Any], expected: tuple[str, str], why: str) -> None:
    assert "ok" not in reply, f"{why}: got an answer, expected it to be refused"
    kind, text = expected
    assert reply["error"] == kind and "\n" not in reply["text"], f"{why}: {reply}"
    got, wanted = (OWN_REMEDY.sub("", one) for one in (reply["text"], text))
    assert got == wanted, why


def test_calls_are_refused_in_the_same_words(cpp: Programs, tmp_path: Path) -> None:
    arrays = ArrayReader((KIT / REFUSED["arrays"]).read_bytes())
    by_case: dict[str, list[tuple[dict[str, Any], Any, Any]]] = {}
    for entry in REFUSED["inputs"]:
        inputs = arrays.get_all(entry["inputs"])
        by_case.setdefault(entry["case"], []).append((entry, inputs, lambda m, i=inputs: m.run(i)))
    for entry in REFUSED["requests"]:
        content, of_case = case(entry["case"])
        inputs = of_case.get_all(content["inputs"])
        by_case.setdefault(entry["case"], []).append((entry, inputs, lambda m, i=inputs, e=entry: run_python(m, i, e)))
    for name, entries in by_case.items():
        folder = KIT / case(name)[0]["bundle"]
        fed = Fed(tmp_path / name / "fed.bin")
        requests: list[dict[str, Any]] = [{"op": "load", "bundle": str(folder)}]
        for entry, inputs, _ in entries:
            how: dict[str, Any] = {key: entry[key] for key in ("budget", "knobs") if key in entry}
            requests.append({"op": "run", **how, **fed.inputs(inputs)})
        fed.write()
        replies, model = cpp.ask(requests, tmp_path / name).replies[1:], load(folder, threads=1)
        for reply, (entry, _, call) in zip(replies, entries, strict=True):
            check_refused(reply, python_says(lambda: call(model)), entry["why"])  # noqa: B023 - called at once


def test_damaged_bundles_are_refused_in_the_same_words(cpp: Programs, tmp_path: Path) -> None:
    requests, expected = [], []
    for number, entry in enumerate(REFUSED["bundles"]):
        folder = tmp_path / str(number)
        shutil.copytree(KIT / case(entry["case"])[0]["bundle"], folder)
        if "bundle_json" in entry:
            shutil.copy(KIT / entry["bundle_json"], folder / "bundle.json")
        else:
            _damage(folder / entry["file"], entry)
        requests.append({"op": "load", "bundle": str(folder)})
        expected.append((entry["why"], python_says(lambda: load(folder, threads=1))))  # noqa: B023 - called at once
    for reply, (why, said) in zip(cpp.ask(requests, tmp_path).replies, expected, strict=True):
        if why == "a bundle.json that ends in the middle":  # the JSON reader says where in its own words
            assert reply["error"] == "bundle" and "not readable as JSON" in reply["text"]
        else:
            check_refused(reply, said, why)


@pytest.mark.parametrize(
    "budget", [{"kind": "fraction", "value": None}, {"kind": "macs", "value": -1.0}, {"kind": "latency", "value": 0.0},
               {"kind": "latency", "value": 5.0, "percentile": 0.2}]
)  # fmt: skip
def test_budgets_that_make_no_sense(budget: dict[str, Any], cpp: Programs, tmp_path: Path) -> None:
    requests: list[dict[str, Any]] = [
        {"op": "load", "bundle": str(KIT / case("exits_max_softmax")[0]["bundle"])},
        {"op": "budget", "budget": budget},
    ]
    reply = cpp.ask(requests, tmp_path).replies[1]
    assert reply["error"] == "budget" and "expected" in reply["text"]


def test_what_is_no_folder_no_bundle_and_no_library(cpp: Programs, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "no_library.so").write_bytes(b"\x7fELF")
    for name in ("nowhere", "empty", "file"):
        reply = cpp.ask([{"op": "load", "bundle": str(tmp_path / name)}], tmp_path / "scratch").replies[0]
        check_refused(reply, python_says(lambda: load(tmp_path / name)), name)  # noqa: B023 - called at once
    bundle = str(KIT / case("one_stage")[0]["bundle"])
    for library in ("/nowhere/libonnxruntime.so", str(tmp_path / "no_library.so")):
        reply = cpp.ask([{"op": "load", "bundle": bundle, "library": library}], tmp_path / "scratch").replies[0]
        assert reply["error"] == "backend" and "1.21 or newer" in reply["text"]


def test_links_that_leave_the_folder(cpp: Programs, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(KIT / case("one_stage")[0]["bundle"], tmp_path / "bundle"))
    model = next(folder.glob("*.onnx"))
    outside = tmp_path / "outside.onnx"
    model.rename(outside)
    model.symlink_to(outside)
    reply = cpp.ask([{"op": "load", "bundle": str(folder)}], tmp_path / "scratch").replies[0]
    check_refused(reply, python_says(lambda: load(folder)), "a link")


def test_graphs_that_keep_weights_elsewhere(cpp: Programs, tmp_path: Path) -> None:
    """An ONNX file that refers to a file outside is refused before ONNX Runtime sees it."""
    import hashlib
    import json

    onnx = pytest.importorskip("onnx", reason="making such a file takes onnx")
    folder = Path(shutil.copytree(KIT / case("one_stage")[0]["bundle"], tmp_path / "bundle"))
    content = json.loads((folder / "bundle.json").read_text())
    file = folder / content["stages"][0]["file"]
    model = onnx.load(file)
    tensor = model.graph.initializer.add(name="weights", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="../secret")
    file.write_bytes(model.SerializeToString())
    content["stages"][0]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(content))
    reply = cpp.ask([{"op": "load", "bundle": str(folder)}], tmp_path / "scratch").replies[0]
    check_refused(reply, python_says(lambda: load(folder)), "weights elsewhere")


def test_format_1_is_read_where_nothing_is_missing(cpp: Programs, tmp_path: Path) -> None:
    folder = KIT.parents[1] / "runtime" / "fixtures" / "format_1"
    bundles = [path.parent for path in sorted(folder.rglob("bundle.json"))]
    assert bundles
    for number, bundle in enumerate(bundles):
        reply = cpp.ask([{"op": "load", "bundle": str(bundle)}], tmp_path / str(number)).replies[0]
        try:
            load(bundle, threads=1)
        except AdaptrtError as error:
            assert reply["text"] == str(error)
        else:
            assert reply.get("ok"), reply


def test_a_second_array_of_a_name_is_no_input(cpp: Programs, tmp_path: Path) -> None:
    content, arrays = case("one_stage")
    fed, inputs = Fed(tmp_path / "fed.bin"), arrays.get_all(content["inputs"])
    request = {"op": "run", **fed.inputs({**inputs, "y": np.zeros((1, 1), np.float32)})}
    fed.write()
    replies = cpp.ask([{"op": "load", "bundle": str(KIT / content["bundle"])}, request], tmp_path).replies
    assert replies[1]["error"] == "input" and "expected exactly 'x'" in replies[1]["text"]
