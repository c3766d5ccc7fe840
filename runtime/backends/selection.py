"""Which backend runs a bundle, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from adaptrt import AdaptrtError
from adaptrt.runtime.backends import Backend, Settings, StageProgram
from adaptrt.runtime.backends.stage_interface import check_interfaces
from adaptrt.runtime.bundle import bundle_files
from adaptrt.runtime.bundle.engine_files import (
    EngineSet,
    build_command,
    check_source,
    engine_folder,
    read_engine,
    read_engines,
    read_prepared,
)
from adaptrt.runtime.bundle.schema import Bundle
from adaptrt.runtime.errors import BackendError, BundleError

AUTO = "auto"
_Made = tuple[str, list[Backend]]
_BUILT_PRECISIONS = ("fp16", "fp32")
"""Of the engines in a bundle the first is taken: half precision is only built where quality stands it."""


class Chosen(NamedTuple):
    """What runs a bundle.

    Attributes:
        name: of the backend.
        reason: why this one, in words.
        precision: that it computes in; what decides may be kept in float32.
        backends: one for each stage.
        on_host: whether they compute in the host's memory alone.
    """

    name: str
    reason: str
    precision: str
    backends: list[Backend]
    on_host: bool


def check_backend(name: str) -> None:
    """Refuse the name of a backend that does not exist.

    Raises:
        BackendError: lists those that do.
    """
    if name != AUTO and name not in _BACKENDS:
        names = ", ".join(map(repr, (*_BACKENDS, AUTO)))
        raise BackendError(f"got backend {name!r}, expected one of {names}; name one")


def create_backends(name: str, root: Path, bundle: Bundle, settings: Settings) -> Chosen:
    """Hand the stages of a bundle to a backend.

    Args:
        name: one of ``BACKENDS``, which is then used or an error raised; or ``"auto"``, which takes the
            first that can run this bundle here: an engine for this GPU, what was prepared for OpenVINO,
            the portable files with ONNX Runtime.
        root: the bundle's folder.
        bundle: its content, already checked.
        settings: how to run.

    Raises:
        BundleError: files are missing or damaged, or are not what ``bundle.json`` says.
        BackendError: no such backend, its package is missing, or it refuses the graph or the settings.
    """
    check_backend(name)
    if name != AUTO:
        return _create(name, "it was asked for", root, bundle, settings)
    if settings.providers is not None:
        reason = "providers were named, which are ONNX Runtime's"
        return _create("onnxruntime", reason, root, bundle, settings)
    passed: list[str] = []
    for candidate in _IN_ORDER:
        if candidate in _TARGETS and not _built(candidate, root):
            passed.append(f"{candidate}: nothing built for it")
            continue
        reason = _FOUND[candidate] + (f" ({'; '.join(passed)})" if passed else "")
        try:
            return _create(candidate, reason, root, bundle, settings)
        except AdaptrtError as error:
            if candidate not in _TARGETS and isinstance(error, BundleError):
                raise  # it is the bundle itself
            passed.append(f"{candidate}: {error}")
    raise BackendError(f"no backend can run {root}, expected one of {', '.join(_IN_ORDER)}: {'; '.join(passed)}")


def _create(name: str, reason: str, root: Path, bundle: Bundle, settings: Settings) -> Chosen:
    precision, backends = _BACKENDS[name](root, bundle, settings)
    check_interfaces(bundle, backends, root)
    on_host = settings.providers is None and name in ("onnxruntime", "openvino")
    return Chosen(name, reason, precision, backends, on_host)


def _onnxruntime(root: Path, bundle: Bundle, settings: Settings) -> _Made:
    from adaptrt.runtime.backends.onnxruntime import OnnxRuntimeBackend

    backends: list[Backend] = []
    for number, stage in enumerate(bundle.stages):
        file = root / stage.file
        model = bundle_files.read_stage(root, stage, place=bundle_files.stage_place(bundle, number))
        program = _program(bundle, model, file, file.parent if stage.external_data else None)
        backends.append(OnnxRuntimeBackend(program, settings))
    return "fp32", backends


def _openvino(root: Path, bundle: Bundle, settings: Settings) -> _Made:
    from adaptrt.runtime.backends.openvino import OpenVinoBackend, check_settings

    _no_providers("openvino", settings)
    check_settings(settings)
    folder = engine_folder(root, "openvino", "fp16" if settings.precision == "fp16" else "fp32")
    engines = _engines(folder, root, bundle, "openvino")
    backends: list[Backend] = []
    for stage in engines.stages:
        model = read_prepared(folder, stage)
        data_folder = folder if stage.external_data else None
        program = _program(bundle, model, folder / stage.prepared.file, data_folder)
        backends.append(OpenVinoBackend(program, settings))
    return settings.precision or "fp32", backends


def _tensorrt(root: Path, bundle: Bundle, settings: Settings) -> _Made:
    return _engine_backends("tensorrt", root, bundle, settings)


def _tensorrt_rtx(root: Path, bundle: Bundle, settings: Settings) -> _Made:
    return _engine_backends("tensorrt-rtx", root, bundle, settings)


def _engine_backends(target: str, root: Path, bundle: Bundle, settings: Settings) -> _Made:
    from adaptrt.runtime.backends.tensorrt import TensorRTBackend
    from adaptrt.runtime.backends.tensorrt_runtime import TensorRTRuntime

    _no_providers(target, settings)
    if settings.precision not in {None, *_BUILT_PRECISIONS}:
        expected = " or ".join(map(repr, _BUILT_PRECISIONS))
        raise BackendError(
            f"got precision={settings.precision!r}, expected {expected} with backend {target!r}; "
            "name one or leave it out"
        )
    found = [p for p in _BUILT_PRECISIONS if engine_folder(root, target, p).exists()]
    folder = engine_folder(root, target, settings.precision or next(iter(found), "fp32"))
    engines = _engines(folder, root, bundle, target)
    runtime = TensorRTRuntime(target, engines, folder, settings.plugin_library)
    backends: list[Backend] = []
    for stage in engines.stages:
        file = folder / (stage.engine or stage.prepared).file
        backends.append(TensorRTBackend(runtime, _program(bundle, read_engine(folder, stage), file, None)))
    return engines.precision, backends


def _engines(folder: Path, root: Path, bundle: Bundle, target: str) -> EngineSet:
    if not folder.exists():
        command = build_command(root, target, folder.name.rpartition("-")[2])
        raise BundleError(
            f"no {folder.relative_to(root)} in {root}, expected it for backend {target!r}; run `{command}`"
        )
    engines = read_engines(folder, verify_hashes=False)  # taken where the bytes are used
    check_source(engines, bundle, folder)
    return engines


def _program(bundle: Bundle, model: bytes, file: Path, data_folder: Path | None) -> StageProgram:
    return StageProgram(
        model=model,
        file=file,
        data_folder=data_folder,
        outputs=tuple(spec.name for spec in bundle.outputs),
        alone=len(bundle.stages) == 1,
    )


def _no_providers(name: str, settings: Settings) -> None:
    if settings.providers is not None:
        raise BackendError(
            f"got providers={settings.providers!r} with backend {name!r}, expected None; they are ONNX Runtime's"
        )


def _built(target: str, root: Path) -> bool:
    return any(engine_folder(root, target, precision).exists() for precision in _BUILT_PRECISIONS)


_BACKENDS: dict[str, Callable[[Path, Bundle, Settings], _Made]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt_rtx,
}
BACKENDS: Sequence[str] = tuple(_BACKENDS)
_TARGETS = ("tensorrt", "tensorrt-rtx", "openvino")
_IN_ORDER = (*_TARGETS, "onnxruntime")
_FOUND = {
    "tensorrt": "the bundle has an engine for this TensorRT and this GPU",
    "tensorrt-rtx": "the bundle has an engine for this TensorRT-RTX and this GPU",
    "openvino": "the bundle is prepared for OpenVINO, which is installed",
    "onnxruntime": "it runs every bundle",
}
