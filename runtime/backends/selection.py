"""Which backend runs a bundle, and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from adaptrt import AdaptrtError
from adaptrt.runtime.backends import Backend, BackendSettings
from adaptrt.runtime.backends.backend_table import AUTO, BACKENDS, BackendRecord, attempts, in_order, provider_backend
from adaptrt.runtime.backends.stage_interface import check_interfaces, check_unsplit
from adaptrt.runtime.backends.stage_programs import dense_program
from adaptrt.runtime.bundle.engine_files import engine_folder
from adaptrt.runtime.bundle.schema import Bundle
from adaptrt.runtime.bundle.target_table import TARGETS
from adaptrt.runtime.errors import BackendError, BundleError
from adaptrt.runtime.table import either, imported


class Chosen(NamedTuple):
    """What runs a bundle.

    Attributes:
        name: of the backend.
        reason: why this one, in words.
        precision: that it computes in; what decides may be kept in float32.
        backends: one for each stage.
        unsplit: runs the whole network where everything runs; None where the stages do.
        on_host: whether they compute in the host's memory alone.
    """

    name: str
    reason: str
    precision: str
    backends: list[Backend]
    unsplit: Backend | None
    on_host: bool


def check_backend(name: str) -> None:
    """Refuse the name of a backend that does not exist.

    Raises:
        BackendError: lists those that do.
    """
    if name != AUTO and name not in BACKENDS:
        names = ", ".join(map(repr, (*BACKENDS, AUTO)))
        raise BackendError(f"got backend {name!r}, expected one of {names}; name one")


def create_backends(name: str, root: Path, bundle: Bundle, settings: BackendSettings) -> Chosen:
    """Hand the stages of a bundle to a backend.

    Args:
        name: one of ``BACKENDS``, which is then used or an error raised; or ``"auto"``, which takes the first in
            the table's order that can run this bundle here.
        root: the bundle's folder.
        bundle: its content, already checked.
        settings: how to run.

    Raises:
        BundleError: files are missing or damaged, or are not what ``bundle.json`` says.
        BackendError: no such backend, its package is missing, or it refuses the graph or the settings.
    """
    check_backend(name)
    if name != AUTO:
        _check_library(BACKENDS[name], settings)
        return _create(BACKENDS[name], "it was asked for", root, bundle, settings)
    if settings.providers is not None:
        record = provider_backend()
        return _create(record, f"providers were named, which are {record.title}'s", root, bundle, settings)
    passed: list[str] = []
    for attempt in attempts():
        record, own = attempt.record, settings
        if attempt.precision is not None:
            there = engine_folder(root, record.prepared, attempt.precision).exists()
            if not there or settings.precision is not None or settings.plugin_library is not None:
                continue
            own = replace(settings, precision=attempt.precision)
        elif record.target and not _built(record.target, root):
            passed.append(f"{record.name}: nothing built for it")
            continue
        reason = attempt.because + (f" ({'; '.join(passed)})" if passed else "")
        try:
            return _create(record, reason, root, bundle, own)
        except AdaptrtError as error:
            if not record.target and attempt.precision is None and isinstance(error, BundleError):
                raise  # it is the bundle itself
            passed.append(f"{attempt.name}: {error}")
    names = ", ".join(record.name for record in in_order())
    raise BackendError(f"no backend can run {root}, expected one of {names}: {'; '.join(passed)}")


def _check_library(record: BackendRecord, settings: BackendSettings) -> None:
    """Refuse a plugin library for a backend whose target takes none."""
    with_library = [other for other in in_order() if other.target and "library" in TARGETS[other.target].plugins]
    if settings.plugin_library is not None and record not in with_library:
        raise BackendError(
            f"got a plugin library with backend {record.name!r}, expected it with "
            f"{either(repr(other.name) for other in with_library)} alone; leave it out"
        )


def _create(record: BackendRecord, reason: str, root: Path, bundle: Bundle, settings: BackendSettings) -> Chosen:
    precision, backends = record.load(root, bundle, settings)
    check_interfaces(bundle, backends, root)
    on_host = settings.providers is None and record.on_host
    unsplit = open_unsplit(record, root, bundle, settings, precision)
    return Chosen(record.name, reason, precision, backends, unsplit, on_host)


def open_unsplit(
    record: BackendRecord, root: Path, bundle: Bundle, settings: BackendSettings, precision: str
) -> Backend | None:
    """What runs the whole network in one where everything runs; None where the stages do.

    Args:
        record: of the backend.
        root: the bundle's folder.
        bundle: its content.
        settings: how to run.
        precision: that the stages compute in.

    Raises:
        BundleError: the dense model's graph is damaged, or not what ``bundle.json`` says.
        BackendError: the backend refuses it.
    """
    program = dense_program(record, root, bundle, precision)
    if program is None:
        return None
    if record.prepared_for(precision):
        settings = replace(settings, precision=None)  # the graph itself is in that precision
    backend: Backend = imported(record.dense)(replace(program, alone=False), settings)
    check_unsplit(bundle, backend, program.file)
    return backend


def _built(target: str, root: Path) -> bool:
    return any(engine_folder(root, target, precision).exists() for precision in TARGETS[target].precisions)
