"""TensorRT 10 and 11, and TensorRT-RTX: engines that ``adaptrt build`` put into the bundle.

This has run against a stand-in for TensorRT and the CUDA runtime, whose calls are compared with those of
the real modules; it has not run on a GPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptrt.runtime.backends import Array, Backend, BackendSettings, Bound, StageProgram, Value
from adaptrt.runtime.backends.backend_table import BackendRecord
from adaptrt.runtime.backends.cuda import CudaDevice, CudaError
from adaptrt.runtime.backends.stage_programs import engine_programs, find_engines, refuse_providers
from adaptrt.runtime.backends.tensorrt_execution import (
    DeviceValue,
    EngineTensor,
    Execution,
    ExecutionError,
    Lease,
    Recording,
)
from adaptrt.runtime.backends.tensorrt_runtime import SAID_NOTHING, TensorRTRuntime
from adaptrt.runtime.bundle.engine_files import engine_folder
from adaptrt.runtime.bundle.schema import Bundle, TensorSpec
from adaptrt.runtime.errors import BackendError, one_line
from adaptrt.runtime.table import either

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_MOST_SHAPES = 4
_MOST_RECORDINGS = 2
"""Of one stage at the same shapes: each holds the engine's working memory once more."""
_REMEMBERED_SHAPES = 256

_Signature = tuple[tuple[int, ...], ...]


def load_stages(
    record: BackendRecord, root: Path, bundle: Bundle, settings: BackendSettings, *, rtx: bool = False
) -> tuple[str, list[Backend]]:
    """An engine for each stage, of the named precision or the first that was built; see ``Loader``."""
    refuse_providers(record, settings)
    if settings.precision not in {None, *record.precisions}:
        raise BackendError(
            f"got precision={settings.precision!r}, expected {either(map(repr, record.precisions))} with backend "
            f"{record.name!r}; name one or leave it out"
        )
    built = [p for p in record.precisions if engine_folder(root, record.target, p).exists()]
    precision = settings.precision or next(iter(built), "fp32")
    folder, engines = find_engines(record, root, bundle, precision)
    runtime = TensorRTRuntime(record, engines, folder, settings.plugin_library, rtx=rtx)
    programs = engine_programs(folder, engines, bundle)
    return engines.precision, [TensorRTBackend(runtime, program) for program in programs]


def load_rtx_stages(
    record: BackendRecord, root: Path, bundle: Bundle, settings: BackendSettings
) -> tuple[str, list[Backend]]:
    """The same with TensorRT-RTX; see ``Loader``."""
    return load_stages(record, root, bundle, settings, rtx=True)


class TensorRTBackend:
    """One stage as an engine. Values stay on the device between stages; only ``to_array`` copies to the host.

    All stages of a model and all threads put their work on one stream. A set of shapes that comes back is
    recorded as a CUDA graph, where the sizes of all outputs follow from those of the inputs; there one launch
    takes the place of one for each kernel.

    Args:
        runtime: of the model.
        program: the stage.

    Raises:
        BackendError: TensorRT refuses the engine.
    """

    def __init__(self, runtime: TensorRTRuntime, program: StageProgram) -> None:
        self._runtime, self._program, self._device = runtime, program, runtime.device
        trt = runtime.trt
        self.engine_version = runtime.kind
        self._engine = engine = runtime.deserialise(program)
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs: dict[str, TensorSpec] = {}
        tensors: dict[str, EngineTensor] = {}
        for number in range(engine.num_io_tensors):
            name = engine.get_tensor_name(number)
            dtype = engine.get_tensor_dtype(name).name
            shape: list[int | str] = ["?" if size < 0 else size for size in engine.get_tensor_shape(name)]
            specs = self.inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else self.outputs
            specs[name] = TensorSpec(name, _DTYPES.get(dtype, dtype.lower()), shape)
            if dtype not in _DTYPES:
                raise BackendError(
                    f"{program.file}: {name!r} is {dtype}, expected a type that numpy has; {runtime.again}"
                )
            host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
            tensors[name] = EngineTensor(name, np.dtype(_DTYPES[dtype]), host)
        self._inputs = {name: tensors[name] for name in self.inputs}
        self._outputs = {name: tensors[name] for name in self.outputs}
        self._profiles = self._read_profiles()
        self._executions: dict[int, Execution] = {}
        self._recordable = not runtime.rtx and not any(tensor.host for tensor in tensors.values())
        self._seen: OrderedDict[_Signature, None] = OrderedDict()
        self._recorded: OrderedDict[_Signature, _Recordings] = OrderedDict()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Execute on checked inputs; the wanted outputs by name.

        Raises:
            BackendError: TensorRT or CUDA failed, or the inputs' sizes are not among those it was built for.
        """
        names = self._program.outputs
        values = self.run_values({name: self.to_value(array) for name, array in feeds.items()}, names)
        late = [value for value in values if value.array is None]
        try:
            arrays = self._device.download([(value.memory, value.shape, value.dtype) for value in late])
        except CudaError as error:
            raise self._failed(feeds, error) from error
        for value, array in zip(late, arrays, strict=True):
            value.array = array
        return {name: value.array for name, value in zip(names, values, strict=True)}

    def run_values(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> Sequence[Value]:
        """Execute on values; those outputs that are named, in that order. It does not wait for them.

        Raises:
            BackendError: as ``run``.
        """
        try:
            with self._device.locked():
                self._runtime.log.clear()
                values = self._execute(feeds)
        except (CudaError, ExecutionError) as error:
            self.recover()
            raise self._failed(feeds, error) from error
        return [values[name] for name in outputs]

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Bound | None:  # noqa: ARG002
        """None: it does not work on the host's memory."""
        return None

    def recover(self) -> None:
        """Drop the execution contexts and recordings: nothing says how a failure left them."""
        with self._device.locked():
            self._executions.clear()
            self._recorded.clear()

    def to_value(self, array: Array) -> Value:
        """The array, copied to the device when a stage first takes it."""
        return DeviceValue(array.shape, array.dtype, array=array)

    def to_array(self, value: Value) -> Array:
        """The value on the host, once everything that it comes from has been done.

        Raises:
            BackendError: some of that failed.
        """
        try:
            return value.on_host(self._device)  # type: ignore[no-any-return]
        except CudaError as error:
            raise self._failed({}, error) from error

    def _execute(self, values: Mapping[str, DeviceValue]) -> dict[str, DeviceValue]:
        shapes = tuple(values[name].shape for name in self._inputs)
        recordings = self._recorded.get(shapes)
        if recordings is not None and recordings.idle:
            self._recorded.move_to_end(shapes)
            return recordings.launch(values, self._device)
        known = recordings is not None or shapes in self._seen
        if self._recordable and known and (recordings is None or recordings.count < _MOST_RECORDINGS):
            try:
                return self._record(recordings or _Recordings(), shapes, values)
            except (CudaError, BackendError) as error:
                if isinstance(error, CudaError) and not error.out_of_memory:
                    raise
            self._stop_recording()  # a recording is memory once more: what runs without one need not fail
        self._seen[shapes] = None
        if len(self._seen) > _REMEMBERED_SHAPES:
            self._seen.popitem(last=False)
        profile = self._profile(shapes)
        execution = self._executions.get(profile)
        if execution is None:
            execution = self._executions[profile] = self._execution(profile)
        return self._enqueue(execution, values)

    def _enqueue(self, execution: Execution, values: Mapping[str, DeviceValue]) -> dict[str, DeviceValue]:
        prepared = execution.prepare(values)
        if not execution.enqueue(self._device.stream):
            raise execution.failure()
        return {name: value or execution.late(name) for name, value in prepared.items()}

    def _record(
        self, recordings: _Recordings, shapes: _Signature, values: Mapping[str, DeviceValue]
    ) -> dict[str, DeviceValue]:
        """Execute once, on memory of the recording's own, and capture the same for the next time."""
        device = self._device
        execution = self._execution(self._profile(shapes))
        fixed = {}
        for name, tensor in self._inputs.items():
            value = values[name]
            memory = device.allocate(value.dtype.itemsize * int(np.prod(value.shape)))
            device.copy(value.on_device(device), memory, value.dtype.itemsize * int(np.prod(value.shape)))
            fixed[name] = DeviceValue(value.shape, tensor.dtype, memory=memory)
        prepared = execution.prepare(fixed)
        # TensorRT puts off some of its work on new shapes to the first execution, which therefore is not captured.
        if not execution.enqueue(device.stream):
            raise execution.failure()
        outputs = {name: value for name, value in prepared.items() if value is not None}
        graph = device.capture(execution.enqueue) if len(outputs) == len(prepared) else None
        if graph is None:  # sizes that depend on the data, or a layer that waits for the device
            self._stop_recording()
            return {name: value or execution.late(name) for name, value in prepared.items()}
        self._recorded[shapes] = recordings
        if len(self._recorded) > _MOST_SHAPES:
            self._recorded.popitem(last=False)
        return recordings.add(Recording(execution, fixed, outputs, graph))

    def _stop_recording(self) -> None:
        self._recordable = False
        self._recorded.clear()

    def _execution(self, profile: int) -> Execution:
        context = self._runtime.context(self._engine, self._program)
        if profile and not context.set_optimization_profile_async(profile, self._device.stream):
            raise ExecutionError(f"optimisation profile {profile} refused")
        return Execution(self._runtime.trt, context, self._inputs, self._outputs, self._device)

    def _read_profiles(self) -> list[dict[str, tuple[tuple[int, ...], tuple[int, ...]]]]:
        """For each optimisation profile the least and largest shape of each input that varies."""
        dynamic = [name for name, spec in self.inputs.items() if "?" in spec.shape]
        profiles = []
        for number in range(self._engine.num_optimization_profiles):
            limits = {}
            for name in dynamic:
                least, _, most = self._engine.get_tensor_profile_shape(name, number)
                limits[name] = tuple(least), tuple(most)
            profiles.append(limits)
        return profiles

    def _profile(self, shapes: _Signature) -> int:
        """The first optimisation profile that these shapes are within."""
        named = dict(zip(self._inputs, shapes, strict=True))
        for number, limits in enumerate(self._profiles):
            if all(_within(least, named[name], most) for name, (least, most) in limits.items()):
                return number
        built = " or ".join(
            ", ".join(f"{name} {list(least)} to {list(most)}" for name, (least, most) in limits.items())
            for limits in self._profiles
        )
        got = ", ".join(f"{name} {list(shape)}" for name, shape in named.items())
        raise BackendError(
            f"{self._program.file}: got {got}, expected what the engine was built for: {built}; "
            f"feed such a batch, or {self._runtime.again} for others"
        )

    def _failed(self, feeds: Mapping[str, Any], error: Exception) -> BackendError:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items()) or "the values before"
        said = self._runtime.log.said()
        detail = one_line(error) + (f"; {said}" if said != SAID_NOTHING else "")
        remedy = "feed a smaller batch" if isinstance(error, CudaError) and error.out_of_memory else self._runtime.again
        return BackendError(f"{self._program.file}: {self._runtime.title} failed on {shapes} ({detail}); {remedy}")


class _Recordings:
    """The recordings of one stage at the same shapes."""

    def __init__(self) -> None:
        self.idle: list[Recording] = []
        self.count = 0

    def launch(self, values: Mapping[str, DeviceValue], device: CudaDevice) -> dict[str, DeviceValue]:
        recording = self.idle.pop()
        lease = Lease(recording, self.idle)
        recording.launch(values, device)
        return recording.outputs(lease)

    def add(self, recording: Recording) -> dict[str, DeviceValue]:
        """Take one in that has just been executed."""
        self.count += 1
        return recording.outputs(Lease(recording, self.idle))


def _within(least: tuple[int, ...], shape: tuple[int, ...], most: tuple[int, ...]) -> bool:
    return len(least) == len(shape) and all(a <= size <= b for a, size, b in zip(least, shape, most, strict=True))
