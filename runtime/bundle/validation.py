"""What the values in a bundle must satisfy beyond their types. Reads no file."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from adaptrt.runtime.bundle.curve_validation import MAX_CURVE_POINTS, check_curve
from adaptrt.runtime.bundle.decision_validation import check_decisions
from adaptrt.runtime.bundle.expectations import MAX_TEXT, expect, expect_finite, expect_text, expect_unique, short
from adaptrt.runtime.bundle.preprocessing_validation import check_sources
from adaptrt.runtime.bundle.schema import (
    BUNDLE_FILE,
    MACS_OUTPUT,
    PRICE_KNOB,
    THRESHOLDS_KNOB,
    TOKEN_PRICE_KNOB,
    Bundle,
    DataFile,
    Dense,
    Knob,
    TensorSpec,
)
from adaptrt.runtime.bundle.stage_validation import check_stages
from adaptrt.runtime.bundle.table_validation import check_budget_table
from adaptrt.runtime.bundle.tensor_validation import (
    DTYPES,
    MAX_RANK,
    MAX_SIZE,
    check_axes,
    check_input,
    check_tensor,
)

MAX_ENTRIES = 1_000
MAX_PREPROCESSING_FILES = 100
MAX_CLASSES = 100_000

_NOT_IN_PATHS = frozenset('\\:*?"<>|')
"""Windows forbids them, and ONNX Runtime reads ``*/…`` as its own marker for an address in memory."""
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def check_bundle(bundle: Bundle) -> None:
    """Check everything about a bundle that needs no file.

    Raises:
        Invalid: names the first value that was wrong, what was expected and what to do.
    """
    for key, value in (("name", bundle.name), ("producer", bundle.producer)):
        expect_text(key, value)
    for key, text in (("quality_metric", bundle.quality_metric), ("task", bundle.task)):
        if text is not None:
            expect_text(key, text)
    for key, count, least, most in (
        ("inputs", len(bundle.inputs), 1, MAX_ENTRIES),
        ("outputs", len(bundle.outputs), 1, MAX_ENTRIES),
        ("stages", len(bundle.stages), 1, MAX_ENTRIES),
        ("knobs", len(bundle.knobs), 0, MAX_ENTRIES),
        ("curve", len(bundle.curve), 0, MAX_CURVE_POINTS),
        ("ops", len(bundle.ops), 0, MAX_ENTRIES),
        ("files", len(bundle.files), 0, MAX_PREPROCESSING_FILES),
        ("class_names", len(bundle.class_names), 0, MAX_CLASSES),
    ):
        expect(least <= count <= most, f"{key}: {count} entries", f"{least} to {most}")
    for spec in bundle.inputs:
        check_input(f"inputs {short(spec.name)}", spec)
    for spec in bundle.outputs:
        check_tensor(f"outputs {short(spec.name)}", spec)
    for knob in bundle.knobs:
        _check_knob(f"knobs {short(knob.name)}", knob)
    expect_unique("inputs and knobs", [*(spec.name for spec in bundle.inputs), *(knob.name for knob in bundle.knobs)])
    expect_unique("outputs", [spec.name for spec in bundle.outputs])
    _check_macs_output(bundle.outputs)
    for number, stage in enumerate(bundle.stages):
        _check_file(f"stages[{number}]", stage.file, stage.sha256, stage.external_data)
    expect_unique("stages", [stage.file for stage in bundle.stages])
    _check_dense(bundle.dense)
    fine = not bundle.dense.unsplit or (bundle.dense.file is not None and len(bundle.stages) > 1)
    expect(fine, "dense: unsplit true", "false without a file of the dense model, and in a bundle of one stage")
    fine = not bundle.dense.answers_full or bundle.dense.file is not None
    expect(fine, "dense: answers_full true", "false without a file of the dense model")
    _check_preprocessing_files(bundle)
    _check_class_names(bundle)
    check_stages(bundle)
    check_decisions(bundle)
    check_axes(bundle)
    check_sources(bundle)
    check_curve(bundle)
    check_budget_table(bundle)
    for op, learners in bundle.ops.items():
        expect_text("ops", op)
        expect(1 <= learners <= MAX_SIZE, f"ops {op!r}: {learners} learners", f"1 to {MAX_SIZE}")


def _check_class_names(bundle: Bundle) -> None:
    for name in bundle.class_names:
        expect_text("class_names", name)
    for spec in bundle.outputs:
        if bundle.class_names and spec.name == "logits" and spec.shape and isinstance(spec.shape[-1], int):
            many = f"{spec.shape[-1]}, as many as logits has classes, or none"
            expect(len(bundle.class_names) == spec.shape[-1], f"class_names: {len(bundle.class_names)} names", many)


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
    expect(plain, f"{where}: path {short(path)}", "a relative path inside the bundle's folder")


def _check_knob(where: str, knob: Knob) -> None:
    expect_text(where, knob.name)
    expect(knob.dtype in DTYPES, f"{where}: dtype {short(knob.dtype)}", f"one of {', '.join(DTYPES)}")
    expect(len(knob.shape) <= MAX_RANK, f"{where}: {len(knob.shape)} axes", f"at most {MAX_RANK}")
    expect(
        all(size >= 1 for size in knob.shape) and math.prod(knob.shape) <= 65_536,
        f"{where}: shape {knob.shape}",
        "fixed sizes, at most 65536 values",
    )
    if knob.name in {PRICE_KNOB, TOKEN_PRICE_KNOB}:
        fine = knob.dtype == "float32" and math.prod(knob.shape) == 1
        expect(fine, f"{where}: {knob.dtype} {knob.shape}", "float32 [1]")
    kind = np.dtype(knob.dtype).kind
    least, most = (-math.inf, math.inf) if knob.name == THRESHOLDS_KNOB else _range(np.dtype(knob.dtype))
    finite = _range(np.dtype(knob.dtype))
    for value in (knob.minimum, knob.maximum, knob.default):
        held = math.isinf(value) or finite[0] <= value <= finite[1]
        expect(held, f"{where}: {value}", f"a number that {knob.dtype} can hold")
        expect(least <= value <= most, f"{where}: {value}", f"a number that {knob.dtype} can hold")
    expect(
        knob.minimum <= knob.default <= knob.maximum,
        f"{where}: minimum {knob.minimum}, default {knob.default}, maximum {knob.maximum}",
        "minimum <= default <= maximum",
    )
    expect(
        kind == "f" or knob.name == THRESHOLDS_KNOB or float(knob.default).is_integer(),
        f"{where}: default {knob.default}",
        "a whole number",
    )


def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """As Python numbers: a float compares exactly with the whole number 2^63 - 1, which no float is."""
    if dtype.kind == "b":
        return 0, 1
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return (float(limits.min), float(limits.max)) if dtype.kind == "f" else (int(limits.min), int(limits.max))


def _check_macs_output(outputs: Sequence[TensorSpec]) -> None:
    shares = [spec for spec in outputs if spec.name == MACS_OUTPUT]
    names = ", ".join(repr(spec.name) for spec in outputs[:10])
    expect(bool(shares), f"outputs: {names}", f"{MACS_OUTPUT!r} among them")
    fine = shares[0].dtype == "float32" and len(shares[0].shape) == 1
    expect(fine, f"outputs {MACS_OUTPUT!r}: {shares[0].dtype} {shares[0].shape}", "float32 ['batch']")


def _check_file(where: str, file: str, sha256: str, external_data: Sequence[DataFile]) -> None:
    check_relative_path(where, file)
    fine = SHA256.fullmatch(sha256) is not None
    expect(fine, f"{where}: sha256 {short(sha256)}", "64 lowercase hexadecimal digits")
    expect(
        len(external_data) <= MAX_ENTRIES,
        f"{where}: {len(external_data)} data files",
        f"at most {MAX_ENTRIES}",
    )
    for data in external_data:
        _check_file(f"{where} external_data", data.file, data.sha256, ())
    expect_unique(f"{where} external_data", [data.file for data in external_data])


def _check_preprocessing_files(bundle: Bundle) -> None:
    for entry in bundle.files:
        where = f"files {short(entry.role)}"
        expect_text("files role", entry.role)
        _check_file(where, entry.file, entry.sha256, ())
        expect("/" not in entry.file, f"{where}: path {short(entry.file)}", "a file directly in the bundle's folder")
    expect_unique("files' roles", [entry.role for entry in bundle.files])
    others = [BUNDLE_FILE, *(stage.file for stage in bundle.stages)]
    expect_unique("files and stages", [*others, *(entry.file for entry in bundle.files)])


def _check_dense(dense: Dense) -> None:
    for key, value in (("macs", dense.macs), ("parameters", dense.parameters)):
        expect(1 <= value < 2**63, f"dense: {key} {value}", "1 to 2^63 - 1")
    expect_finite("dense quality", [dense.quality])
    if dense.file is not None:
        _check_file("dense", dense.file, dense.sha256 or "", dense.external_data)
