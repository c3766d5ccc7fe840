"""ONNX Runtime: the CPU, or whichever execution providers are asked for."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from adaptrt.runtime.backends import (
    Array,
    Backend,
    BackendSettings,
    Bound,
    Provider,
    StageProgram,
    Value,
    check_threads,
)
from adaptrt.runtime.backends.backend_table import BackendRecord
from adaptrt.runtime.backends.int8_products import INT8, NARROW_BITS, products_saturate
from adaptrt.runtime.backends.stage_programs import find_engines, portable_programs, prepared_programs
from adaptrt.runtime.bundle.engine_files import build_command
from adaptrt.runtime.bundle.schema import Bundle, TensorSpec
from adaptrt.runtime.device.forked import in_forked_children
from adaptrt.runtime.errors import BackendError, one_line

_CPU = "CPUExecutionProvider"
_USUAL = BackendSettings()
_FATAL = 4
"""Log level: what ONNX Runtime would print below it comes as an exception as well."""
_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    **{f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


def load_stages(
    record: BackendRecord, root: Path, bundle: Bundle, settings: BackendSettings
) -> tuple[str, list[Backend]]:
    """A session for each stage of the portable files, or of what was prepared in int8; see ``Loader``."""
    if settings.precision != INT8:
        return "fp32", [OnnxRuntimeBackend(program, settings) for program in portable_programs(root, bundle)]
    if settings.providers is not None:
        raise BackendError(
            f"got providers={settings.providers!r} with precision 'int8', expected None: its graphs are for CPUs; "
            "leave one out"
        )
    folder, engines = find_engines(record, root, bundle, INT8)
    if (engines.weight_bits or 0) > NARROW_BITS and products_saturate(_import()):
        raise BackendError(
            f"{folder}: got weights of {engines.weight_bits} bits, expected {NARROW_BITS} on this CPU, whose int8 "
            f"products saturate; run `{build_command(root, record.prepared, INT8)} --weight-bits {NARROW_BITS}`"
        )
    exact = replace(settings, precision=None)
    return INT8, [OnnxRuntimeBackend(program, exact) for program in prepared_programs(folder, engines, bundle)]


class OnnxRuntimeBackend:
    """One stage in an ``InferenceSession`` (``session``), which is safe to run from several threads.

    Its values are arrays: ``InferenceSession.run`` takes contiguous ones without a copy and gives arrays
    over its own memory (ONNX Runtime 1.20 and later), so on the CPU nothing is copied from stage to
    stage. ``run_with_ort_values`` does no better there and takes 30 us longer, which its Python wrapper
    spends on walking the list of outputs. Other providers copy to the host between the stages.

    Args:
        program: the stage. Its bytes go to ONNX Runtime as they are, so what runs is what was verified.
        settings: ``threads`` are intra-op threads, None leaves them to ONNX Runtime (one per physical core).
            ``providers`` are names, or (name, options) pairs; all of them must be there: ONNX Runtime's
            silent fallback to the CPU is an error here.

    Raises:
        BackendError: onnxruntime is not installed, a setting is wrong, or it refuses the model.
    """

    def __init__(self, program: StageProgram, settings: BackendSettings = _USUAL) -> None:
        runtime = _import()
        threads, providers = settings.threads, settings.providers
        if settings.precision not in {None, "fp32"}:
            raise BackendError(
                f"got precision={settings.precision!r}, expected 'fp32', 'int8' or None with backend 'onnxruntime'; "
                "name another backend"
            )
        chosen = _check_providers(runtime, providers)
        options = runtime.SessionOptions()
        options.log_severity_level = _FATAL
        options.add_session_config_entry("session.load_model_format", "ONNX")
        if threads is not None:
            options.intra_op_num_threads = check_threads(threads)
        if not program.alone:
            if _shares_memory(runtime):
                options.add_session_config_entry("session.use_env_allocators", "1")
            if threads != 1:
                # Threads that spin in one stage's pool would take the cores from the next: 3.5 times as slow.
                options.add_session_config_entry("session.force_spinning_stop", "1")
        if program.data_folder is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(program.data_folder)
            )
        try:
            session = runtime.InferenceSession(
                program.model,
                options,
                providers=chosen,
                enable_fallback=0,
                read_config_from_model=0,  # a model's own wishes for threads and logging do not count
            )
        except Exception as error:  # pybind's exceptions share no base class
            raise BackendError(
                f"{program.file}: onnxruntime {runtime.__version__} refuses it ({one_line(error)}); "
                "export the model again, or install another onnxruntime"
            ) from None
        _check_active(session, chosen)
        # The session would keep the serialised model for ever, doubling the weights in memory.
        session._model_bytes = None
        self.session = session
        self.inputs = {node.name: _spec(node) for node in session.get_inputs()}
        self.outputs = {node.name: _spec(node) for node in session.get_outputs()}
        self._names = list(program.outputs)
        self._run = session.run
        self._version = runtime.__version__
        self.engine_version = f"onnxruntime {runtime.__version__} {','.join(map(_provider_name, chosen))}"
        self._file = program.file

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Execute on checked inputs; the wanted outputs by name.

        Raises:
            BackendError: an operator failed, or memory ran out.
        """
        try:
            return dict(zip(self._names, self._run(self._names, feeds)))  # noqa: B905 - `strict` costs 0.2 us
        except Exception as error:  # as above
            raise self._failed(feeds, error) from error

    def run_values(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> Sequence[Value]:
        """Execute on arrays from a stage before; the named outputs in that order.

        Raises:
            BackendError: as ``run``.
        """
        try:
            return self._run(outputs, feeds)  # type: ignore[no-any-return]
        except Exception as error:  # as above
            raise self._failed(feeds, error) from error

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Bound | None:
        """An IO binding over the arrays' memory.

        Raises:
            BackendError: it does not take them.
        """
        if self.session.get_providers() != [_CPU]:
            return None
        held = {**inputs, **outputs}
        if not all(array.flags.c_contiguous for array in held.values()):
            raise ValueError("got arrays that are not contiguous, expected buffers to bind")
        binding, execute = self.session.io_binding(), self.session.run_with_iobinding
        try:
            for name, array in inputs.items():
                binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            for name, array in outputs.items():
                binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        except Exception as error:  # as above
            raise self._failed(inputs, error) from error

        return Bound(functools.partial(execute, binding), functools.partial(self._failed, held))

    def recover(self) -> None:
        """Nothing to do: a session keeps nothing of a call that failed."""

    def to_value(self, array: Array) -> Value:
        """The array itself."""
        return array

    def to_array(self, value: Value) -> Array:
        """The array itself."""
        return value  # type: ignore[no-any-return]

    def _failed(self, feeds: Mapping[str, Array], error: Exception) -> BackendError:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        return BackendError(
            f"{self._file}: onnxruntime {self._version} failed on {shapes} ({one_line(error)}); "
            "run `adaptrt verify` on the bundle, or feed a smaller batch if memory ran out"
        )


def _import() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"onnxruntime cannot be imported ({one_line(error)}), expected it beside adaptrt; "
            "install adaptrt[cpu] or adaptrt[gpu], not both"
        ) from None
    return onnxruntime  # type: ignore[no-any-return]


@functools.cache
def _shares_memory(runtime: ModuleType) -> bool:
    """Make an arena for the sessions that run in turn, once per process; false where there can be none.

    So one's tensors go where the other's were. With an arena each, a batch of 64 takes 5% longer, its
    tensors never being in the caches.
    """
    if _forked:
        return False  # one that is inherited may be locked by a thread that is gone
    kind = runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    try:
        memory = runtime.OrtMemoryInfo("Cpu", kind, 0, runtime.OrtMemType.DEFAULT)
        runtime.create_and_register_allocator(memory, None)
    except Exception:  # as above; some builds have no arenas
        return False
    return True


_forked = False


def _begin_in_child() -> None:
    global _forked
    _forked = True
    _shares_memory.cache_clear()


in_forked_children(_begin_in_child)


def _check_providers(runtime: ModuleType, providers: Sequence[Provider] | None) -> list[Any]:
    if providers is None:
        return [_CPU]
    if isinstance(providers, str) or not providers:
        raise BackendError(f"got providers={providers!r}, expected a list of names; pass [{_CPU!r}] or None")
    available = runtime.get_available_providers()
    for provider in providers:
        if _provider_name(provider) not in available:
            raise BackendError(
                f"provider {_provider_name(provider)!r} is not in this onnxruntime, expected some of "
                f"{', '.join(map(repr, available))}; install adaptrt[gpu], or name one of these"
            )
    return [p if isinstance(p, str) else (p[0], dict(p[1])) for p in providers]


def _check_active(session: Any, chosen: Sequence[Provider]) -> None:
    active = session.get_providers()
    missing = [name for name in map(_provider_name, chosen) if name not in active]
    if missing:
        raise BackendError(
            f"providers {missing} did not start, only {active} did; check the driver and its libraries, "
            "or leave them out of `providers`"
        )


def _provider_name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _spec(node: Any) -> TensorSpec:
    """An input or output as ONNX Runtime describes it; an axis without a name is ``"?"``."""
    shape = [size if isinstance(size, (int, str)) else "?" for size in node.shape or ()]
    return TensorSpec(node.name, _DTYPES.get(node.type, node.type), shape)
