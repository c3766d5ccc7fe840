"""The same verdict as Python's on thousands of altered bundle.json files; sanitizers find nothing."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from adaptrt.runtime.bundle.expectations import Invalid
from adaptrt.runtime.bundle.json_form import decode_bundle
from adaptrt.runtime.bundle.validation import check_bundle
from tests.conformance.kit import KIT
from tests.cpp.programs import Programs

SEEDS = sorted([*KIT.rglob("bundles/*/bundle.json"), *(KIT.parents[1] / "runtime" / "fixtures").glob("*/bundle.json")])
STRANGE: list[Any] = [
    None, True, -1, 0, 1, 3, 2**31, 2**63, -(2**63), 0.5, 1e308, -0.0, "", "..", "/etc/passwd", "a\nb", "batch",
    "float16", "int64", "x" * 1001, "\u200b", "it's \"so\"", [], {}, [1, "x", None], "sample",
    "tokens", "confidence", [0.5, 0.5],
]  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys."""
    found: list[tuple[Any, Any]] = []
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        found.append((value, key))
        found += places(value[key])
    return found


def altered(content: Any, draw: random.Random) -> Any:
    content = copy.deepcopy(content)
    for _ in range(draw.choice([1, 1, 1, 2])):
        container, key = draw.choice(places(content))
        kind = draw.randrange(4)
        if kind == 0:
            container[key] = draw.choice(STRANGE)
        elif kind == 1:
            other, other_key = draw.choice(places(content))
            container[key] = copy.deepcopy(other[other_key])
        elif kind == 2:
            del container[key]
        elif isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        else:
            container[key] = draw.choice(STRANGE)
    return content


def verdict(text: str) -> str | None:
    """What Python refuses it with; None where it takes it."""
    try:
        check_bundle(decode_bundle(text.encode()))
    except Invalid as error:
        return str(error)
    return None


def test_altered_files_have_the_verdict_of_python(cpp: Programs, tmp_path: Path) -> None:
    draw = random.Random(7)
    texts = [json.dumps(altered(json.loads(seed.read_text()), draw)) for seed in SEEDS for _ in range(150)]
    texts += [seed.read_text() for seed in SEEDS]
    replies = cpp.ask([{"op": "parse", "json": text} for text in texts], tmp_path).replies
    refused = in_the_same_words = 0
    for text, reply in zip(texts, replies, strict=True):
        said = verdict(text)
        assert (said is None) == ("ok" in reply), f"Python: {said}; C++: {reply}; {text[:3000]}"
        refused += said is not None
        in_the_same_words += said is not None and said == reply["text"]
    assert refused > len(texts) / 3
    # Of two things that are wrong either may be named first.
    assert in_the_same_words > 0.95 * refused, f"{in_the_same_words} of {refused}"


@pytest.mark.parametrize("text", [
    "", "[1", "{}", "[]", "null", "NaN", '{"format_version": 2', '{"format_version": 2}', '{"format_version": "2"}',
    '{"format_version": 3}', '{"format_version": null}', '{"format_version": true}', '{"format_version": 2.0}',
    "\u00ff", '"\\ud800"',
    '{"format_version": 1e999}',
])  # fmt: skip
def test_what_is_hardly_json(text: str, cpp: Programs, tmp_path: Path) -> None:
    (reply,) = cpp.ask([{"op": "parse", "json": text}], tmp_path).replies
    assert verdict(text) is not None and reply["error"] == "bundle"
    assert "\n" not in reply["text"]


def test_bytes_that_are_no_utf8(cpp: Programs, tmp_path: Path) -> None:
    content = SEEDS[0].read_bytes().replace(b'"name": "', b'"name": "\xff', 1)
    assert content != SEEDS[0].read_bytes()
    (tmp_path / "bundle.json").write_bytes(content)
    (reply,) = cpp.ask([{"op": "parse", "file": str(tmp_path / "bundle.json")}], tmp_path).replies
    assert "not readable as JSON" in reply["text"]


def test_deep_nesting_does_no_harm(cpp: Programs, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text('{"format_version": 2, "data": ' + "[" * 200_000 + "]" * 200_000 + "}")
    (reply,) = cpp.ask([{"op": "parse", "file": str(tmp_path / "bundle.json")}], tmp_path).replies
    assert reply["error"] == "bundle"


def test_quantiles_are_pythons(cpp: Programs, tmp_path: Path) -> None:
    from statistics import NormalDist

    shares = [number / 2000 for number in range(1, 2000)] + [1e-9, 1e-14, 1 - 1e-9, 1e-300]
    (reply,) = cpp.ask([{"op": "quantiles", "shares": shares}], tmp_path).replies
    for share, value in zip(shares, reply["values"], strict=True):
        assert value == pytest.approx(NormalDist(1.0, 0.05).inv_cdf(share), rel=1e-14, abs=1e-15)
