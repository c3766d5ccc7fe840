"""The curve of a bundle as it was measured on one of its engines: decisions move with precision, and so does work.

It is kept beside the engine as a whole description of the bundle, checked like ``bundle.json`` is.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from adaptrt.runtime.bundle import bundle_files
from adaptrt.runtime.bundle.bundle_file import MAX_BUNDLE_BYTES, encode_bundle
from adaptrt.runtime.bundle.expectations import Invalid
from adaptrt.runtime.bundle.json_form import decode_bundle
from adaptrt.runtime.bundle.schema import Bundle
from adaptrt.runtime.bundle.validation import check_bundle
from adaptrt.runtime.errors import BundleError

CALIBRATION_FILE = "calibration.json"
"""Its name in a folder of engines."""


def encode_calibration(bundle: Bundle) -> bytes:
    """The bytes of the file.

    Raises:
        BundleError: The bundle is not one that could be read.
    """
    return encode_bundle(bundle)


def with_engine_curve(folder: Path, bundle: Bundle) -> Bundle:
    """A bundle with the curve and the table of budgets of an engine, or as it is where there are none.

    Args:
        folder: Of the engines, in the bundle's.
        bundle: As read.

    Raises:
        BundleError: The file is damaged, leads out of the folder, or is of another export.
    """
    path = folder / CALIBRATION_FILE
    again = "calibrate again with `adaptrt calibrate --precision`"
    if not path.exists() and not path.is_symlink():
        return bundle
    try:
        root = folder.resolve(strict=True)
        text = bundle_files.read_file(root, CALIBRATION_FILE, limit=MAX_BUNDLE_BYTES, lister="the engine", again=again)
        own = decode_bundle(text)
        check_bundle(own)
    except Invalid as error:
        raise BundleError(f"{path}: {error}") from None
    if [stage.sha256 for stage in own.stages] != [stage.sha256 for stage in bundle.stages] or own.knobs != bundle.knobs:
        raise BundleError(f"{path}: of other stages or knobs, expected those of {bundle.name!r}; {again}")
    return msgspec.structs.replace(
        bundle, curve=own.curve, budget_table=own.budget_table, quality_metric=own.quality_metric, data=own.data
    )
