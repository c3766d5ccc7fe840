"""What a tensor that a bundle describes must satisfy."""

from __future__ import annotations

from collections.abc import Sequence

from adaptrt.runtime.bundle_schema import ImagePreprocessing, TensorSpec
from adaptrt.runtime.expectations import expect, expect_finite, expect_text, short

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
        _check_preprocessing(f"{where} preprocessing", spec.preprocessing)


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


def _check_preprocessing(where: str, recipe: ImagePreprocessing) -> None:
    expect(recipe.channels in {1, 3}, f"{where}: {recipe.channels} channels", "1 or 3")
    for key, size in (("height", recipe.height), ("width", recipe.width)):
        expect(1 <= size <= 65_536, f"{where}: {key} {size}", "1 to 65536")
    for key, values in (("mean", recipe.mean), ("std", recipe.std)):
        expect(
            len(values) in {1, recipe.channels},
            f"{where}: {len(values)} {key} values",
            "1 or one per channel",
        )
        expect_finite(f"{where} {key}", values)
    expect_finite(f"{where} scale", [recipe.scale])
    expect(recipe.scale > 0, f"{where}: scale {recipe.scale}", "above 0")
    expect(min(recipe.std) > 0, f"{where}: std {min(recipe.std)}", "above 0")
