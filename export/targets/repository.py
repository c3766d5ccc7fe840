"""Models for other servers: a folder of each model, written from a bundle, all of it or nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adaptrt.export.errors import ExportError
from adaptrt.export.staging import staged_folder
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.bundle.bundle_files import bundle_root
from adaptrt.runtime.bundle.schema import BUNDLE_FILE, Bundle
from adaptrt.runtime.bundle.target_table import REPOSITORIES, RepositoryRecord
from adaptrt.runtime.table import either, imported

MARK = "# Written by `adaptrt build`"
"""How the configuration of a model begins that may be replaced."""
CONFIG_FILE = "config.pbtxt"
VERSION_FOLDER = "1"

_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)


@dataclass(frozen=True)
class RepositorySettings:
    """What to write.

    Attributes:
        target: A name of ``REPOSITORIES``.
        repository: The folder of all models; the model gets a folder in it.
        precision: One of the target's.
        max_batch: Samples that the server may batch.
    """

    target: str
    repository: Path
    precision: str = "fp32"
    max_batch: int = 64


@dataclass(frozen=True)
class RepositoryReport:
    """What was written.

    Attributes:
        folder: Of the model.
        model: Its name.
        notes: What the user should know.
    """

    folder: Path
    model: str
    notes: list[str]


class RepositoryBuilder:
    """Writes the folder of one model.

    Args:
        record: The target's row.
    """

    def __init__(self, record: RepositoryRecord) -> None:
        self.record = record

    def write(self, root: Path, bundle: Bundle, settings: RepositorySettings, model: str, staged: Path) -> list[str]:
        """Write the model into an empty folder.

        Args:
            root: The bundle's folder.
            bundle: Read from it, hashes verified.
            settings: What to write.
            model: The model's name.
            staged: The folder.

        Returns:
            Notes for the user.

        Raises:
            ExportError: The bundle cannot be served so.
        """
        raise NotImplementedError


def write_model(bundle_folder: Path, settings: RepositorySettings) -> RepositoryReport:
    """Write a bundle as a model of another server's repository; one that a build wrote before is replaced.

    Raises:
        BundleError: The bundle is damaged, or not built in the precision.
        ExportError: Settings that do not go together, a bundle that cannot be served so, or something else is there.
    """
    record = REPOSITORIES[settings.target]
    if settings.precision not in record.precisions:
        raise ExportError(
            f"got precision {settings.precision!r} for {record.name}, expected {either(record.precisions)}; name one"
        )
    bundle, root = read_bundle(bundle_folder), bundle_root(bundle_folder)
    model = f"{bundle.name}{record.suffix}"
    if not _MODEL_NAME.fullmatch(model):
        raise ExportError(
            f"got a bundle named {bundle.name!r}, expected letters, digits, '.', '_' and '-', since the model's folder "
            "is called so; export it under such a name"
        )
    folder = settings.repository / model
    if folder.resolve().is_relative_to(root):
        raise ExportError(f"got the output {folder} in the bundle itself, expected another folder; name one")
    if (settings.repository / BUNDLE_FILE).exists():
        raise ExportError(
            f"got the output {settings.repository}, a bundle's folder, expected one for models of the server; "
            "name another"
        )
    builder: RepositoryBuilder = imported(record.builder)(record)
    with staged_folder(folder, _check_replaceable) as staged:
        notes = builder.write(root, bundle, settings, model, staged)
    return RepositoryReport(folder, model, notes)


def copy_bundle(root: Path, bundle: Bundle, precision: str, portable: str, folder: Path) -> None:
    """Copy what runs of a bundle: the files that it lists, and what was built in a precision.

    Args:
        root: The bundle's folder.
        bundle: Read from it.
        precision: That is wanted.
        portable: The folder in the bundle that holds what was built in it, empty for the portable files.
        folder: To be made.

    Raises:
        ExportError: Nothing was built in that precision.
    """
    if portable and not (root / portable).is_dir():
        raise ExportError(
            f"no {portable} in {root}, expected what was built in {precision}; run adaptrt build {root} --target "
            f"{Path(portable).name.rpartition('-')[0]} --precision {precision} first"
        )
    for name in _listed(root, bundle):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, place)
    if portable:
        shutil.copytree(root / portable, folder / portable)


def _listed(root: Path, bundle: Bundle) -> Iterator[str]:
    yield BUNDLE_FILE
    for stage in bundle.stages:
        yield from (stage.file, *(data.file for data in stage.external_data))
    yield from (entry.file for entry in bundle.files)
    dense = bundle.dense
    if dense.file is not None and (root / dense.file).is_file():
        yield from (dense.file, *(data.file for data in dense.external_data))


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace what is no model that a build wrote.

    Raises:
        ExportError: Something else is there.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    expected = "expected a model that `adaptrt build` wrote, or nothing; move it away or choose another --output"
    if folder.is_symlink() or not folder.is_dir():
        raise ExportError(f"{folder} is no folder, {expected}")
    files = {path.name for path in folder.iterdir()}
    config = folder / CONFIG_FILE
    ours = config.is_file() and config.read_bytes().startswith(MARK.encode())
    if files and not (ours and files <= {CONFIG_FILE, VERSION_FOLDER}):
        raise ExportError(f"{folder} holds other files, {expected}")
