"""The C++ runtime against Python on every case of the kit: outputs to the bit, exits, shares and knobs equal.

``make cpp-test-versions`` runs this with libraries of other versions, where outputs are within 2e-5.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptrt.runtime import AdaptiveModel, Result, load
from tests.conformance.kit import INDEX, KIT, Array, ArrayReader, budget_of, knobs_of, plain, read_json
from tests.cpp.programs import Answered, Fed, Programs, onnxruntime_library, packaged_library, same

NAMES = [entry["name"] for entry in read_json(KIT / INDEX)["cases"]]
TOLERANCE = 2e-5
"""Between versions of ONNX Runtime, whose kernels round differently."""
SAMPLES = (slice(None), slice(0, 1), slice(2, 3), slice(0, 0), slice(1, 6))
pytestmark = pytest.mark.filterwarnings("ignore:calls under this soft budget")


def case(name: str) -> tuple[dict[str, Any], ArrayReader]:
    content = read_json(KIT / "cases" / f"{name}.json")
    return content, ArrayReader((KIT / "cases" / content["arrays"]).read_bytes())


def run_python(model: AdaptiveModel, inputs: dict[str, Any], run: dict[str, Any]) -> Result:
    if "budget" in run:
        return model.run(inputs, budget=budget_of(run["budget"]))
    return model.run(inputs, knobs=knobs_of(run["knobs"]))


def alike(got: Array, expected: Array) -> bool:
    """Whether an array is Python's: to the bit with the same library, within 2e-5 with one of another version."""
    if onnxruntime_library() == packaged_library():
        return same(got, expected)
    if got.dtype != expected.dtype or got.shape != expected.shape:
        return False
    return bool(np.allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))


def check(answered: Answered, reply: dict[str, Any], expected: Result, where: str) -> None:
    assert reply.get("ok"), f"{where}: {reply}"
    outputs = answered.outputs(reply)
    assert list(outputs) == [*expected.outputs, "macs_fraction"], where
    for name, array in {**expected.outputs, "macs_fraction": expected.macs_fraction}.items():
        assert alike(outputs[name], array), f"{where} {name}: {outputs[name]} {array}"
    assert reply.get("exit") == (None if expected.exit is None else expected.exit.tolist()), where
    assert reply["reachable"] == expected.reachable, where
    assert reply["knobs"] == plain(expected.knobs), where


def everything(cpp: Programs, name: str, scratch: Path) -> int:
    content, arrays = case(name)
    model, inputs = load(KIT / content["bundle"], threads=1), arrays.get_all(content["inputs"])
    fed = Fed(scratch / "fed.bin")
    requests: list[dict[str, Any]] = [{"op": "load", "bundle": str(KIT / content["bundle"])}]
    expected: list[tuple[str, Result]] = []
    for number, run in enumerate(content["runs"]):
        for rows in SAMPLES:
            fewer = {key: a[rows] if key in content["batch"] else a for key, a in inputs.items()}
            how = {key: run[key] for key in ("budget", "knobs") if key in run}
            requests.append({"op": "run", **how, **fed.inputs(fewer)})
            expected.append((f"{name} run {number} samples {rows}", run_python(model, fewer, run)))
    if content["look_ups"]:
        requests.append({"op": "look_up", "look_ups": content["look_ups"]})
    fed.write()
    answered = cpp.ask(requests, scratch)
    assert answered.replies[0].get("ok"), answered.replies[0]
    for reply, (where, result) in zip(answered.replies[1:], expected, strict=False):
        check(answered, reply, result, where)
    if content["look_ups"]:
        for answer, entry in zip(answered.replies[-1]["answers"], content["look_ups"], strict=True):
            wanted = {key: entry[key] for key in ("knobs", "work", "quality", "reachable")}
            assert answer == wanted, f"{name} {entry['table']} share {entry['share']}"
    return len(expected)


@pytest.mark.parametrize("name", NAMES)
def test_every_run_gives_the_bytes_of_python(name: str, cpp: Programs, tmp_path: Path) -> None:
    assert everything(cpp, name, tmp_path) > len(SAMPLES)


def test_a_wrong_expectation_is_noticed(cpp: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python computed, changed in one bit of one output (or by more than rounding), is no longer what came."""
    honest: Callable[..., Result] = run_python

    def changed(*words: Any) -> Result:
        result = honest(*words)
        if result.macs_fraction.size == 1:
            name, array = next(iter(result.outputs.items()))
            bits = array.copy()
            bits.view(np.uint8).flat[0] ^= 1
            other_version = onnxruntime_library() != packaged_library()
            result.outputs[name] = array + 10 * TOLERANCE if other_version else bits
        return result

    monkeypatch.setitem(globals(), "run_python", changed)
    with pytest.raises(AssertionError):
        everything(cpp, "exits_max_softmax", tmp_path)


@pytest.mark.parametrize("file", read_json(KIT / INDEX)["traces"])
def test_the_controllers_traces_are_replayed(file: str, cpp: Programs, tmp_path: Path) -> None:
    (reply,) = cpp.ask([{"op": "trace", "file": str(KIT / file)}], tmp_path).replies
    assert reply["flags"] == 0 and reply["largest"] <= 1e-9 and reply["calls"] == 500


def test_an_altered_trace_is_noticed(cpp: Programs, tmp_path: Path) -> None:
    lines = (KIT / "traces" / "drift.jsonl").read_text().splitlines()
    (tmp_path / "trace.jsonl").write_text("\n".join([lines[0], *lines[10:]]))
    (reply,) = cpp.ask([{"op": "trace", "file": str(tmp_path / "trace.jsonl")}], tmp_path).replies
    assert reply["flags"] or reply["largest"] > 1e-9


def test_threads_with_budgets_of_their_own_do_not_disturb_each_other(cpp: Programs, tmp_path: Path) -> None:
    content, arrays = case("exits_max_softmax")
    fed, inputs = Fed(tmp_path / "fed.bin"), arrays.get_all(content["inputs"])
    calls = [{**fed.inputs(inputs), "budget": run["budget"]} for run in content["runs"] if "budget" in run]
    fed.write()
    load_it = {"op": "load", "bundle": str(KIT / content["bundle"])}
    requests: list[dict[str, Any]] = [load_it, {"op": "threads", "calls": calls, "times": 100}]
    assert cpp.ask(requests, tmp_path).replies[1] == {"differing": 0}
