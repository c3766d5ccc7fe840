"""Reading and writing ``bundle.json``.

A bundle comes from somewhere else, so everything in it is checked here before anything is run: the
JSON's types by msgspec, what its values must satisfy by ``bundle_validation``, the files it names by
``bundle_files``.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from adaptrt.runtime import bundle_files
from adaptrt.runtime.bundle_schema import (
    BUNDLE_FILE,
    FORMAT_VERSION,
    Bundle,
    Carry,
    CurvePoint,
    DataFile,
    Dense,
    ImagePreprocessing,
    Knob,
    KnobValue,
    Stage,
    TensorSpec,
)
from adaptrt.runtime.bundle_validation import check_bundle
from adaptrt.runtime.errors import BundleError, one_line
from adaptrt.runtime.expectations import Invalid

__all__ = [
    "BUNDLE_FILE",
    "FORMAT_VERSION",
    "Bundle",
    "Carry",
    "CurvePoint",
    "DataFile",
    "Dense",
    "ImagePreprocessing",
    "Knob",
    "KnobValue",
    "Stage",
    "TensorSpec",
    "encode_bundle",
    "read_bundle",
]

MAX_BUNDLE_BYTES = 16 * 1024 * 1024


class _Version(msgspec.Struct):
    """Read first, so that a future format is named as such whatever else has changed in it."""

    format_version: int | None = None


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
        bundle = _decode(text)
        check_bundle(bundle)
    except Invalid as error:
        raise BundleError(f"{path}: {error}") from None
    bundle_files.check_files(root, bundle)
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
        text = bundle_files.encode_checked(bundle, check_bundle, _decode)
    except (Invalid, TypeError, ValueError) as error:
        raise BundleError(f"bundle {bundle.name!r} not written: {one_line(error)}") from None
    if len(text) > MAX_BUNDLE_BYTES:
        raise BundleError(
            f"bundle {bundle.name!r} not written: {len(text)} bytes of JSON, at most {MAX_BUNDLE_BYTES} "
            "expected; calibrate fewer points"
        )
    return text


def _decode(text: bytes) -> Bundle:
    try:
        version = msgspec.json.decode(text, type=_Version).format_version
        if version != FORMAT_VERSION:
            raise Invalid(
                f"format_version is {'missing' if version is None else version}, expected {FORMAT_VERSION}; "
                "export the model again with this adaptrt, or install the adaptrt that wrote it"
            )
        return msgspec.json.decode(text, type=Bundle)
    except msgspec.ValidationError as error:
        raise Invalid(f"{one_line(error)}; export the model again") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"not readable as JSON ({one_line(error)}); copy the bundle or export the model again") from None
