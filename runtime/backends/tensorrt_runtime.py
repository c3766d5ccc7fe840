"""What the stages of a model share in TensorRT: its runtime, its log, its plugins and one device."""

from __future__ import annotations

import importlib
import re
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any

from adaptrt.runtime.backends import StageProgram
from adaptrt.runtime.backends.backend_table import BackendRecord
from adaptrt.runtime.backends.cuda import CudaDevice
from adaptrt.runtime.bundle.engine_files import EngineSet, build_command
from adaptrt.runtime.errors import BackendError, one_line

SAID_NOTHING = "it logged nothing"
_LOADED: set[Path] = set()
"""Plugin libraries: a process loads each once, and TensorRT's registry keeps it."""


class TensorRTRuntime:
    """What the stages of one model share: TensorRT's runtime, its log, one device with one stream.

    Args:
        record: the backend's row.
        engines: what the bundle has for it.
        folder: where that lies.
        plugin_library: shared library of adaptrt's plugins, for engines that need it.
        rtx: whether it is TensorRT-RTX, which records graphs by itself.

    Raises:
        BackendError: TensorRT or cuda-bindings is not installed, there is no GPU, the engines are for another
            version or another GPU, or the plugin library is missing or does not load.
    """

    def __init__(
        self, record: BackendRecord, engines: EngineSet, folder: Path, plugin_library: Path | None, *, rtx: bool
    ) -> None:
        self.trt = trt = _import(record)
        bundle, precision, plugins = folder.parent.parent, engines.precision, engines.plugins
        target = record.target
        self.again = f"run `{build_command(bundle, target, precision, plugins)}`"
        self.title = f"{record.title} {trt.__version__}"
        self.kind = f"{self.title} {precision}, plugins: {plugins}"
        self.rtx = rtx
        if not engines.engine_version:
            raise BackendError(
                f"{folder}: prepared, but no engine was built, expected one of {self.title}; "
                f"{self.again} where {record.title} is installed"
            )
        if _version(engines.engine_version) != _version(trt.__version__):
            raise BackendError(
                f"{folder}: built by version {engines.engine_version}, expected {trt.__version__}, which is installed; "
                f"{self.again}"
            )
        self.device = CudaDevice()
        architecture = self.device.architecture
        if engines.arch and architecture not in engines.arch.split():
            raise BackendError(
                f"{folder}: built for compute capability {engines.arch}, expected {architecture}, which this GPU has; "
                f"run `{build_command(bundle, target, precision, plugins, architecture)}`"
            )
        self.log = _log_class(trt)()
        if engines.plugins == "library":
            self._load_plugins(folder, plugin_library)
        self._runtime = trt.Runtime(self.log)

    def deserialise(self, program: StageProgram) -> Any:
        """An engine of a stage's bytes.

        Raises:
            BackendError: TensorRT refuses them.
        """
        self.log.clear()
        with self.device.locked():
            engine = self._runtime.deserialize_cuda_engine(program.model)
        if engine is None:
            raise BackendError(f"{program.file}: {self.title} refuses the engine ({self.log.said()}); {self.again}")
        return engine

    def context(self, engine: Any, program: StageProgram) -> Any:
        """An execution context.

        Raises:
            BackendError: there is not the memory for it.
        """
        self.log.clear()
        if self.rtx:
            # TensorRT-RTX compiles kernels for the shapes it meets while it runs, and records again by itself.
            config = engine.create_runtime_config()
            config.cuda_graph_strategy = self.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context()
        if context is None:
            raise BackendError(
                f"{program.file}: {self.title} makes no execution context ({self.log.said()}); "
                "free memory on the GPU, or build for a smaller batch"
            )
        return context

    def _load_plugins(self, folder: Path, library: Path | None) -> None:
        if library is None:
            raise BackendError(
                f"{folder}: built with --plugins library, expected the library of adaptrt's plugins; pass "
                "plugin_library (--plugin-library), or build with other --plugins"
            )
        path = library.resolve()
        if path in _LOADED:
            return
        if not path.is_file():
            raise BackendError(
                f"no file {str(library)!r}, expected the library of adaptrt's plugins; make it, or correct the path"
            )
        self.log.clear()
        try:
            handle = self.trt.get_plugin_registry().load_library(str(path))
        except Exception as error:  # pybind's exceptions share no base class
            handle, reason = None, one_line(error)
        else:
            reason = self.log.said()
        if handle is None:
            raise BackendError(
                f"{library}: {self.title} does not load it ({reason}), expected plugins made for this version; "
                "make it again"
            )
        _LOADED.add(path)


def _log_class(trt: ModuleType) -> Any:
    """TensorRT's logger, keeping the last errors for messages instead of printing them."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: deque[str] = deque(maxlen=3)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self._errors.append(msg)

        def clear(self) -> None:
            self._errors.clear()

        def said(self) -> str:
            return one_line(Exception(" ".join(self._errors))) if self._errors else SAID_NOTHING

    return Log


def _version(text: str) -> tuple[int, ...]:
    """The numbers of a version: an engine runs in the very version that built it."""
    numbers = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, numbers.group().split("."))) if numbers else ()


def _import(record: BackendRecord) -> ModuleType:
    errors = []
    for name in record.modules:
        try:
            return importlib.import_module(name)
        except Exception as error:  # noqa: PERF203 - ImportError, or what a library that does not load raises
            errors.append(one_line(error))
    raise BackendError(
        f"{record.modules[0]} cannot be imported ({'; '.join(errors)}), expected it beside adaptrt; {record.install}"
    )
