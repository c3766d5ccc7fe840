"""Budgets of latency: profiled, kept, obeyed; deadlines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conformance.kit import KIT
from tests.cpp.programs import Fed, Programs
from tests.cpp.test_conformance import case

BUNDLE = KIT.parents[1] / "runtime" / "fixtures" / "exits"


def calls(scratch: Path, *hows: dict[str, Any], samples: int = 10) -> list[dict[str, Any]]:
    content, arrays = case("exits_max_softmax")
    inputs = arrays.get_all(content["inputs"])
    inputs = {name: a[:samples] if name in content["batch"] else a for name, a in inputs.items()}
    fed = Fed(scratch / "fed.bin")
    requests = [{"op": "load", "bundle": str(BUNDLE)}, *({"op": "run", **fed.inputs(inputs), **how} for how in hows)]
    fed.write()
    return requests


def ask(cpp: Programs, requests: list[dict[str, Any]], scratch: Path) -> list[dict[str, Any]]:
    replies = cpp.ask(requests, scratch, environment={"ADAPTRT_CACHE": str(scratch / "cache")}).replies
    for reply in replies:
        assert "ok" in reply, reply
    return replies


def test_a_profile_is_measured_once_and_kept(cpp: Programs, tmp_path: Path) -> None:
    generous = {"budget": {"kind": "latency", "value": 1e4}}
    requests = calls(tmp_path, generous, generous)
    first, second = ask(cpp, requests, tmp_path)[1:]
    for reply in (first, second):
        assert reply["reachable"] and reply["expected"] > 0 and reply["knobs"]["exit_thresholds"] is None
    (kept,) = (tmp_path / "cache" / "profiles").iterdir()
    profile = json.loads(kept.read_text())
    assert profile["key"]["batch"] == 10 and len(profile["points"]) == 9 and len(profile["cold"]) == 3
    changed = kept.stat().st_mtime_ns
    ask(cpp, requests, tmp_path)
    assert kept.stat().st_mtime_ns == changed


@pytest.mark.parametrize("damage", ["{", "[]", '{"format_version": 2}', ""])
def test_a_damaged_profile_is_measured_again(damage: str, cpp: Programs, tmp_path: Path) -> None:
    requests = calls(tmp_path, {"budget": {"kind": "latency", "value": 1e4}})
    requests.insert(1, {"op": "profile", **{key: requests[1][key] for key in ("arrays", "inputs")}, "seconds": 0.01})
    ask(cpp, requests, tmp_path)
    (kept,) = (tmp_path / "cache" / "profiles").iterdir()
    kept.write_text(damage)
    ask(cpp, [requests[0], *requests[2:]], tmp_path)
    assert json.loads(kept.read_text())["format_version"] == 2


def test_a_budget_that_cannot_be_met_runs_the_cheapest_point(cpp: Programs, tmp_path: Path) -> None:
    requests = calls(tmp_path, {"budget": {"kind": "latency", "value": 1e-5}}, {})
    requests.insert(2, {"op": "budget", "budget": {"kind": "latency", "value": 1e-5}})
    own, _, models = ask(cpp, requests, tmp_path)[1:]
    for reply in (own, models):
        assert not reply["reachable"] and reply["knobs"]["exit_thresholds"] == [0.0, 0.0]
        assert "got a budget of 1e-05 ms for 0.95 of the calls, but the cheapest" in reply["message"]


def test_the_models_budget_is_held_by_its_controller(cpp: Programs, tmp_path: Path) -> None:
    """Other batch sizes than the profiled one too; empty batches need no profile."""
    requests = calls(tmp_path, *[{}] * 40)
    requests.insert(1, {"op": "budget", "budget": {"kind": "latency", "value": 1e4}})
    replies = ask(cpp, requests, tmp_path)[2:]
    assert all(reply["reachable"] and reply["expected"] > 0 for reply in replies)
    fewer = calls(tmp_path, *[{}] * 20, samples=3)
    empty = calls(tmp_path / "empty", {}, samples=0)
    replies = ask(cpp, [*requests[:3], *fewer[1:], *empty[1:]], tmp_path)
    assert replies[-1]["macs_fraction"]["shape"] == [0] and "expected" not in replies[-1]


def test_a_bundle_without_a_curve_has_no_latency_budget(cpp: Programs, tmp_path: Path) -> None:
    budget = {"op": "budget", "budget": {"kind": "latency", "value": 5.0}}
    reply = cpp.ask([{"op": "load", "bundle": str(KIT / case("tags")[0]["bundle"])}, budget], tmp_path).replies[1]
    assert reply["error"] == "budget" and "no calibrated curve" in reply["text"]


def test_deadlines(cpp: Programs, tmp_path: Path) -> None:
    """Enough time: what a call without one gives. Hardly any: everybody leaves at the first head, and it is said."""
    requests = calls(
        tmp_path, {}, {"deadline_ms": 1e6}, {"deadline_ms": 1e-6}, {"deadline_ms": 1e-6, "knobs": {"price": 0.5}}
    )
    answered = cpp.ask(requests, tmp_path)
    plain, patient, late, knobs = answered.replies[1:]
    assert patient["deadline_met"] and patient["exit"] == plain["exit"]
    for name, array in answered.outputs(plain).items():
        assert np.array_equal(array, answered.outputs(patient)[name])
    assert late["deadline_met"] is False and late["exit"] == [0] * 10
    assert knobs["exit"] == [0] * 10
    one_stage = {"op": "load", "bundle": str(KIT / case("one_stage")[0]["bundle"])}
    fed = Fed(tmp_path / "one.bin")
    content, arrays = case("one_stage")
    run = {"op": "run", **fed.inputs(arrays.get_all(content["inputs"])), "deadline_ms": 5.0}
    fed.write()
    refused = cpp.ask([one_stage, run], tmp_path).replies[1]
    assert refused["error"] == "budget" and "no exits to answer early at" in refused["text"]
    for wrong in (0.0, -1.0):
        replies = cpp.ask(calls(tmp_path, {"deadline_ms": wrong}), tmp_path).replies
        assert replies[1]["error"] == "budget" and "a finite number above 0" in replies[1]["text"]
