"""A bundle's int8 graphs as a bundle of their own, for runtimes that take portable files only: C++, JavaScript.

Its stages are the graphs that ``adaptrt build --target onnxruntime`` prepared, standard operators throughout; its
curve and budget table are those that were measured on them, where ``adaptrt calibrate --precision int8`` ran.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec

from adaptrt.export.errors import ExportError
from adaptrt.export.staging import check_replaceable, staged_folder, write_file
from adaptrt.runtime.backends.backend_table import DEFAULT_BACKEND
from adaptrt.runtime.backends.int8_products import INT8, NARROW_BITS
from adaptrt.runtime.bundle.bundle_file import encode_bundle, read_bundle
from adaptrt.runtime.bundle.bundle_files import bundle_root
from adaptrt.runtime.bundle.engine_calibration import with_engine_curve
from adaptrt.runtime.bundle.engine_files import EngineStage, build_command, check_source, engine_folder, read_engines
from adaptrt.runtime.bundle.schema import BUNDLE_FILE, Bundle, DataFile

SUFFIX = "-int8"
"""What the name of the bundle ends in, so that one process may serve both."""


def write_int8_bundle(bundle_folder: Path, output: Path) -> Bundle:
    """Write what was built in int8 as a bundle, all of it or nothing.

    It has no golden inputs: those of the bundle it was made from hold torch's answers in float32, which its own are
    near to and not equal.

    Args:
        bundle_folder: A bundle with graphs in int8.
        output: Folder to be; a bundle that is there is replaced.

    Returns:
        What was written.

    Raises:
        BundleError: The bundle or what was built is damaged, or of another export.
        ExportError: Nothing was built in int8, its weights are not for every CPU, or the output is the bundle itself,
            holds other files or cannot be written.
    """
    bundle, root = read_bundle(bundle_folder), bundle_root(bundle_folder)
    if output.resolve().is_relative_to(root) or root.is_relative_to(output.resolve()):
        raise ExportError(
            f"got the output {output}, the bundle or a folder around or in it, expected another; name one"
        )
    folder = engine_folder(root, DEFAULT_BACKEND, INT8)
    again = build_command(bundle_folder, DEFAULT_BACKEND, INT8)
    if not folder.is_dir():
        raise ExportError(f"no {folder.relative_to(root)} in {bundle_folder}, expected graphs in int8; run `{again}`")
    engines = read_engines(folder)
    check_source(engines, bundle, folder)
    if (engines.weight_bits or 0) > NARROW_BITS:
        raise ExportError(
            f"got weights of {engines.weight_bits} bits in {folder}, expected {NARROW_BITS}, which are right on every "
            f"CPU: other runtimes do not ask what theirs is; run `{again} --weight-bits {NARROW_BITS} --rebuild`"
        )
    own = with_engine_curve(folder, bundle)
    stages = [
        msgspec.structs.replace(stage, **_files_of(built))
        for stage, built in zip(bundle.stages, engines.stages, strict=True)
    ]
    dense = msgspec.structs.replace(
        bundle.dense, file=None, sha256=None, external_data=[], unsplit=False, answers_full=False
    )
    parts = list(engines.stages)
    if engines.dense is not None and (folder / engines.dense.prepared.file).exists():
        parts.append(engines.dense)
        dense = msgspec.structs.replace(dense, answers_full=True, **_files_of(engines.dense))
    own = msgspec.structs.replace(own, name=f"{bundle.name}{SUFFIX}", stages=stages, dense=dense)
    with staged_folder(output, check_replaceable) as staged:
        for part in parts:
            for file in (part.prepared, *part.external_data):
                _copy(folder, file.file, staged)
        for entry in bundle.files:
            _copy(root, entry.file, staged)
        write_file(staged / BUNDLE_FILE, encode_bundle(own))
        read_bundle(staged)
    return own


def _files_of(built: EngineStage) -> dict[str, Any]:
    """The fields of a stage, or of the dense model, that name its files."""
    data = [DataFile(one.file, one.sha256) for one in built.external_data]
    return {"file": built.prepared.file, "sha256": built.prepared.sha256, "external_data": data}


def _copy(root: Path, name: str, folder: Path) -> None:
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / name, place)
