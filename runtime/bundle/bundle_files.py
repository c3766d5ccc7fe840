"""The files of a bundle: found inside its folder, read once, hashed, and the same bytes handed on.

A hash guards against damage and mixed-up copies. Against a hostile bundle it also means that a file
outside can only be named by someone who already knows its content.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

import msgspec

from adaptrt.runtime.bundle.expectations import Invalid
from adaptrt.runtime.bundle.external_data import external_locations
from adaptrt.runtime.bundle.model_metadata import metadata_props
from adaptrt.runtime.bundle.schema import BUNDLE_FILE, STAGE_METADATA, Bundle, Dense, PreprocessingFile, Stage
from adaptrt.runtime.bundle.validation import check_relative_path
from adaptrt.runtime.errors import BundleError, one_line

MAX_MODEL_BYTES = 2**31 - 1
"""The most that protobuf parses; larger models keep their weights beside the graph."""

MAX_PREPROCESSING_BYTES = 256 * 1024 * 1024
"""A tokenizer of a quarter of a million words takes some 40 MB."""

EXPORT_AGAIN = "export the model again"

_CHUNK = 1024 * 1024

T = TypeVar("T")


def bundle_root(folder: str | Path) -> Path:
    """The folder with symbolic links resolved.

    Raises:
        BundleError: it is no folder, or holds no ``bundle.json``.
    """
    path = Path(folder)
    try:
        root = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise BundleError(f"no folder {str(path)!r}; expected a bundle, as `adaptrt export` writes it") from None
    if not root.is_dir():
        raise BundleError(f"{str(path)!r} is not a folder; give the folder that holds {BUNDLE_FILE}")
    if not (root / BUNDLE_FILE).exists():
        raise BundleError(f"no {BUNDLE_FILE} in {str(path)!r}; expected a bundle, as `adaptrt export` writes it")
    return root


def locate(root: Path, relative: str, *, lister: str = BUNDLE_FILE, again: str = EXPORT_AGAIN) -> Path:
    """The regular file that a checked relative path leads to.

    Args:
        root: the folder, with symbolic links resolved.
        relative: the path.
        lister: the file that names it, for messages.
        again: what makes it anew, for messages.

    Raises:
        BundleError: it does not exist, is no regular file, or a symbolic link leads out of ``root``.
    """
    try:
        path = (root / relative).resolve(strict=True)
    except (OSError, RuntimeError):
        raise BundleError(
            f"{root}: {relative!r} is missing, expected the file that {lister} names; copy the whole folder or {again}"
        ) from None
    if not path.is_relative_to(root):
        raise BundleError(
            f"{root}: {relative!r} is a link that leaves the folder, expected a file inside it; "
            "copy the bundle with its links resolved (cp -rL)"
        )
    if not path.is_file():
        raise BundleError(f"{root}: {relative!r} is not a regular file; copy the whole folder or {again}")
    return path


def read_file(root: Path, relative: str, *, limit: int, lister: str = BUNDLE_FILE, again: str = EXPORT_AGAIN) -> bytes:
    """The content of a file in the bundle, at most ``limit`` bytes of it.

    Raises:
        BundleError: as ``locate``, or it is larger or cannot be read.
    """
    path = locate(root, relative, lister=lister, again=again)
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            content = b"" if size > limit else file.read(size + 1)
            size = len(content) or size
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({one_line(error)}); check its permissions") from None
    if size > limit:
        raise BundleError(f"{path}: {size} bytes, expected at most {limit}; {again}")
    return content


def read_stage(root: Path, stage: Stage, *, place: str | None = None) -> bytes:
    """A stage's ONNX file, checked: what is returned is what was hashed and searched.

    Files of weights beside it are hashed where they lie (ONNX Runtime maps them into memory, which a
    device with little of it needs).

    Args:
        root: the bundle's folder.
        stage: which file.
        place: what the file must say its place among several stages is (``stage_place``); None where
            it is the only one.

    Raises:
        BundleError: a file is missing, altered, not an ONNX file, or another stage's, or refers to a
            file that is outside the folder or not listed in ``stage.external_data``.
    """
    model = read_file(root, stage.file, limit=MAX_MODEL_BYTES)
    compare_hash(root, stage.file, hashlib.sha256(model).hexdigest(), stage.sha256)
    try:
        locations = external_locations(model)
        places = metadata_props(model, STAGE_METADATA)
    except ValueError as error:
        raise BundleError(
            f"{root}: {stage.file!r} is not an ONNX file ({one_line(error)}); export the model again"
        ) from None
    if place is not None and places != [place]:
        raise BundleError(
            f"{root}: {stage.file!r} says that it is stage {' and '.join(map(repr, places)) or 'of no number'} of its "
            f"network ({STAGE_METADATA}), expected {place!r}; the stages were mixed up: copy the bundle again or "
            "export the model again"
        )
    check_locations(root, stage.file, locations, [data.file for data in stage.external_data])
    for data in stage.external_data:
        compare_hash(root, data.file, hash_file(locate(root, data.file)), data.sha256)
    return model


def stage_place(bundle: Bundle, number: int) -> str | None:
    """What the ONNX file of a stage says its place is, ``"<i>/<n>"`` counted from 0; None with one stage."""
    return f"{number}/{len(bundle.stages)}" if len(bundle.stages) > 1 else None


def check_files(root: Path, bundle: Bundle) -> None:
    """Check that every file needed to run the bundle is there and inside the folder."""
    for stage in bundle.stages:
        for file in (stage.file, *(data.file for data in stage.external_data)):
            locate(root, file)


def verify_dense(root: Path, dense: Dense) -> None:
    """Check the dense model's file where the bundle has one; a device may have left it out.

    Raises:
        BundleError: as ``read_stage``.
    """
    if dense.file is not None and dense.sha256 is not None and (root / dense.file).exists():
        read_stage(root, Stage(dense.file, dense.sha256, external_data=dense.external_data))


def verify_preprocessing(root: Path, bundle: Bundle) -> None:
    """Check the files that make the inputs.

    Raises:
        BundleError: as ``read_preprocessing``.
    """
    for entry in bundle.files:
        read_preprocessing(root, entry)


def read_preprocessing(root: Path, entry: PreprocessingFile) -> bytes:
    """The content of a file that makes inputs: what is returned is what was hashed.

    Args:
        root: the bundle's folder (``bundle_root``).
        entry: which file.

    Raises:
        BundleError: it is missing, altered, too large, or a link that leaves the folder.
    """
    content = read_file(root, entry.file, limit=MAX_PREPROCESSING_BYTES)
    compare_hash(root, entry.file, hashlib.sha256(content).hexdigest(), entry.sha256)
    return content


def check_locations(
    root: Path,
    file: str,
    locations: set[str],
    names: Collection[str],
    *,
    lister: str = BUNDLE_FILE,
    again: str = EXPORT_AGAIN,
) -> None:
    """Refuse an ONNX file that keeps weights where nothing was listed, outside the folder for one.

    Args:
        root: folder of the file.
        file: its name there.
        locations: of the weights that it refers to, from ``external_locations``.
        names: files that ``lister`` has for it.
        lister: what lists files.
        again: what to do about it.

    Raises:
        BundleError: it does.
    """
    for location in sorted(locations):
        try:
            check_relative_path(f"{file!r} keeps weights in another file", location.removeprefix("./"))
        except Invalid as error:
            raise BundleError(f"{root}: {error}") from None
        name = posixpath.normpath(posixpath.join(posixpath.dirname(file), location))
        if name not in names:
            raise BundleError(
                f"{root}: {file!r} keeps weights in {name!r}, expected one of the external_data files in "
                f"{lister} ({', '.join(sorted(names)) or 'none'}); {again}"
            )


def hash_file(path: Path) -> str:
    """SHA-256 of a file where it lies, in hexadecimal digits.

    Raises:
        BundleError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({one_line(error)}); check its permissions") from None
    return digest.hexdigest()


def compare_hash(root: Path, file: str, got: str, expected: str, *, again: str = EXPORT_AGAIN) -> None:
    """Refuse a file whose hash is not the one noted.

    Raises:
        BundleError: it is another.
    """
    if got != expected:
        raise BundleError(
            f"{root}: {file!r} was changed or damaged: sha256 is {got[:12]}…, expected {expected[:12]}…; "
            f"copy the bundle again or {again}"
        )


def encode_checked(content: T, check: Callable[[T], object], decode: Callable[[bytes], T]) -> bytes:
    """JSON, indented, the same for equal contents, that is as good read back as it was.

    Args:
        content: what is written.
        check: raises what is wrong with content.
        decode: reads the JSON back.
    """
    check(content)  # before encoding: JSON would turn NaN into null
    text = msgspec.json.format(msgspec.json.encode(content, order="deterministic"), indent=2) + b"\n"
    check(decode(text))
    return text
