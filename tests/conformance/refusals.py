"""What must be refused: inputs, budgets and knobs that a bundle does not take, and bundles that are damaged."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.conformance.kit import Array, ArrayWriter

EXITS, TEXTS, MAP, TOKENS = "exits_max_softmax", "text", "map", "exits_certainty"
Content = dict[str, Any]


def _exits() -> dict[str, Array]:
    return {"x": np.ones((3, 6), np.float32), "hint": np.ones((3, 2), np.float32), "scale": np.ones(1, np.float32)}


def _texts(length: int = 4) -> dict[str, Array]:
    words, mask = np.zeros((3, length), np.int64), np.ones((3, length), bool)
    return {"words": words, "mask": mask, "style": np.ones((3, 2), np.float32)}


def _put(array: Array, value: float) -> Array:
    array = array.copy()
    array[(-1,) * array.ndim] = value
    return array


def wrong_inputs(arrays: ArrayWriter) -> list[dict[str, Any]]:
    """Inputs that a runtime must refuse before an engine sees them."""
    x, words = _exits()["x"], _texts()["words"]
    cases: list[tuple[str, str, dict[str, Array]]] = [
        ("an input is missing", EXITS, {name: a for name, a in _exits().items() if name != "hint"}),
        ("an input is unknown", EXITS, {**_exits(), "heat": x}),
        ("another dtype", EXITS, {**_exits(), "x": x.astype(np.float64)}),
        ("an axis too few", EXITS, {**_exits(), "x": x[0]}),
        ("an axis too many", EXITS, {**_exits(), "x": x[..., None]}),
        ("another fixed size", EXITS, {**_exits(), "x": x[:, :5].copy()}),
        ("inputs of different batches", EXITS, {**_exits(), "hint": np.ones((2, 2), np.float32)}),
        ("NaN", EXITS, {**_exits(), "x": _put(x, np.nan)}),
        ("infinity", EXITS, {**_exits(), "x": _put(x, -np.inf)}),
        ("a word too large", TEXTS, {**_texts(), "words": _put(words, 40)}),
        ("a word below the smallest", TEXTS, {**_texts(), "words": _put(words, -1)}),
        ("a text too long", TEXTS, _texts(13)),
        ("a text of no words", TEXTS, _texts(0)),
        ("a mask of numbers", TEXTS, {**_texts(), "mask": np.ones((3, 4), np.int64)}),
        ("a mask of another length", TEXTS, {**_texts(), "mask": np.ones((3, 5), bool)}),
        ("an image too low", MAP, {"image": np.ones((1, 2, 1, 4), np.float32)}),
        ("an image too wide", MAP, {"image": np.ones((1, 2, 4, 9), np.float32)}),
    ]
    entries = [{"why": why, "case": case, "inputs": arrays.add_all(inputs)} for why, case, inputs in cases]
    bytes_of_two = arrays.add_all({**_texts(), "mask": np.full((3, 4), 2, np.uint8)})
    bytes_of_two["mask"]["dtype"] = "bool"
    return [*entries, {"why": "booleans whose bytes are neither 0 nor 1", "case": TEXTS, "inputs": bytes_of_two}]


def wrong_requests() -> list[dict[str, Any]]:
    """Budgets and knobs that a runtime must refuse."""
    hard = {"kind": "fraction", "value": 0.5, "hard": True}
    return [
        {"why": "a hard budget without hard points", "case": EXITS, "budget": hard},
        {"why": "a budget below nothing", "case": EXITS, "budget": {**hard, "value": -0.1, "hard": False}},
        {"why": "a budget without a curve", "case": "tags", "budget": {**hard, "hard": False}},
        {"why": "an unknown knob", "case": EXITS, "knobs": {"heat": 0.5}},
        {"why": "a knob above its limit", "case": EXITS, "knobs": {"price": 9.5}},
        {"why": "a knob below its limit", "case": EXITS, "knobs": {"price": -0.5}},
        {"why": "too few thresholds", "case": EXITS, "knobs": {"exit_thresholds": [0.5]}},
        {"why": "a fraction of a learner", "case": TOKENS, "knobs": {"capacity": [0.5, 1]}},
    ]


def _stage(number: int, **changes: Any) -> Callable[[Content], object]:
    return lambda content: content["stages"][number].update(changes)


def _carry(**changes: Any) -> Callable[[Content], object]:
    return lambda content: content["stages"][1]["carry"][0].update(changes)


def _decision(**changes: Any) -> Callable[[Content], object]:
    return lambda content: content["stages"][0]["decisions"][0].update(changes)


def _row(number: int, **changes: Any) -> Callable[[Content], object]:
    return lambda content: content["budget_table"]["soft"][number].update(changes)


def _text_input(**changes: Any) -> Callable[[Content], object]:
    return lambda content: content["inputs"][0].update(changes)


_EDITS: list[tuple[str, str, Callable[[Content], object]]] = [
    ("a format of the future", EXITS, lambda content: content.update(format_version=3)),
    ("no format", EXITS, lambda content: content.pop("format_version")),
    ("no stages", EXITS, lambda content: content.update(stages=[])),
    ("no inputs", EXITS, lambda content: content.pop("inputs")),
    ("inputs that are a text", EXITS, lambda content: content.update(inputs="x")),
    ("no macs_fraction", EXITS, lambda content: content["outputs"].pop()),
    ("another hash", EXITS, _stage(0, sha256="0" * 64)),
    ("a file outside", EXITS, _stage(0, file="../exits/stage0.onnx")),
    ("an absolute file", EXITS, _stage(0, file="/etc/passwd")),
    ("a file that is not there", EXITS, _stage(0, file="stage7.onnx")),
    ("stages that were swapped", EXITS, lambda content: content["stages"].reverse()),
    ("two heads of a name", EXITS, _stage(1, exit="final")),
    ("nothing carried", EXITS, _stage(1, carry=[])),
    ("carried from an output that is not there", EXITS, _carry(source="nothing")),
    ("carried with another dtype", EXITS, _carry(dtype="float64")),
    ("carried without the batch", EXITS, _carry(shape=[3, 5])),
    ("an input carried with another shape", MAP, lambda c: c["stages"][1]["carry"][1].update(shape=["batch", 2, 3, 3])),
    ("an unknown criterion", EXITS, lambda content: content.update(exit_criterion="mood")),
    ("no thresholds", EXITS, lambda content: content["knobs"].pop()),
    ("a default out of its limits", EXITS, lambda content: content["knobs"][0].update(default=10)),
    ("a point out of a knob's limits", EXITS, lambda content: content["curve"][0]["knobs"].update(price=10)),
    ("a point of an unknown knob", EXITS, lambda content: content["curve"][0]["knobs"].update(heat=1)),
    ("a point of negative work", EXITS, lambda content: content["curve"][0].update(macs_fraction=-1)),
    ("words without limits", TEXTS, _text_input(minimum=None, maximum=None)),
    ("limits the wrong way round", TEXTS, _text_input(minimum=5, maximum=4)),
    ("an axis without limits", TEXTS, lambda content: content["axes"].pop("length")),
    ("an output of a size that is not known", MAP, lambda c: c["outputs"][0].update(shape=["batch", 2, "depth", 3])),
    ("a decision of unknown kind", TOKENS, _decision(kind="mood")),
    ("a decision without its output", TOKENS, _decision(outputs={})),
    ("decisions that start late", TOKENS, _decision(number=1)),
    ("a decision about unknown tokens", TOKENS, _decision(of="words")),
    ("a mask that nobody carries", TOKENS, lambda content: content["tokens"]["tokens"].update(valid="mask")),
    ("rows that do not begin at 0", EXITS, _row(0, fraction=0.1)),
    ("a row of an unknown knob", EXITS, lambda content: content["budget_table"]["full"]["knobs"].update(heat=1)),
    ("a preprocessing file that is not there", TEXTS,
     lambda content: content.update(files=[{"file": "tokenizer.json", "sha256": "0" * 64, "role": "tokenizer"}])),
]  # fmt: skip


def damaged(kit: Path, bundles: dict[str, str]) -> list[dict[str, Any]]:
    """Damaged bundles: a ``bundle.json`` written beside to take the place of the case's, or damage to its files."""
    entries: list[dict[str, Any]] = []
    folder = kit / "damaged"
    folder.mkdir(exist_ok=True)
    for why, case, edit in _EDITS:
        content = json.loads((kit / bundles[case] / "bundle.json").read_text())
        before = copy.deepcopy(content)
        edit(content)
        assert content != before, why
        file = f"{why.replace(' ', '_')}.json"
        (folder / file).write_text(json.dumps(content) + "\n")
        entries.append({"why": why, "case": case, "bundle_json": f"damaged/{file}"})
    (folder / "no_json.json").write_text('{"format_version": 2,\n')
    entries.append(
        {"why": "a bundle.json that ends in the middle", "case": EXITS, "bundle_json": "damaged/no_json.json"}
    )
    entries += [
        {"why": "a file that is gone", "case": EXITS, "file": "stage1.onnx", "remove": True},
        {"why": "a file cut short", "case": EXITS, "file": "stage1.onnx", "truncate": 100},
        {"why": "a file with a bit turned", "case": EXITS, "file": "stage2.onnx", "flip": 200},
    ]
    return entries
