"""What the values in a bundle must satisfy beyond their types. Reads no file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from adaptrt.runtime.bundle_schema import (
    MACS_OUTPUT,
    PRICE_KNOB,
    Bundle,
    CurvePoint,
    DataFile,
    Dense,
    ImagePreprocessing,
    Knob,
    TensorSpec,
)

DTYPES = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
    "float16", "float32", "float64",
)  # fmt: skip
MAX_CURVE_POINTS = 10_000
MAX_ENTRIES = 1_000
MAX_RANK = 16
MAX_SIZE = 2**31 - 1
MAX_TEXT = 1_000
MAX_FRACTION = 100.0
"""An adaptive model that works a hundred times as much as the dense one is a mistake in the file."""

_NOT_IN_PATHS = frozenset('\\:*?"<>|')
"""Windows forbids them, and ONNX Runtime reads ``*/…`` as its own marker for an address in memory."""
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_AGAIN = "export the model again"


class Invalid(Exception):  # noqa: N818 - becomes a BundleError as soon as the file is known
    """What is wrong with a bundle's content and what to do, without saying which bundle."""


def check_bundle(bundle: Bundle) -> None:
    """Check everything about a bundle that needs no file.

    Raises:
        Invalid: names the first value that was wrong, what was expected and what to do.
    """
    for key, value in (("name", bundle.name), ("producer", bundle.producer)):
        _text(key, value)
    if bundle.quality_metric is not None:
        _text("quality_metric", bundle.quality_metric)
    for key, count, least, most in (
        ("inputs", len(bundle.inputs), 1, MAX_ENTRIES),
        ("outputs", len(bundle.outputs), 1, MAX_ENTRIES),
        ("stages", len(bundle.stages), 1, MAX_ENTRIES),
        ("knobs", len(bundle.knobs), 0, MAX_ENTRIES),
        ("curve", len(bundle.curve), 0, MAX_CURVE_POINTS),
        ("ops", len(bundle.ops), 0, MAX_ENTRIES),
    ):
        _expect(least <= count <= most, f"{key}: {count} entries", f"{least} to {most}")
    for kind, specs in (("inputs", bundle.inputs), ("outputs", bundle.outputs)):
        for spec in specs:
            _check_tensor(f"{kind} {spec.name!r}", spec)
    for knob in bundle.knobs:
        _check_knob(f"knobs {knob.name!r}", knob)
    _unique("inputs and knobs", [*(spec.name for spec in bundle.inputs), *(knob.name for knob in bundle.knobs)])
    _unique("outputs", [spec.name for spec in bundle.outputs])
    _check_macs_output(bundle.outputs)
    for number, stage in enumerate(bundle.stages):
        _check_file(f"stages[{number}]", stage.file, stage.sha256, stage.external_data)
    _unique("stages", [stage.file for stage in bundle.stages])
    _check_dense(bundle.dense)
    knobs = {knob.name: knob for knob in bundle.knobs}
    for number, point in enumerate(bundle.curve):
        _check_point(f"curve[{number}]", point, knobs)
    for op, learners in bundle.ops.items():
        _text("ops", op)
        _expect(1 <= learners <= MAX_SIZE, f"ops {op!r}: {learners} learners", f"1 to {MAX_SIZE}")


def check_relative_path(where: str, path: str) -> None:
    """Refuse a path that is not plainly below the bundle's folder on every operating system.

    Raises:
        Invalid: it is absolute, has a ``..``, ``.`` or empty part, or characters that some file system
            refuses or no terminal prints.
    """
    plain = (
        0 < len(path) <= MAX_TEXT
        and path.isprintable()
        and not _NOT_IN_PATHS & set(path)
        and all(part not in {"", ".", ".."} for part in path.split("/"))
    )
    _expect(plain, f"{where}: path {_short(path)}", "a relative path inside the bundle's folder")


def _expect(fine: bool, got: str, expected: str) -> None:
    if not fine:
        raise Invalid(f"{got}, expected {expected}; {_AGAIN}")


def _short(value: str) -> str:
    return repr(value if len(value) <= 80 else f"{value[:80]}…")


def _text(where: str, value: str) -> None:
    fine = 0 < len(value) <= MAX_TEXT and value.isprintable()
    _expect(fine, f"{where}: {_short(value)}", f"1 to {MAX_TEXT} printable characters")


def _unique(where: str, names: Sequence[str]) -> None:
    for first, second in pairwise(sorted(names)):
        _expect(first != second, f"{where}: {first!r} twice", "each name once")


def _finite(where: str, values: Iterable[float | None]) -> None:
    for value in values:
        _expect(value is None or math.isfinite(value), f"{where}: {value}", "a finite number")


def _check_tensor(where: str, spec: TensorSpec) -> None:
    _text(where, spec.name)
    _expect(spec.dtype in DTYPES, f"{where}: dtype {_short(spec.dtype)}", f"one of {', '.join(DTYPES)}")
    _expect(len(spec.shape) <= MAX_RANK, f"{where}: {len(spec.shape)} axes", f"at most {MAX_RANK}")
    for size in spec.shape:
        if isinstance(size, str):
            _text(f"{where} axis name", size)
        else:
            _expect(1 <= size <= MAX_SIZE, f"{where}: size {size}", f"1 to {MAX_SIZE}")
    if spec.preprocessing is not None:
        _check_preprocessing(f"{where} preprocessing", spec.preprocessing)


def _check_preprocessing(where: str, recipe: ImagePreprocessing) -> None:
    _expect(recipe.channels in {1, 3}, f"{where}: {recipe.channels} channels", "1 or 3")
    for key, size in (("height", recipe.height), ("width", recipe.width)):
        _expect(1 <= size <= 65_536, f"{where}: {key} {size}", "1 to 65536")
    for key, values in (("mean", recipe.mean), ("std", recipe.std)):
        _expect(
            len(values) in {1, recipe.channels},
            f"{where}: {len(values)} {key} values",
            "1 or one per channel",
        )
        _finite(f"{where} {key}", values)
    _finite(f"{where} scale", [recipe.scale])
    _expect(recipe.scale > 0, f"{where}: scale {recipe.scale}", "above 0")
    _expect(min(recipe.std) > 0, f"{where}: std {min(recipe.std)}", "above 0")


def _check_knob(where: str, knob: Knob) -> None:
    _text(where, knob.name)
    _expect(knob.dtype in DTYPES, f"{where}: dtype {_short(knob.dtype)}", f"one of {', '.join(DTYPES)}")
    _expect(len(knob.shape) <= MAX_RANK, f"{where}: {len(knob.shape)} axes", f"at most {MAX_RANK}")
    _expect(
        all(size >= 1 for size in knob.shape) and math.prod(knob.shape) <= 65_536,
        f"{where}: shape {knob.shape}",
        "fixed sizes, at most 65536 values",
    )
    if knob.name == PRICE_KNOB:
        _expect(knob.dtype == "float32", f"{where}: dtype {knob.dtype}", "float32")
    dtype = np.dtype(knob.dtype)
    least, most = (0, 1) if dtype.kind == "b" else _range(dtype)
    for value in (knob.minimum, knob.maximum, knob.default):
        _expect(least <= value <= most, f"{where}: {value}", f"a number that {knob.dtype} can hold")
    _expect(
        knob.minimum <= knob.default <= knob.maximum,
        f"{where}: minimum {knob.minimum}, default {knob.default}, maximum {knob.maximum}",
        "minimum <= default <= maximum",
    )


def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def _check_macs_output(outputs: Sequence[TensorSpec]) -> None:
    found = [spec for spec in outputs if spec.name == MACS_OUTPUT]
    names = ", ".join(repr(spec.name) for spec in outputs[:10])
    _expect(bool(found), f"outputs: {names}", f"{MACS_OUTPUT!r} among them")
    fine = found[0].dtype == "float32" and len(found[0].shape) == 1
    _expect(fine, f"outputs {MACS_OUTPUT!r}: {found[0].dtype} {found[0].shape}", "float32 ['batch']")


def _check_file(where: str, file: str, sha256: str, external_data: Sequence[DataFile]) -> None:
    check_relative_path(where, file)
    fine = _SHA256.fullmatch(sha256) is not None
    _expect(fine, f"{where}: sha256 {_short(sha256)}", "64 lowercase hexadecimal digits")
    _expect(
        len(external_data) <= MAX_ENTRIES,
        f"{where}: {len(external_data)} data files",
        f"at most {MAX_ENTRIES}",
    )
    for data in external_data:
        _check_file(f"{where} external_data", data.file, data.sha256, ())
    _unique(f"{where} external_data", [data.file for data in external_data])


def _check_dense(dense: Dense) -> None:
    for key, value in (("macs", dense.macs), ("parameters", dense.parameters)):
        _expect(1 <= value < 2**63, f"dense: {key} {value}", "1 to 2^63 - 1")
    _finite("dense quality", [dense.quality])
    if dense.file is not None:
        _check_file("dense", dense.file, dense.sha256 or "", dense.external_data)


def _check_point(where: str, point: CurvePoint, knobs: dict[str, Knob]) -> None:
    for name, value in point.knobs.items():
        knob = knobs.get(name)
        if knob is None:
            raise Invalid(f"{where}: unknown knob {_short(name)}, expected one of {sorted(knobs)}; {_AGAIN}")
        _expect(
            knob.minimum <= value <= knob.maximum,  # false for NaN
            f"{where}: {name} {value}",
            f"{knob.minimum} to {knob.maximum}",
        )
    for fraction in (point.macs_fraction, point.calibration_macs_fraction):
        fine = fraction is None or 0 <= fraction <= MAX_FRACTION
        _expect(fine, f"{where}: share {fraction} of the dense work", f"0 to {MAX_FRACTION:g}")
    _finite(f"{where} quality", (point.quality, point.calibration_quality))
