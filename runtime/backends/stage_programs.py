"""The stages of a bundle as engines are given them: the portable files, or what ``adaptrt build`` made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from adaptrt.runtime.backends import BackendSettings, StageProgram
from adaptrt.runtime.backends.backend_table import BackendRecord, provider_backend
from adaptrt.runtime.backends.stage_interface import dense_outputs
from adaptrt.runtime.bundle import bundle_files
from adaptrt.runtime.bundle.engine_files import (
    EngineSet,
    build_command,
    check_source,
    dense_is_there,
    engine_folder,
    read_engine,
    read_engines,
    read_prepared,
)
from adaptrt.runtime.bundle.schema import Bundle, Stage
from adaptrt.runtime.errors import BackendError, BundleError


def portable_programs(root: Path, bundle: Bundle) -> list[StageProgram]:
    """The stages as exported.

    Raises:
        BundleError: a file is missing or damaged.
    """
    programs = []
    for number, stage in enumerate(bundle.stages):
        file = root / stage.file
        model = bundle_files.read_stage(root, stage, place=bundle_files.stage_place(bundle, number))
        programs.append(_program(bundle, model, file, file.parent if stage.external_data else None))
    return programs


def unsplit_program(root: Path, bundle: Bundle) -> StageProgram | None:
    """The dense model, if it stands for the stages where everything runs and the bundle still has it.

    Raises:
        BundleError: it is damaged.
    """
    dense = bundle.dense
    if not dense.runs_everything or dense.file is None or not (root / dense.file).exists():
        return None
    stage = Stage(dense.file, dense.sha256 or "", external_data=dense.external_data)
    file = root / dense.file
    program = _program(bundle, bundle_files.read_stage(root, stage), file, file.parent if dense.external_data else None)
    return replace(program, outputs=tuple(spec.name for spec in dense_outputs(bundle)))


def dense_program(record: BackendRecord, root: Path, bundle: Bundle, precision: str) -> StageProgram | None:
    """What a backend runs in a precision where everything runs, in the place of the stages; None where these do.

    Raises:
        BundleError: a file is damaged, or was made of another export.
    """
    if not record.dense or not bundle.dense.runs_everything:
        return None
    if not record.prepared_for(precision):
        return unsplit_program(root, bundle)
    folder, engines = find_engines(record, root, bundle, precision)
    stage = engines.dense
    if stage is None or not dense_is_there(folder, engines):
        return None
    file = folder / stage.prepared.file
    program = _program(bundle, read_prepared(folder, stage), file, folder if stage.external_data else None)
    return replace(program, outputs=tuple(spec.name for spec in dense_outputs(bundle)))


def prepared_programs(folder: Path, engines: EngineSet, bundle: Bundle) -> list[StageProgram]:
    """The stages as prepared for an engine that compiles them when they are loaded.

    Raises:
        BundleError: a file is missing or damaged.
    """
    return [
        _program(
            bundle,
            read_prepared(folder, stage),
            folder / stage.prepared.file,
            folder if stage.external_data else None,
        )
        for stage in engines.stages
    ]


def engine_programs(folder: Path, engines: EngineSet, bundle: Bundle) -> list[StageProgram]:
    """The engines that were built of the stages.

    Raises:
        BundleError: a file is missing or damaged, or none was built.
    """
    return [
        _program(bundle, read_engine(folder, stage), folder / (stage.engine or stage.prepared).file, None)
        for stage in engines.stages
    ]


def find_engines(record: BackendRecord, root: Path, bundle: Bundle, precision: str) -> tuple[Path, EngineSet]:
    """What the bundle has for a backend in a precision, and where.

    Raises:
        BundleError: nothing was built, it is damaged, or it was made of another export.
    """
    target = record.target or record.prepared
    folder = engine_folder(root, target, precision)
    if not folder.exists():
        command = build_command(root, target, precision)
        raise BundleError(
            f"no {folder.relative_to(root)} in {root}, expected it for backend {record.name!r}; run `{command}`"
        )
    engines = read_engines(folder, verify_hashes=False)  # taken where the bytes are used
    check_source(engines, bundle, folder)
    return folder, engines


def refuse_providers(record: BackendRecord, settings: BackendSettings) -> None:
    """Refuse execution providers for a backend that has none.

    Raises:
        BackendError: there are some.
    """
    if settings.providers is not None:
        raise BackendError(
            f"got providers={settings.providers!r} with backend {record.name!r}, expected None; they are "
            f"{provider_backend().title}'s"
        )


def _program(bundle: Bundle, model: bytes, file: Path, data_folder: Path | None) -> StageProgram:
    return StageProgram(
        model=model,
        file=file,
        data_folder=data_folder,
        outputs=tuple(spec.name for spec in bundle.outputs),
        alone=len(bundle.stages) == 1,
    )
