"""Bundles of format 1, read as bundles of this format where nothing is missing.

Format 1 had no limits of inputs and axes, 'nobody leaves' was the largest exit threshold, decisions were told by
the names of outputs alone, and there was one set of tokens. A bundle whose inputs need limits has to be exported again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from adaptrt.runtime.bundle.expectations import AGAIN, Invalid, expect, short
from adaptrt.runtime.bundle.schema import FORMAT_VERSION, MACS_OUTPUT, THRESHOLDS_KNOB, Bundle, Carry

FORMER_VERSION = 1
_MASK = "valid"
_TOKENS = "tokens"


class _FormerStage(msgspec.Struct):
    """What a stage of format 1 said in another way."""

    carry: list[Carry] = []
    decisions: list[str] = []


class _FormerBundle(msgspec.Struct):
    """What format 1 said in another way."""

    stages: list[_FormerStage]
    tokens: int | str | None = None


def upgrade(content: dict[str, Any]) -> None:
    """Turn the content of format 1 into that of this format, in place.

    Raises:
        msgspec.ValidationError: it has other keys and types than format 1.
        Invalid: it lacks limits that only an export can know, or its decisions are none.
    """
    _name_decisions(content, msgspec.convert(content, type=_FormerBundle))
    msgspec.convert(content, type=Bundle)  # what follows relies on its types
    content["format_version"] = FORMAT_VERSION
    _name_limits(content)
    _name_infinity(content)


def _name_limits(content: dict[str, Any]) -> None:
    batch = [size for output in content["outputs"] if output["name"] == MACS_OUTPUT for size in output["shape"][:1]]
    content["axes"] = {}
    for spec in content["inputs"]:
        if spec["dtype"].lstrip("u").startswith("int"):
            raise Invalid(
                f"format 1 with an input {spec['name']!r} of whole numbers, expected format {FORMAT_VERSION}, which "
                f"says their range; {AGAIN}"
            )
        for size in spec["shape"]:
            if isinstance(size, str) and size not in batch:
                raise Invalid(
                    f"format 1 with a named axis {size!r} of input {spec['name']!r}, expected format {FORMAT_VERSION}, "
                    f"which says how long it may be; {AGAIN}"
                )
            if isinstance(size, str):
                content["axes"][size] = {"shortest": 0}


def _name_infinity(content: dict[str, Any]) -> None:
    never = next((knob["maximum"] for knob in content["knobs"] if knob["name"] == THRESHOLDS_KNOB), math.inf)
    for knob in content["knobs"]:
        if knob["name"] == THRESHOLDS_KNOB:
            knob.update(maximum=math.inf, default=math.inf if knob["default"] == never else knob["default"])
    for point in content.get("curve", []):
        if THRESHOLDS_KNOB in point["knobs"]:
            value = point["knobs"][THRESHOLDS_KNOB]
            several = [
                math.inf if number == never else number for number in (value if isinstance(value, list) else [value])
            ]
            point["knobs"][THRESHOLDS_KNOB] = several if isinstance(value, list) else several[0]


def _name_decisions(content: dict[str, Any], former: _FormerBundle) -> None:
    content.pop("tokens", None)
    masked = any(carry.name == _MASK for stage in former.stages for carry in stage.carry)
    for number, stage in enumerate(former.stages):
        content["stages"][number]["decisions"] = _records(f"stages[{number}] decisions", stage.decisions)
    if masked or any(stage.decisions for stage in former.stages):
        content["tokens"] = {_TOKENS: {"size": former.tokens, "valid": _MASK if masked else None}}


def _records(where: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """The decisions that ``learners_<g>``, and ``kept_<s>`` followed by ``count_<s>``, tell."""
    records: list[dict[str, Any]] = []
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        parts = re.fullmatch(r"(learners|kept)_(\d{1,9})", name, re.ASCII)
        expect(parts is not None, f"{where}: {short(name)}", "learners_<number> or kept_<number>")
        assert parts is not None
        kind, number = parts[1], int(parts[2])
        if kind == "learners":
            records.append({"kind": "learners", "number": number, "outputs": {"runs": name}})
            continue
        count = waiting.pop(0) if waiting else "nothing"
        expect(count == f"count_{parts[2]}", f"{where}: {short(count)} after {short(name)}", f"'count_{parts[2]}'")
        records.append({"kind": "selection", "number": number, "outputs": {"index": name, "count": count}})
    return records
