"""Arrays as the Open Inference Protocol writes them: as lists or as bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from adaptrt.runtime.bundle.schema import TensorSpec
from adaptrt.runtime.errors import shown
from adaptrt.runtime.serving.errors import RequestError

Array = np.ndarray[Any, Any]

DTYPES = {
    "BOOL": "bool",
    **{f"{prefix}INT{8 * size}": f"{kind}{size}" for prefix, kind in (("", "i"), ("U", "u")) for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": f"f{size}" for size in (2, 4, 8)},
}
"""numpy's names by the protocol's."""
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "fiu"}
"""What a list may hold, as numpy reads it, by what is wanted."""
_MOST_AXES = 32


def datatype(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a dtype."""
    return _NAMES[dtype]


def metadata(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    """Names, datatypes and shapes for the protocol; -1 is any size."""
    return [
        {
            "name": spec.name,
            "datatype": datatype(np.dtype(spec.dtype)),
            "shape": [size if isinstance(size, int) else -1 for size in spec.shape],
        }
        for spec in specs
    ]


def check_head(name: object, kind: object, shape: object) -> tuple[np.dtype[Any], list[int], int]:
    """What a tensor says of itself: dtype, shape and number of elements.

    Raises:
        RequestError: it says something else.
    """
    if not isinstance(kind, str) or kind not in DTYPES:
        raise RequestError(f"input {shown(name)}: got datatype {shown(kind)}, expected {', '.join(DTYPES)}")
    if (
        not isinstance(shape, list)
        or len(shape) > _MOST_AXES
        or not all(type(size) is int and 0 <= size < 2**63 for size in shape)
    ):
        raise RequestError(f"input {shown(name)}: got shape {shown(shape)}, expected a list of sizes of at least 0")
    return np.dtype(DTYPES[kind]), shape, math.prod(shape)


def from_bytes(name: str, kind: object, shape: object, content: memoryview | bytes) -> Array:
    """An array of little-endian bytes in row-major order; they are not copied where they are aligned.

    Raises:
        RequestError: there are more or fewer bytes than the shape has elements.
    """
    dtype, sizes, count = check_head(name, kind, shape)
    if count * dtype.itemsize != len(content):
        raise RequestError(
            f"input {shown(name)}: got {len(content)} bytes, expected {count * dtype.itemsize} for {kind} {sizes}"
        )
    array = np.frombuffer(content, dtype.newbyteorder("<"), count).reshape(sizes)
    return np.require(array.astype(dtype, copy=False), requirements="A")


def from_list(name: str, kind: object, shape: object, content: object) -> Array:
    """An array of numbers in lists, flat or nested.

    Raises:
        RequestError: it is no list, has other numbers than the datatype holds, or more or fewer than the shape.
    """
    dtype, sizes, count = check_head(name, kind, shape)
    problem = f"input {shown(name)}: got data that is not {kind}"
    if not isinstance(content, list):
        raise RequestError(f"{problem}, expected a list of numbers")
    try:
        numbers = np.array(content) if content else np.zeros(0, dtype)
    except (ValueError, OverflowError):
        raise RequestError(f"{problem}, expected lists of equal lengths") from None
    if numbers.size and numbers.dtype.kind not in _KINDS[dtype.kind]:
        raise RequestError(f"{problem}, expected such numbers alone")
    if numbers.size != count:
        raise RequestError(f"input {shown(name)}: got {numbers.size} numbers, expected {count} for shape {sizes}")
    with np.errstate(all="ignore"):  # what overflows is infinite, which the model's check refuses
        array = numbers.astype(dtype)
    if dtype.kind in "iu" and numbers.size and not np.array_equal(array, numbers):
        raise RequestError(f"{problem}, expected numbers that it can hold")
    return array.reshape(sizes)
