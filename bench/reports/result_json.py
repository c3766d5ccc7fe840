"""Results of measurements as JSON files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from adaptrt.bench.errors import BenchError
from adaptrt.export.staging import write_file
from adaptrt.runtime.bundle.schema import THRESHOLDS_KNOB

_DIGITS = 6  # significant; no clock here is better

T = TypeVar("T")


def encode_result(result: object) -> bytes:
    """A result (dataclasses, mappings, sequences, numbers, text) as indented JSON.

    Raises:
        BenchError: It holds NaN or infinity, which JSON has not (but as an exit threshold, where it becomes null), or
            something that is no data.
    """
    try:
        content = _rounded(msgspec.to_builtins(result, str_keys=True))
        return (json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise BenchError(f"cannot write a {type(result).__name__} as JSON: {error}; report this defect") from error


def write_json(result: object, path: Path) -> None:
    """Write a result as JSON; readers find the old file or the new one, never a part.

    Raises:
        BenchError: The result is not finite.
        ExportError: The file cannot be written; an old one is untouched.
    """
    write_file(path, encode_result(result))


def read_json(path: Path, kind: type[T], wanted: str) -> T:
    """Read a result back.

    Args:
        path: That ``write_json`` wrote.
        kind: The result's dataclass.
        wanted: What was expected there and what to do, for the message.

    Raises:
        BenchError: There is no such file, or it holds something else.
    """
    try:
        return msgspec.convert(msgspec.json.decode(path.read_bytes()), kind, strict=False)
    except (OSError, msgspec.MsgspecError) as error:
        raise BenchError(f"cannot read {path} ({error}), expected {wanted}") from error


def _knob(value: Any) -> Any:
    """Exit thresholds as ``bundle.json`` has them: infinity, at which nobody leaves, is null."""
    if isinstance(value, (list, tuple)):
        return [_knob(number) for number in value]
    return None if value == math.inf else _rounded(value)


def _rounded(content: Any) -> Any:
    if isinstance(content, float):
        return float(f"{content:.{_DIGITS}g}")
    if isinstance(content, dict):
        return {key: _knob(value) if key == THRESHOLDS_KNOB else _rounded(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_rounded(value) for value in content]
    return content
