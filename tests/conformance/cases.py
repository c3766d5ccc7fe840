"""Records what the Python runtime does with each bundle, on samples none of whose decisions is near a tie."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from adaptrt.runtime import AdaptiveModel, Result, load
from adaptrt.runtime.bundle.bundle_file import BudgetRow, Knob
from adaptrt.runtime.control.budget_table import look_up
from adaptrt.runtime.plan import runs_everything
from tests import own_outputs_bundle
from tests.conformance.kit import Array, ArrayWriter, budget_of, knobs_of, plain
from tests.runtime.staged_reference import eighths

SAMPLES = 10
_CANDIDATES = 400
_LOOK_UPS = 40
_SLIGHT = 1e-3
_CLOSE = 1e-2

Inputs = dict[str, Array]


@dataclass(frozen=True)
class Case:
    """A bundle of the kit.

    Attributes:
        name: of it.
        bundle: its folder, relative to the kit's.
        draw: makes inputs of so many samples.
        knobs: values to run beside the budgets.
        exact: knobs whose exact values matter, and which are therefore not moved to look for ties.
    """

    name: str
    bundle: str
    draw: Callable[[int], Inputs]
    knobs: list[dict[str, Any]] = field(default_factory=list)
    exact: tuple[str, ...] = ()


def _exits(count: int) -> Inputs:
    return {"x": eighths(41, count, 6), "hint": eighths(42, count, 2), "scale": np.ones(1, np.float32)}


def _texts(count: int) -> Inputs:
    draw = np.random.RandomState(6)
    mask = np.arange(9) < draw.randint(1, 10, count)[:, None]
    words = draw.randint(0, 40, (count, 9)).astype(np.int64)
    return {"words": words, "mask": mask, "style": eighths(43, count, 2)}


_THRESHOLDS = [[0.45, 0.45], [0.6, 9.0], [math.inf, 0.5], [math.inf, math.inf]]
_EXIT_KNOBS: list[dict[str, Any]] = [{"exit_thresholds": pair} for pair in _THRESHOLDS] + [{"price": 0.7}]
_TOKEN_KNOBS: list[dict[str, Any]] = [
    {"price": 0.6, "token_price": 0.6, "exit_thresholds": 0.3},
    {"price": 99.0, "exit_thresholds": [-1.0]},
    {"capacity": [2, 0], "token_price": 0.3},
]
_FIXTURES = "../../runtime/fixtures"
CASES = [
    Case("one_stage", f"{_FIXTURES}/tiny", lambda count: {"x": eighths(40, count, 4)}, [{"price": 0.4}, {}]),
    Case("exits_max_softmax", f"{_FIXTURES}/exits", _exits, _EXIT_KNOBS),
    Case("exits_entropy", "bundles/exits_entropy", _exits, _EXIT_KNOBS),
    Case("exits_patience", "bundles/exits_patience", _exits, [{"exit_thresholds": [0.0, 1.0]}], ("exit_thresholds",)),
    Case("adapted", "bundles/adapted", _exits, _EXIT_KNOBS),
    Case("exits_certainty", f"{_FIXTURES}/tokens", lambda count: {"x": eighths(44, count, 6, 4)}, _TOKEN_KNOBS),
    Case("text", f"{_FIXTURES}/texts", _texts, [{"price": 0.5}]),
    Case(
        "map",
        "bundles/map",
        lambda count: own_outputs_bundle.images(count, 5, 7, 8),
        [{"price": 0.05, "exit_thresholds": 0.35}],
    ),
    Case("tags", "bundles/tags", lambda count: dict(own_outputs_bundle.texts(count, 7, 9)), [{"exit_thresholds": 0.6}]),
    Case(
        "pooled",
        "bundles/pooled",
        lambda count: dict(own_outputs_bundle.texts(count, own_outputs_bundle.LONGEST, 10)),
        [{"exit_thresholds": [0.6, 0.7]}, {"exit_thresholds": [0.5, 9.0]}],
    ),
]


def record(case: Case, kit: Path) -> tuple[dict[str, Any], bytes]:
    """What the kit says of a bundle: the JSON, and the file of arrays that it refers to."""
    model, arrays = load(kit / case.bundle, threads=1), ArrayWriter()
    runs = [{"budget": budget} for budget in _budgets(model)]
    runs += [{"knobs": plain(knobs)} for knobs in case.knobs]
    inputs = _clear_samples(case, model, runs)
    entries = []
    for run in runs:
        result = _run(model, inputs, run, decisions=any(stage.decisions for stage in model.bundle.stages))
        entry: dict[str, Any] = {**run, "expected": _expected(result, arrays)}
        if result.decisions is not None:
            entry["decisions"] = {
                name: arrays.add_all({"learners": told.learners, "kept": told.kept})
                for name, told in result.decisions.sets.items()
            }
        entries.append(entry)
    content = {
        "name": case.name,
        "bundle": case.bundle,
        "arrays": f"{case.name}.bin",
        "batch": sorted(name for name in inputs if len(inputs[name]) == SAMPLES),
        "inputs": arrays.add_all(inputs),
        "runs": entries,
        "look_ups": _look_ups(model),
    }
    return content, arrays.content()


def _expected(result: Result, arrays: ArrayWriter) -> dict[str, Any]:
    return {
        "knobs": plain(result.knobs),
        "reachable": result.reachable,
        "outputs": arrays.add_all(result.outputs),
        "macs_fraction": arrays.add(result.macs_fraction),
        "exit": None if result.exit is None else result.exit.tolist(),
    }


def _budgets(model: AdaptiveModel) -> list[dict[str, Any]]:
    """Some of every kind that the bundle has points for: below all points, between rows, above all."""
    table = model.bundle.budget_table
    if table is None:
        return [{"kind": "full"}]
    entries: list[dict[str, Any]] = []
    for hard, rows in ((False, table.soft), (True, table.hard)):
        if rows:
            first, last = max(rows[0].work, 0.02), rows[-1].fraction
            shares = [first / 2, *(first + (last - first) * way for way in (0.17, 0.43, 0.71, 0.93)), last + 0.5]
            entries += [{"kind": "fraction", "value": round(share, 4), "hard": hard} for share in shares]
    middle = (table.soft or table.hard)[0].work * 0.6 + (table.soft or table.hard)[-1].fraction * 0.4
    entries.append({"kind": "macs", "value": float(round(middle * model.bundle.dense.macs)), "hard": not table.soft})
    return [*entries, {"kind": "full"}]


def _look_ups(model: AdaptiveModel) -> list[dict[str, Any]]:
    """Shares with what the table says of them: at its rows, one float beside them, between them, and at random."""
    table = model.bundle.budget_table
    if table is None:
        return []
    dtypes = {knob.name: knob.dtype for knob in model.bundle.knobs}
    entries = []
    for name, rows in (("soft", table.soft), ("hard", table.hard)):
        for share in _shares(rows) if rows else []:
            answer = look_up(rows, share, dtypes)
            entries.append({"table": name, "share": share, **plain(answer._asdict())})
    return entries


def _shares(rows: list[BudgetRow]) -> list[float]:
    fractions = [row.fraction for row in rows]
    shares = {
        0.0,
        *fractions,
        *(math.nextafter(f, 0.0) for f in fractions),
        *(math.nextafter(f, 9.0) for f in fractions),
    }
    shares |= {(low + high) / 2 for low, high in pairwise(fractions)}
    shares |= set(np.random.RandomState(12).uniform(0, fractions[-1] + 0.1, _LOOK_UPS).tolist())
    return sorted(shares)


def _run(model: AdaptiveModel, inputs: Inputs, run: Mapping[str, Any], *, decisions: bool = False) -> Result:
    if "budget" in run:
        return model.run(inputs, budget=budget_of(run["budget"]), decisions=decisions)
    return model.run(inputs, knobs=knobs_of(run["knobs"]), decisions=decisions)


def _clear_samples(case: Case, model: AdaptiveModel, runs: list[dict[str, Any]]) -> Inputs:
    """Samples whose decisions stay the same where inputs and knobs move a little, in every run."""
    inputs = case.draw(_CANDIDATES)
    per_sample = [name for name, array in inputs.items() if len(array) == _CANDIDATES]
    clear, firsts = np.ones(_CANDIDATES, bool), []
    draw = np.random.RandomState(1)
    for run in runs:
        plainly = _run(model, inputs, run)
        firsts.append(plainly)
        for sign in (-1.0, 1.0):
            moved = {
                name: array + (draw.uniform(-1, 1, array.shape) * _SLIGHT / 10).astype(array.dtype)
                if array.dtype.kind == "f"
                else array
                for name, array in inputs.items()
            }
            knobs = _moved(model.bundle.knobs, plainly.knobs, sign, case.exact)
            if model.bundle.dense.runs_everything and runs_everything(model.bundle.knobs, plainly.knobs):
                knobs = plainly.knobs  # beside it another graph answers
            clear &= _alike(plainly, model.run(moved, knobs=knobs))
    chosen = _varied(np.flatnonzero(clear), firsts)
    if len(chosen) < SAMPLES:
        raise SystemExit(f"got {len(chosen)} samples of {case.name} without ties, expected {SAMPLES}; draw more")
    return {name: array[chosen] if name in per_sample else array for name, array in inputs.items()}


def _moved(knobs: list[Knob], values: Mapping[str, Any], sign: float, exact: tuple[str, ...]) -> dict[str, Any]:
    moved = dict(values)
    for knob in knobs:
        if knob.dtype.startswith("float") and knob.name not in exact:
            value = values[knob.name]
            numbers = [
                min(max(number + sign * _SLIGHT, knob.minimum), knob.maximum)
                for number in (value if isinstance(value, list) else [value])
            ]
            moved[knob.name] = numbers if isinstance(value, list) else numbers[0]
    return moved


def _alike(one: Result, other: Result) -> Array:
    """Which samples have the same exits, work and whole numbers, and all but the same fractions."""
    alike = np.abs(one.macs_fraction - other.macs_fraction) < 1e-6
    if one.exit is not None and other.exit is not None:
        alike &= one.exit == other.exit
    for name, array in one.outputs.items():
        limit = _CLOSE if array.dtype.kind == "f" else 0
        gap = np.abs(array.astype(np.float64) - other.outputs[name]).reshape(len(array), -1)
        alike &= gap.max(axis=1, initial=0) <= limit * np.maximum(np.abs(array).reshape(len(array), -1).max(axis=1), 1)
    return alike


def _varied(clear: Array, results: list[Result]) -> Array:
    """Samples that differ in where they leave and what they take, as far as there are any."""
    chosen: list[int] = []
    seen: set[tuple[Any, ...]] = set()
    for sample in clear.tolist():
        kind = tuple(
            (None if result.exit is None else int(result.exit[sample]), round(float(result.macs_fraction[sample]), 5))
            for result in results
        )
        if kind not in seen:
            seen.add(kind)
            chosen.append(sample)
    rest = [sample for sample in clear.tolist() if sample not in chosen]
    return np.array(sorted([*chosen, *rest][:SAMPLES]), np.int64)


def check_varied(content: Mapping[str, Any]) -> None:
    """Refuse a kit in which every sample leaves at the same stage."""
    exits = [set(run["expected"]["exit"]) for run in content["runs"] if run["expected"]["exit"] is not None]
    if exits and max(map(len, exits)) < 2:
        raise SystemExit(f"got runs of {content['name']} in which all samples leave together; choose other knobs")
