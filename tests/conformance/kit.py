"""Reading and writing the kit: JSON that anything reads, and arrays as little-endian bytes in one file beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adaptrt.runtime import Budget

Array = np.ndarray[Any, Any]
KIT = Path(__file__).parent / "kit"
INDEX = "index.json"
_ALIGNMENT = 8


class ArrayWriter:
    """Collects arrays into the content of one file."""

    def __init__(self) -> None:
        self._content = bytearray()

    def add(self, array: Array) -> dict[str, Any]:
        """Add an array; the entry that says where it is."""
        self._content += bytes(-len(self._content) % _ALIGNMENT)
        offset = len(self._content)
        little = np.ascontiguousarray(array)
        self._content += little.astype(little.dtype.newbyteorder("<")).tobytes()
        return {"dtype": array.dtype.name, "shape": list(array.shape), "offset": offset}

    def add_all(self, arrays: Mapping[str, Array]) -> dict[str, Any]:
        """Add arrays by name."""
        return {name: self.add(array) for name, array in arrays.items()}

    def content(self) -> bytes:
        """What the file holds."""
        return bytes(self._content)


class ArrayReader:
    """Gives the arrays that entries name.

    Args:
        content: of the file.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content

    def get(self, entry: Mapping[str, Any]) -> Array:
        """The array of an entry."""
        dtype = np.dtype(entry["dtype"]).newbyteorder("<")
        count = math.prod(entry["shape"])
        array = np.frombuffer(self._content, dtype, count, entry["offset"])
        return array.reshape(entry["shape"]).astype(np.dtype(entry["dtype"]))

    def get_all(self, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Array]:
        """The arrays of entries by name."""
        return {name: self.get(entry) for name, entry in entries.items()}


def plain(value: Any) -> Any:
    """A value as JSON has it: infinity, which only exit thresholds have, as null."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def knobs_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Knob values of the kit, infinity put back."""

    def number(value: Any) -> Any:
        return math.inf if value is None else value

    return {name: [*map(number, v)] if isinstance(v, list) else number(v) for name, v in entry.items()}


def budget_of(entry: Mapping[str, Any]) -> Budget:
    """The budget that an entry of the kit means."""
    if entry["kind"] == "full":
        return Budget.full()
    kinds = {"fraction": Budget.fraction, "macs": Budget.macs}
    return kinds[entry["kind"]](entry["value"], hard=entry["hard"])


def write_json(path: Path, content: Any) -> None:
    """Write JSON, a line for every entry of its lists at the second level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = []
    for key, value in content.items():
        if isinstance(value, list) and value:
            lines = ",\n".join(f"  {json.dumps(each, allow_nan=False)}" for each in value)
            parts.append(f"{json.dumps(key)}: [\n{lines}\n]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def read_json(path: Path) -> Any:
    """Read what ``write_json`` wrote."""
    return json.loads(path.read_text())
