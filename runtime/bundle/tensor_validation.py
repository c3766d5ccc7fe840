"""What a tensor that a bundle describes must satisfy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from adaptrt.runtime.bundle.expectations import expect, expect_text, short
from adaptrt.runtime.bundle.preprocessing_validation import check_image
from adaptrt.runtime.bundle.schema import MACS_OUTPUT, Bundle, TensorSpec

DTYPES = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
    "float16", "float32", "float64",
)  # fmt: skip
MAX_RANK = 16
MAX_SIZE = 2**31 - 1


def check_tensor(where: str, spec: TensorSpec) -> None:
    """An input or output.

    Raises:
        Invalid: its name, dtype, shape or preprocessing is none.
    """
    expect_text(where, spec.name)
    check_array(where, spec.dtype, spec.shape)
    if spec.preprocessing is not None:
        check_image(f"{where} preprocessing", spec.preprocessing)


def check_input(where: str, spec: TensorSpec) -> None:
    """An input: where it takes whole numbers, it says which.

    Raises:
        Invalid: as ``check_tensor``, or its limits are missing, wrong, or none of its dtype.
    """
    check_tensor(where, spec)
    got = f"{where}: minimum {spec.minimum}, maximum {spec.maximum} of {spec.dtype}"
    dtype = np.dtype(spec.dtype)
    if dtype.kind not in "iu":
        expect(spec.minimum is None and spec.maximum is None, got, "limits of whole numbers only")
        return
    limits = np.iinfo(dtype)
    fine = spec.minimum is not None and spec.maximum is not None
    fine = fine and int(limits.min) <= spec.minimum <= spec.maximum <= int(limits.max)  # type: ignore[operator]
    expect(fine, got, f"both, {limits.min} <= minimum <= maximum <= {limits.max}")


def check_axes(bundle: Bundle) -> None:
    """Every named axis of the inputs says how long it may be; all but the batch have an end.

    Raises:
        Invalid: one is missing or unknown, or its limits are none.
    """
    named = {size for spec in bundle.inputs for size in spec.shape if isinstance(size, str)}
    expect(set(bundle.axes) == named, f"axes: {_listed(bundle.axes)}", f"exactly those of the inputs, {_listed(named)}")
    batch = {size for spec in bundle.outputs if spec.name == MACS_OUTPUT for size in spec.shape[:1]}
    for name, axis in bundle.axes.items():
        fine = axis.longest is not None or name in batch
        expect(fine, f"axes {short(name)}: no longest", "how long it may be, as it is not the batch")
        longest = MAX_SIZE if axis.longest is None else axis.longest
        fine = 0 <= axis.shortest <= longest <= MAX_SIZE and longest >= 1
        expect(fine, f"axes {short(name)}: {axis.shortest} to {longest}", f"sizes from 0 to {MAX_SIZE}, in order")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(short(name) for name in sorted(names)[:10]) or "none"


def check_array(where: str, dtype: str, shape: Sequence[int | str]) -> None:
    """A dtype, and a shape of sizes and names of axes.

    Raises:
        Invalid: one of them is none.
    """
    expect(dtype in DTYPES, f"{where}: dtype {short(dtype)}", f"one of {', '.join(DTYPES)}")
    expect(len(shape) <= MAX_RANK, f"{where}: {len(shape)} axes", f"at most {MAX_RANK}")
    for size in shape:
        if isinstance(size, str):
            expect_text(f"{where} axis name", size)
        else:
            expect(1 <= size <= MAX_SIZE, f"{where}: size {size}", f"1 to {MAX_SIZE}")
