"""Engines by NVIDIA's builders. One file for TensorRT and TensorRT-RTX, whose Python modules differ by name.

TensorRT-RTX builds for any of its architectures on any machine, without a GPU; TensorRT builds for the GPU that it
runs on. TensorRT-RTX takes no plugins.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptrt import write_atomically
from adaptrt.export.errors import ExportError
from adaptrt.export.targets.profiles import InputRange
from adaptrt.runtime.bundle.target_table import TARGETS

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class EngineApi:
    """One of NVIDIA's builders.

    Attributes:
        target: A name of ``TARGETS``.
        module: Its Python module.
    """

    target: str
    module: Any

    @property
    def version(self) -> str:
        """Of the library."""
        return str(self.module.__version__)

    @property
    def architectures(self) -> list[int]:
        """Compute capabilities that engines can be built for without their GPU."""
        members = getattr(getattr(self.module, "ComputeCapability", None), "__members__", {})
        return sorted(int(name[2:]) for name in members if name.startswith("SM"))


def find_engine_api(target: str) -> EngineApi | None:
    """The builder of a target; None where it is not installed.

    Raises:
        ExportError: It is, but does not load.
    """
    record = TARGETS[target]
    name = next((name for name in record.modules if importlib.util.find_spec(name) is not None), None)
    if name is None:
        return None
    try:
        return EngineApi(target, importlib.import_module(name))
    except (ImportError, OSError) as error:  # its shared library is missing or fits another system
        cause = " ".join(str(error).split())
        raise ExportError(
            f"{name} does not load ({cause}), expected it with its library; run: pip install 'adaptrt[{record.extra}]'"
        ) from error


def build_engine(
    api: EngineApi,
    onnx_file: Path,
    engine_file: Path,
    ranges: Mapping[str, InputRange],
    *,
    architectures: Sequence[int] = (),
    plugin_library: Path | None = None,
    progress: Progress,
) -> None:
    """Parse a prepared graph and build one engine, which serves all of ``architectures``.

    Args:
        api: The builder.
        onnx_file: The graph; weights beside it are found.
        engine_file: Written when all has succeeded.
        ranges: Of its inputs with dynamic axes.
        architectures: For TensorRT-RTX, as 89; empty for the GPU that is there.
        plugin_library: Registered before parsing.
        progress: Told what the builder does.

    Raises:
        ExportError: The parser or the builder refuses the graph, or the library does not load.
        KeyboardInterrupt: The build was interrupted.
    """
    trt = api.module
    log = _log(trt)
    builder = trt.Builder(log)
    if plugin_library is not None:
        _load_library(api, plugin_library)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_file)):
        errors = [parser.get_error(number) for number in range(parser.num_errors)]
        raise _refused(api, "parser", onnx_file, [error.desc() for error in errors])
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # it would round what float32 is kept for: decisions
    if architectures:
        config.num_compute_capabilities = len(architectures)
        for place, number in enumerate(architectures):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{number}"), place)
    profile = builder.create_optimization_profile()
    for name, each in ranges.items():
        profile.set_shape(name, each.minimum, each.optimum, each.maximum)
    config.add_optimization_profile(profile)
    monitor = _monitor(trt, progress, onnx_file.stem)
    config.progress_monitor = monitor
    with _interrupts_noted(monitor):
        engine = builder.build_serialized_network(network, config)
    if monitor.failure is not None:
        raise monitor.failure
    if engine is None:
        raise _refused(api, "builder", onnx_file, log.errors)
    write_atomically(engine_file, bytes(engine))


@contextlib.contextmanager
def _interrupts_noted(monitor: Any) -> Iterator[None]:
    """Turn Ctrl-C into a request to stop: an exception in the middle of a callback would end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(signum: int, frame: object) -> None:
        del signum, frame
        monitor.failure = KeyboardInterrupt()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _load_library(api: EngineApi, library: Path) -> None:
    try:
        handle = api.module.get_plugin_registry().load_library(str(library))
    except Exception as error:  # what the bindings raise differs by version
        raise ExportError(f"{library} does not load: {error}; expected adaptrt's plugin library") from error
    if handle is None:
        raise ExportError(
            f"{library} does not load, expected adaptrt's plugin library built for TensorRT {api.version}; "
            "build it again"
        )


def _refused(api: EngineApi, who: str, file: Path, messages: Sequence[str]) -> ExportError:
    reason = " ".join("; ".join(messages).split()) or "it gave no reason"
    return ExportError(
        f"the {who} of {api.target} {api.version} refuses {file.name}: {reason[:600]}; expected a graph that it "
        "takes; nothing was written, report this model"
    )


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps errors for the exception, drops the rest."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def _monitor(trt: Any, progress: Progress, what: str) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Tells the outermost phase's progress; an exception must not pass through the library, which would end."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.failure: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self.steps[phase_name] = max(num_steps, 1)

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if phase_name in self.steps:
                    progress(f"building {what}: {phase_name.lower()}", min(1.0, (step + 1) / self.steps[phase_name]))
            except Exception as error:
                self.failure = error
            return self.failure is None

    return Monitor()
