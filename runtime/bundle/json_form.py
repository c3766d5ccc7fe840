"""The JSON of ``bundle.json``: infinity, which JSON lacks, and bundles of an older format.

Format 1 had no limits of inputs and axes, and 'nobody leaves' was the largest exit threshold. What it said is
carried over where nothing is missing; a bundle whose inputs need limits has to be exported again.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from adaptrt.runtime.bundle.expectations import AGAIN, Invalid
from adaptrt.runtime.bundle.schema import FORMAT_VERSION, MACS_OUTPUT, THRESHOLDS_KNOB, Bundle
from adaptrt.runtime.errors import one_line

_UPGRADED = 1
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
        if version not in (_UPGRADED, FORMAT_VERSION):
            raise Invalid(
                f"format_version is {'missing' if version is None else version}, expected {FORMAT_VERSION}; "
                "export the model again with this adaptrt, or install the adaptrt that wrote it"
            )
        content = msgspec.json.decode(text)
        if version == _UPGRADED:
            msgspec.convert(content, type=Bundle)  # said of what was written, not of what became of it
            _upgrade(content)
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
    for point in _entries(content, "curve"):
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


def _upgrade(content: dict[str, Any]) -> None:
    """Turn the content of format 1, whose types were checked, into that of this format.

    Raises:
        Invalid: it lacks limits that only an export can know.
    """
    content["format_version"] = FORMAT_VERSION
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
