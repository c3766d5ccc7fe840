"""Reading and writing ``bundle.json``.

A bundle comes from somewhere else, so everything in it is checked here before anything is run: the
JSON's types by msgspec, what its values must satisfy by ``validation``, the files it names by
``bundle_files``.
"""

from __future__ import annotations

from pathlib import Path

from adaptrt.runtime.bundle import bundle_files
from adaptrt.runtime.bundle.expectations import Invalid
from adaptrt.runtime.bundle.json_form import decode_bundle
from adaptrt.runtime.bundle.preprocessing_schema import AudioPreprocessing, ImagePreprocessing, TextPreprocessing
from adaptrt.runtime.bundle.schema import (
    BUNDLE_FILE,
    FORMAT_VERSION,
    Axis,
    BudgetPoint,
    BudgetRow,
    BudgetTable,
    Bundle,
    Carry,
    CurvePoint,
    DataFile,
    DecisionSpec,
    Dense,
    Knob,
    KnobValue,
    PreprocessingFile,
    Stage,
    TensorSpec,
    TokenSet,
)
from adaptrt.runtime.bundle.validation import check_bundle
from adaptrt.runtime.errors import BundleError, one_line

__all__ = [
    "BUNDLE_FILE",
    "FORMAT_VERSION",
    "AudioPreprocessing",
    "Axis",
    "BudgetPoint",
    "BudgetRow",
    "BudgetTable",
    "Bundle",
    "Carry",
    "CurvePoint",
    "DataFile",
    "DecisionSpec",
    "Dense",
    "ImagePreprocessing",
    "Knob",
    "KnobValue",
    "PreprocessingFile",
    "Stage",
    "TensorSpec",
    "TextPreprocessing",
    "TokenSet",
    "encode_bundle",
    "read_bundle",
]

MAX_BUNDLE_BYTES = 16 * 1024 * 1024


def read_bundle(folder: str | Path, *, verify_hashes: bool = True) -> Bundle:
    """Read and check an exported folder.

    Args:
        folder: the folder that holds ``bundle.json``.
        verify_hashes: also read every file that the bundle names, compare its hash, and look for
            references to files outside. ``adaptrt.runtime.load`` always does, on the very bytes it runs.

    Raises:
        BundleError: the folder or a file is missing, truncated, of another format version, of
            absurd size, altered since export, or reaches outside the folder.
    """
    root = bundle_files.bundle_root(folder)
    path = root / BUNDLE_FILE
    text = bundle_files.read_file(root, BUNDLE_FILE, limit=MAX_BUNDLE_BYTES)
    try:
        bundle = decode_bundle(text)
        check_bundle(bundle)
    except Invalid as error:
        raise BundleError(f"{path}: {error}") from None
    bundle_files.check_files(root, bundle)
    bundle_files.verify_preprocessing(root, bundle)
    if verify_hashes:
        for number, stage in enumerate(bundle.stages):
            bundle_files.read_stage(root, stage, place=bundle_files.stage_place(bundle, number))
        bundle_files.verify_dense(root, bundle.dense)
    return bundle


def encode_bundle(bundle: Bundle) -> bytes:
    """The bytes of ``bundle.json``: indented, the same for equal bundles, checked like a bundle read.

    Raises:
        BundleError: ``read_bundle`` would refuse the result.
    """
    try:
        text = bundle_files.encode_checked(bundle, check_bundle, decode_bundle)
    except (Invalid, TypeError, ValueError) as error:
        raise BundleError(f"bundle {bundle.name!r} not written: {one_line(error)}") from None
    if len(text) > MAX_BUNDLE_BYTES:
        raise BundleError(
            f"bundle {bundle.name!r} not written: {len(text)} bytes of JSON, at most {MAX_BUNDLE_BYTES} "
            "expected; calibrate fewer points"
        )
    return text
