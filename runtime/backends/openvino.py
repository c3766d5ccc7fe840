"""OpenVINO: the CPU, from graphs that were prepared for it (it knows no model-local functions)."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from adaptrt.runtime.backends import Array, Backend, BackendSettings, Bound, StageProgram, Value, check_threads
from adaptrt.runtime.backends.backend_table import DEFAULT_BACKEND, BackendRecord
from adaptrt.runtime.backends.stage_programs import find_engines, prepared_programs, refuse_providers
from adaptrt.runtime.bundle.schema import Bundle, TensorSpec
from adaptrt.runtime.device.forked import in_forked_children, keep_for_ever
from adaptrt.runtime.errors import BackendError, one_line

_DEVICE = "CPU"
_TELEMETRY = "openvino_telemetry"
_loading = threading.Lock()
_PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
"""What is computed in where a graph does not say; in int8 it says where products are of bytes."""
_BUILT = ("fp16", "int8")
"""Precisions that have graphs of their own."""
_USUAL = BackendSettings()


def load_stages(
    record: BackendRecord, root: Path, bundle: Bundle, settings: BackendSettings
) -> tuple[str, list[Backend]]:
    """A compiled model for each stage that was prepared; see ``Loader``."""
    refuse_providers(record, settings)
    check_settings(settings)
    folder, engines = find_engines(record, root, bundle, settings.precision if settings.precision in _BUILT else "fp32")
    programs = prepared_programs(folder, engines, bundle)
    return settings.precision or "fp32", [OpenVinoBackend(program, settings) for program in programs]


class OpenVinoBackend:
    """One stage as a compiled model (``compiled``), with as many infer requests as threads ran it at once.

    A compiled model may be used by any number of threads, a request by one at a time. A request's outputs
    lie in memory that its next inference writes over, so they are copied out; on one sample of fixed sizes
    (``bind``) the engine writes where it is told instead. Values between stages are arrays.

    A compiled model that failed once, as where memory ran out, may fail at sizes that it ran before, or give
    empty results and no error (OpenVINO 2026.4). So it is compiled anew after every failure, and a call that
    failed beside another's failure is run once more.

    The precision is float32 unless another is asked for: OpenVINO's own choice is bfloat16 where the CPU has
    it, which flips decisions close to the price.

    Args:
        program: the stage. Its bytes go to OpenVINO as they are, except where weights lie beside them:
            those it finds only from a path.
        settings: ``threads`` are inference threads, None leaves them to OpenVINO; ``precision`` as there.

    Raises:
        BackendError: openvino is not installed, refuses the graph or a setting, or this CPU does not
            compute in the precision.
    """

    def __init__(self, program: StageProgram, settings: BackendSettings = _USUAL) -> None:
        self._file = program.file
        check_settings(settings)
        self._openvino = runtime = import_openvino()
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _PRECISIONS[settings.precision or "fp32"],
        }
        if _inherited:
            # Its pool counts threads that did not come along: compiling, or ending, waits for them now and then.
            raise BackendError(
                "got openvino in a process that was forked from one that ran it, expected one that it began in; load "
                f"the bundle after the fork only, start processes with spawn, or load it with backend "
                f"{DEFAULT_BACKEND!r}"
            )
        if settings.threads is not None:
            options["INFERENCE_NUM_THREADS"] = check_threads(settings.threads)
        self._version = runtime.__version__.partition("-")[0]
        in_words = "int8" if settings.precision == "int8" else options["INFERENCE_PRECISION_HINT"]
        self.engine_version = f"openvino {self._version} {in_words}"
        try:
            with _loading:  # its first uses from several threads waited for each other for ever, once in many runs
                core = _core(runtime)
                model = core.read_model(program.model if program.data_folder is None else program.file)
                taken = [_spec(port, port.get_node().get_friendly_name()) for port in model.inputs]
                self._compile = functools.partial(core.compile_model, model, _DEVICE, options)
                self.compiled = self._compile()
            used = self.compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        except Exception as error:  # pybind's exceptions share no base class
            raise BackendError(
                f"{program.file}: openvino {self._version} refuses it ({one_line(error)}); run `adaptrt build` with "
                "--target openvino again, or install another openvino"
            ) from None
        if used != options["INFERENCE_PRECISION_HINT"]:
            raise BackendError(
                f"got precision={settings.precision!r}, but openvino would compute in {used} on this CPU; "
                "expected one that it has: 'fp32'"
            )
        self.inputs = {spec.name: spec for spec in taken}
        self._inputs = {spec.name: number for number, spec in enumerate(taken)}
        # An output that is also a tensor inside the graph goes by both names.
        ports = self.compiled.outputs
        self._outputs = {name: number for number, port in enumerate(ports) for name in port.get_names()}
        self.outputs = {name: _spec(ports[number], name) for name, number in self._outputs.items()}
        self._names = program.outputs
        self._idle: list[tuple[int, Any]] = []
        self._generation = 0
        self._recovering = threading.Lock()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Execute on checked inputs; the wanted outputs by name.

        Raises:
            BackendError: an operator failed, or memory ran out.
        """
        return dict(zip(self._names, self.run_values(feeds, self._names), strict=True))

    def run_values(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> Sequence[Value]:
        """Execute on arrays; the named outputs in that order, in memory of their own.

        Raises:
            BackendError: as ``run``.
        """
        generation = self._generation
        try:
            return self._infer(feeds, outputs)
        except Exception as error:  # as above
            if not self._recover(generation, error, feeds):
                raise self._failed(feeds, error) from error
        try:  # another call failed beside this one, which may have had no other fault
            generation = self._generation
            return self._infer(feeds, outputs)
        except Exception as error:  # as above
            self._recover(generation, error, feeds)
            raise self._failed(feeds, error) from error

    def _infer(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> list[Array]:
        """Execute on an idle request, or a new one; after an exception it is dropped: nothing says how it is left."""
        while True:
            try:
                generation, request = self._idle.pop()
            except IndexError:
                generation, request = self._generation, self.compiled.create_infer_request()
            if generation == self._generation:
                break
        held = [_shareable(array) for array in feeds.values()]
        for name, array in zip(feeds, held, strict=True):
            request.set_input_tensor(self._inputs[name], self._tensor(array))
        _infer(request)
        arrays = [request.get_output_tensor(self._outputs[name]).data.copy() for name in outputs]
        self._idle.append((generation, request))
        return arrays

    def recover(self) -> None:
        """Compile the model anew.

        Raises:
            BackendError: OpenVINO refuses what it took before.
        """
        self._recover(self._generation, None, {})

    def _recover(self, generation: int, error: Exception | None, feeds: Mapping[str, Array]) -> bool:
        """Compile anew, unless another thread has done so since ``generation``; whether one had."""
        with self._recovering:
            if generation != self._generation:
                return True
            try:
                self.compiled = self._compile()
            except Exception as again:  # as above; the old one stays, and the next failure tries again
                raise self._failed(feeds, error or again) from again
            self._generation += 1
            self._idle.clear()
            return False

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Bound | None:
        """A request of its own over the arrays' memory.

        Raises:
            BackendError: it does not take them.
        """
        held = {**inputs, **outputs}
        if not all(array.flags.c_contiguous for array in held.values()):
            raise ValueError("got arrays that are not contiguous, expected buffers to bind")
        generation = self._generation
        try:
            request = self.compiled.create_infer_request()
            for name, array in inputs.items():
                request.set_input_tensor(self._inputs[name], self._tensor(array))
            for name, array in outputs.items():
                request.set_output_tensor(self._outputs[name], self._tensor(array))
        except Exception as error:  # as above
            raise self._failed(inputs, error) from error

        def failed(error: Exception) -> BackendError:
            self._recover(generation, error, held)
            return self._failed(held, error)

        return Bound(functools.partial(_infer, request), failed, lambda: generation == self._generation)

    def to_value(self, array: Array) -> Value:
        """The array itself."""
        return array

    def to_array(self, value: Value) -> Array:
        """The array itself."""
        return value  # type: ignore[no-any-return]

    def _tensor(self, array: Array) -> Any:
        """A tensor over an array's memory, which its owner must hold."""
        return self._openvino.Tensor(array, shared_memory=True)

    def _failed(self, feeds: Mapping[str, Array], error: Exception) -> BackendError:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        return BackendError(
            f"{self._file}: openvino {self._version} failed on {shapes} ({one_line(error)}); "
            "run `adaptrt verify` on the bundle, or feed a smaller batch if memory ran out"
        )


def check_settings(settings: BackendSettings) -> None:
    """Refuse settings that no OpenVINO has.

    Raises:
        BackendError: the precision is none of its own.
    """
    if settings.precision not in {None, *_PRECISIONS}:
        expected = ", ".join(map(repr, _PRECISIONS))
        raise BackendError(
            f"got precision={settings.precision!r}, expected one of {expected} with backend 'openvino'; name one"
        )


def import_openvino() -> ModuleType:
    """The module, imported without its telemetry.

    Importing it sends an event and writes into the home folder, and fails where there is none, unless the package
    ``openvino_telemetry`` is missing: then it takes a stand-in of its own. So that package is hidden for as long as
    the import takes. Who wants it sent imports openvino first.

    Raises:
        BackendError: it is not installed, or broken.
    """
    with _loading:
        if "openvino" in sys.modules:
            import openvino

            return openvino  # type: ignore[no-any-return]
        hidden = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] == _TELEMETRY}
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
        try:
            import openvino
        except Exception as error:  # it raises whatever its own imports do
            raise BackendError(
                f"openvino cannot be imported ({one_line(error)}), expected it beside adaptrt; "
                "install adaptrt[openvino]"
            ) from None
        finally:
            sys.modules.pop(_TELEMETRY, None)
            sys.modules.update(hidden)
        return openvino  # type: ignore[no-any-return]


_cores: dict[ModuleType, Any] = {}
_inherited = False


def _core(runtime: ModuleType) -> Any:
    """One per process: it finds and loads the devices' plugins."""
    if runtime not in _cores:
        _cores[runtime] = runtime.Core()
    return _cores[runtime]


def _begin_in_child() -> None:
    """A forked child needs one of its own, and must not end the one that it inherits."""
    global _inherited, _loading
    _loading = threading.Lock()
    _inherited = _inherited or bool(_cores)
    keep_for_ever(*_cores.values())
    _cores.clear()


in_forked_children(_begin_in_child)


def _infer(request: Any) -> None:
    """Run a request, without the copy of every output that ``infer`` makes.

    Whatever a signal handler raises on the way, the request is over when this ends: it reads and writes memory that its
    owner lets go of then.
    """
    try:
        request.start_async()
        request.wait()
    except BaseException:
        with contextlib.suppress(Exception):
            request.wait()
        raise


def _shareable(array: Array) -> Array:
    """The array where OpenVINO can read it in place, or a copy: it wants contiguous memory that may be written."""
    return array if array.flags.c_contiguous and array.flags.writeable else array.copy(order="C")


def _spec(port: Any, name: str) -> TensorSpec:
    """An input or output as OpenVINO describes it; an axis without a fixed size is ``"?"``."""
    shape = port.get_partial_shape()
    sizes = [] if shape.rank.is_dynamic else [size.get_length() if size.is_static else "?" for size in shape]
    try:
        dtype = np.dtype(port.get_element_type().to_dtype()).name
    except Exception:  # as above; a type that numpy lacks
        dtype = port.get_element_type().get_type_name()
    return TensorSpec(name, dtype, sizes)
