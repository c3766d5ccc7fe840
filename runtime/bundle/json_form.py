"""The JSON of ``bundle.json``: infinity, which JSON lacks, and which formats are read."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from adaptrt.runtime.bundle.expectations import AGAIN, Invalid
from adaptrt.runtime.bundle.format_1 import FORMER_VERSION, upgrade
from adaptrt.runtime.bundle.schema import FORMAT_VERSION, THRESHOLDS_KNOB, Bundle
from adaptrt.runtime.errors import one_line

_INFINITE = {"minimum": -math.inf, "maximum": math.inf, "default": math.inf}


class _Version(msgspec.Struct):
    """Read first, so that a future format is named as such whatever else has changed in it."""

    format_version: int | None = None


def decode_bundle(text: bytes) -> Bundle:
    """What the bytes of ``bundle.json`` say; its values are not checked yet.

    Raises:
        Invalid: they are no JSON, of a format that this version does not read, or have other keys and types.
    """
    try:
        version = msgspec.json.decode(text, type=_Version).format_version
        if version not in (FORMER_VERSION, FORMAT_VERSION):
            raise Invalid(
                f"format_version is {'missing' if version is None else version}, expected {FORMAT_VERSION}; "
                "export the model again with this adaptrt, or install the adaptrt that wrote it"
            )
        content = msgspec.json.decode(text)
        if version == FORMER_VERSION:
            upgrade(content)
        else:
            _restore_infinity(content)
        return msgspec.convert(content, type=Bundle)
    except msgspec.ValidationError as error:
        raise Invalid(f"{one_line(error)}; {AGAIN}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"not readable as JSON ({one_line(error)}); copy the bundle or {AGAIN}") from None


def _restore_infinity(content: dict[str, Any]) -> None:
    """Put infinity where JSON says null of the exit thresholds. Whatever has another form is left to the checks."""
    for knob in _entries(content, "knobs"):
        if knob.get("name") == THRESHOLDS_KNOB:
            knob.update({key: value for key, value in _INFINITE.items() if knob.get(key, 0) is None})
    for point in [*_entries(content, "curve"), *_table_points(content)]:
        knobs = point.get("knobs")
        if isinstance(knobs, dict) and THRESHOLDS_KNOB in knobs:
            value = knobs[THRESHOLDS_KNOB]
            if isinstance(value, list):
                knobs[THRESHOLDS_KNOB] = [math.inf if number is None else number for number in value]
            elif value is None:
                knobs[THRESHOLDS_KNOB] = math.inf


def _entries(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = content.get(key)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _table_points(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Whatever in the table of budgets may have knobs."""
    table = content.get("budget_table")
    if not isinstance(table, dict):
        return []
    rows = [*_entries(table, "soft"), *_entries(table, "hard")]
    ends = [*(row.get("to") for row in rows), table.get("full")]
    return rows + [end for end in ends if isinstance(end, dict)]
