"""The Python runtime passes its own kit on every engine at hand; the check fails where an expectation is altered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptrt.runtime import AdaptiveModel, load
from tests.conformance import check
from tests.conformance.kit import INDEX, KIT, ArrayReader, read_json
from tests.prepared_engines import prepare, require_openvino

NAMES = [entry["name"] for entry in read_json(KIT / INDEX)["cases"]]
TRACES = read_json(KIT / INDEX)["traces"]
pytestmark = pytest.mark.filterwarnings("ignore:calls under this soft budget")


def case(name: str) -> tuple[dict[str, Any], ArrayReader]:
    content = read_json(KIT / "cases" / f"{name}.json")
    return content, ArrayReader((KIT / "cases" / content["arrays"]).read_bytes())


@pytest.fixture(scope="session")
def models() -> Callable[[str], AdaptiveModel]:
    """Every bundle of the kit, loaded once."""
    loaded: dict[str, AdaptiveModel] = {}

    def model(name: str) -> AdaptiveModel:
        if name not in loaded:
            loaded[name] = load(KIT / case(name)[0]["bundle"], threads=1)
        return loaded[name]

    return model


@pytest.mark.parametrize("name", NAMES)
def test_onnxruntime_passes(name: str, models: Callable[[str], AdaptiveModel]) -> None:
    content, arrays = case(name)
    assert check.check_case(models(name), content, arrays) == len(content["runs"]) + len(content["look_ups"])


@pytest.mark.parametrize("name", NAMES)
def test_openvino_passes(name: str, tmp_path: Path) -> None:
    require_openvino()
    content, arrays = case(name)
    folder = Path(shutil.copytree(KIT / content["bundle"], tmp_path / name))
    prepare(folder)
    assert check.check_case(load(folder, threads=1, backend="openvino"), content, arrays)


def test_what_must_be_refused_is(models: Callable[[str], AdaptiveModel], tmp_path: Path) -> None:
    assert check.check_refused_calls(KIT, models) > 20
    assert check.check_damaged(KIT, tmp_path, {name: case(name)[0]["bundle"] for name in NAMES}) > 30


@pytest.mark.parametrize("file", TRACES)
def test_traces_are_replayed(file: str) -> None:
    assert check.check_trace(KIT / file) == 500


def test_the_kit_has_something_of_everything() -> None:
    contents = [case(name)[0] for name in NAMES]
    runs = [run for content in contents for run in content["runs"]]
    assert {run["budget"]["kind"] for run in runs if "budget" in run} == {"fraction", "macs", "full"}
    assert {run["budget"].get("hard") for run in runs if "budget" in run} >= {True, False}
    assert {run["expected"]["reachable"] for run in runs} == {True, False}
    assert {stage for run in runs for stage in run["expected"]["exit"] or []} == {0, 1, 2}
    assert sum("decisions" in run for run in runs) > 3
    criteria = {json.loads((KIT / c["bundle"] / "bundle.json").read_text())["exit_criterion"] for c in contents}
    assert criteria == {None, "max_softmax", "entropy", "certainty", "patience"}
    ranks = {len(array["shape"]) for run in runs for array in run["expected"]["outputs"].values()}
    assert ranks == {1, 2, 3, 4}
    calls = [json.loads(line) for file in TRACES for line in (KIT / file).read_text().splitlines()[1:]]
    reachable, cold, steered, measured, target = (
        {call[index] is not None if index > 8 else call[index] for call in calls} for index in (5, 6, 7, 10, 11)
    )
    assert reachable == steered == measured == target == {True, False} and cold == {None, 0, 1, 2}
    assert sum(path.stat().st_size for path in KIT.rglob("*") if path.is_file()) < 3_000_000


ALTERED: dict[str, Callable[[dict[str, Any]], object]] = {
    "a knob": lambda run: run["expected"]["knobs"].update(price=0.987),
    "an exit": lambda run: run["expected"]["exit"].__setitem__(0, run["expected"]["exit"][0] ^ 1),
    "whether it is met": lambda run: run["expected"].update(reachable=not run["expected"]["reachable"]),
    "an output's place": lambda run: run["expected"]["outputs"]["map"].update(
        offset=run["expected"]["outputs"]["map"]["offset"] + 4
    ),
    "an output's name": lambda run: run["expected"]["outputs"].update(heat=run["expected"]["outputs"].pop("map")),
    "the work": lambda run: run["expected"]["macs_fraction"].update(offset=run["expected"]["outputs"]["map"]["offset"]),
}


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED)
def test_an_altered_expectation_is_noticed(
    alter: Callable[[dict[str, Any]], object], models: Callable[[str], AdaptiveModel]
) -> None:
    content, arrays = case("map")
    alter(content["runs"][2])
    with pytest.raises(check.Mismatch):
        check.check_case(models("map"), content, arrays)


@pytest.mark.parametrize("key,value", [("work", 0.4), ("quality", 0.1), ("reachable", False), ("knobs", {})])
def test_an_altered_look_up_is_noticed(key: str, value: object, models: Callable[[str], AdaptiveModel]) -> None:
    content, arrays = case("map")
    content["look_ups"][-1][key] = value
    with pytest.raises(check.Mismatch):
        check.check_case(models("map"), content, arrays)


@pytest.mark.parametrize("name", ["map", "exits_certainty"])
def test_every_array_counts(name: str, models: Callable[[str], AdaptiveModel]) -> None:
    """A value of any array that is expected, altered, is noticed."""
    content, _ = case(name)
    binary = bytearray((KIT / "cases" / content["arrays"]).read_bytes())
    entries = [
        entry
        for run in content["runs"][::3]
        for entry in (
            *run["expected"]["outputs"].values(),
            run["expected"]["macs_fraction"],
            *(array for told in run.get("decisions", {}).values() for array in told.values()),
        )
    ]
    for entry in entries:
        changed = bytearray(binary)
        size = np.dtype(entry["dtype"]).itemsize
        changed[entry["offset"] + size - 1] ^= 1 if entry["dtype"] == "bool" else 0x41
        with pytest.raises(check.Mismatch):
            check.check_case(models(name), content, ArrayReader(bytes(changed)))


def test_altered_traces_and_what_is_not_refused_are_noticed(
    tmp_path: Path, models: Callable[[str], AdaptiveModel]
) -> None:
    for index, change in ((2, lambda f: f + 0.01), (5, lambda reachable: not reachable), (10, lambda m: (m or 5) * 3)):
        lines = [json.loads(line) for line in (KIT / TRACES[0]).read_text().splitlines()]
        lines[40][index] = change(lines[40][index])
        path = tmp_path / "trace.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)))
        with pytest.raises(check.Mismatch):
            check.check_trace(path)
    kit = Path(shutil.copytree(KIT, tmp_path / "tests" / "conformance" / "kit"))
    content = json.loads((kit / "refused.json").read_text())
    content["requests"] = [{"why": "fine", "case": "map", "budget": {"kind": "full"}}]
    (kit / "refused.json").write_text(json.dumps(content))
    with pytest.raises(check.Mismatch, match="fine: got an answer"):
        check.check_refused_calls(kit, models)
    content["bundles"] = [{"why": "whole", "case": "map", "bundle_json": "bundles/map/bundle.json"}]
    (kit / "refused.json").write_text(json.dumps(content))
    with pytest.raises(check.Mismatch, match="whole: got an answer"):
        check.check_damaged(kit, tmp_path / "scratch", {"map": "bundles/map"})


def test_the_kit_is_what_its_script_makes(tmp_path: Path) -> None:
    """To the byte but for what an engine or the C library computed, whose last bits differ from machine to machine."""
    pytest.importorskip("onnx", reason="making bundles takes onnx")
    from tests.conformance.make import make

    (tmp_path / "tests" / "runtime").mkdir(parents=True)
    (tmp_path / "tests" / "runtime" / "fixtures").symlink_to(KIT.parents[1] / "runtime" / "fixtures")
    kit = tmp_path / "tests" / "conformance" / "kit"
    kit.mkdir(parents=True)
    make(kit)
    anew, kept = ({path.relative_to(root) for path in root.rglob("*") if path.is_file()} for root in (kit, KIT))
    assert anew == kept
    computed = {
        "cases",
        "traces",
        *(f"bundles/{name}/bundle.json" for name in ("exits_entropy", "exits_patience", "adapted")),
    }
    for name in sorted(anew):
        if name.parts[0] not in computed and name.as_posix() not in computed:
            same = (kit / name).read_bytes() == (KIT / name).read_bytes()
            assert same, f"{name}: run python -m tests.conformance.make"
