"""Holds a runtime against the kit; here it is the Python one, on any of its engines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adaptrt import AdaptrtError
from adaptrt.runtime import AdaptiveModel, Result, load
from adaptrt.runtime.control.budget_table import look_up
from tests.conformance.kit import Array, ArrayReader, budget_of, knobs_of, plain, read_json
from tests.conformance.traces import replay

FLOATS = 1e-4
"""Largest difference of outputs, absolute or of the value."""
WORK = 1e-5
EXPECTED = 1e-9


class Mismatch(Exception):  # noqa: N818 - an expectation of the kit that is not met
    """What was expected, and what came."""


def require(fine: object, where: str, got: object, expected: object) -> None:
    """Raise ``Mismatch`` unless all is well."""
    if not fine:
        raise Mismatch(f"{where}: got {got}, expected {expected}")


def check_case(model: AdaptiveModel, content: Mapping[str, Any], arrays: ArrayReader) -> int:
    """Check all runs and look-ups of a bundle; how many comparisons there were.

    Raises:
        Mismatch: one differs.
    """
    inputs, compared = arrays.get_all(content["inputs"]), 0
    for number, run in enumerate(content["runs"]):
        where = f"{content['name']} run {number}"
        expected = run["expected"]
        result = _run(model, inputs, run)
        require(_same_knobs(result.knobs, knobs_of(expected["knobs"]), model), where, result.knobs, expected["knobs"])
        require(result.reachable == expected["reachable"], where, result.reachable, expected["reachable"])
        _check_result(where, result, expected, arrays, slice(None))
        if "decisions" in run:
            told = model.run(inputs, knobs=result.knobs, decisions=True).decisions
            for name, entry in run["decisions"].items():
                for kind, array in arrays.get_all(entry).items():
                    got = getattr(told.sets[name], kind) if told is not None else None
                    require(np.array_equal(got, array), f"{where} {name} {kind}", got, array)
        for rows in (slice(0, 1), slice(2, 3), slice(0, 0), slice(1, 6)):
            fewer = {name: a[rows] if name in content["batch"] else a for name, a in inputs.items()}
            _check_result(f"{where} samples {rows}", _run(model, fewer, run), expected, arrays, rows)
        compared += 1
    return compared + _check_look_ups(model, content)


def _run(model: AdaptiveModel, inputs: Mapping[str, Array], run: Mapping[str, Any]) -> Result:
    if "budget" in run:
        return model.run(inputs, budget=budget_of(run["budget"]))
    return model.run(inputs, knobs=knobs_of(run["knobs"]))


def _check_result(where: str, result: Result, expected: Mapping[str, Any], arrays: ArrayReader, rows: slice) -> None:
    wanted = arrays.get_all(expected["outputs"])
    require(list(result.outputs) == list(wanted), where, list(result.outputs), list(wanted))
    for name, array in wanted.items():
        got, array = result.outputs[name], array[rows]
        require((got.dtype, got.shape) == (array.dtype, array.shape), f"{where} {name}", got.shape, array.shape)
        limit = FLOATS if array.dtype.kind == "f" else 0
        require(np.allclose(got, array, rtol=limit, atol=limit), f"{where} {name}", got, array)
    work = arrays.get(expected["macs_fraction"])[rows]
    fine = work.shape == result.macs_fraction.shape and np.allclose(result.macs_fraction, work, rtol=0, atol=WORK)
    require(fine, f"{where} macs_fraction", result.macs_fraction, work)
    left = None if result.exit is None else result.exit.tolist()
    stages = None if expected["exit"] is None else expected["exit"][rows]
    require(left == stages, f"{where} exit", left, stages)


def _same_knobs(got: Mapping[str, Any], expected: Mapping[str, Any], model: AdaptiveModel) -> bool:
    """Whether the graphs get the same values."""
    return got.keys() == expected.keys() and all(
        np.array_equal(
            *(np.broadcast_to(np.asarray(values[knob.name], knob.dtype), knob.shape) for values in (got, expected))
        )
        for knob in model.bundle.knobs
    )


def _check_look_ups(model: AdaptiveModel, content: Mapping[str, Any]) -> int:
    table = model.bundle.budget_table
    dtypes = {knob.name: knob.dtype for knob in model.bundle.knobs}
    for entry in content["look_ups"]:
        where = f"{content['name']} {entry['table']} share {entry['share']}"
        require(table is not None, where, "no table", "one")
        assert table is not None
        answer = look_up(table.soft if entry["table"] == "soft" else table.hard, entry["share"], dtypes)
        expected = knobs_of(entry["knobs"])
        require(_same_knobs(answer.knobs, expected, model), where, plain(answer.knobs), entry["knobs"])
        for key in ("work", "quality"):
            got, wanted = getattr(answer, key), entry[key]
            fine = got is wanted or (got is not None and wanted is not None and abs(got - wanted) <= EXPECTED)
            require(fine, f"{where} {key}", got, wanted)
        require(answer.reachable == entry["reachable"], where, answer.reachable, entry["reachable"])
    return len(content["look_ups"])


def check_refused_calls(kit: Path, models: Callable[[str], AdaptiveModel]) -> int:
    """Check that wrong inputs, budgets and knobs are refused; how many there were.

    Raises:
        Mismatch: one is not.
    """
    content = read_json(kit / "refused.json")
    arrays = ArrayReader((kit / content["arrays"]).read_bytes())
    for entry in content["inputs"]:
        _refused(entry["why"], lambda one=entry: models(one["case"]).run(arrays.get_all(one["inputs"])))
    for entry in content["requests"]:
        case = read_json(kit / "cases" / f"{entry['case']}.json")
        inputs = ArrayReader((kit / "cases" / case["arrays"]).read_bytes()).get_all(case["inputs"])
        _refused(entry["why"], lambda one=entry, fed=inputs: _run(models(one["case"]), fed, one))
    return len(content["inputs"]) + len(content["requests"])


def check_damaged(kit: Path, scratch: Path, bundles: Mapping[str, str]) -> int:
    """Check that damaged bundles are refused; how many there were.

    Raises:
        Mismatch: one is loaded.
    """
    entries = read_json(kit / "refused.json")["bundles"]
    for number, entry in enumerate(entries):
        folder = scratch / str(number)
        shutil.copytree(kit / bundles[entry["case"]], folder)
        assert load(folder, threads=1), "whole it is fine"
        if "bundle_json" in entry:
            shutil.copy(kit / entry["bundle_json"], folder / "bundle.json")
        else:
            _damage(folder / entry["file"], entry)
        _refused(entry["why"], lambda damaged=folder: load(damaged, threads=1))
    return len(entries)


def _damage(file: Path, entry: Mapping[str, Any]) -> None:
    content = bytearray(file.read_bytes())
    if "truncate" in entry:
        file.write_bytes(content[: entry["truncate"]])
    elif "flip" in entry:
        content[entry["flip"]] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()


def _refused(why: str, call: Callable[[], object]) -> None:
    try:
        call()
    except AdaptrtError as error:
        require("\n" not in str(error), why, str(error), "one line")
        return
    raise Mismatch(f"{why}: got an answer, expected it to be refused")


def check_trace(path: Path) -> int:
    """Check a trace of the controller; how many calls it has.

    Raises:
        Mismatch: a choice differs.
    """
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    largest, flags = replay(lines)
    require(largest <= lines[0]["tolerance"] and not flags, path.name, (largest, flags), (lines[0]["tolerance"], 0))
    return len(lines) - 1


def cases(kit: Path) -> Iterator[tuple[dict[str, Any], ArrayReader]]:
    """Every bundle of the kit with its arrays."""
    for entry in read_json(kit / "index.json")["cases"]:
        content = read_json(kit / entry["file"])
        yield content, ArrayReader((kit / "cases" / content["arrays"]).read_bytes())
