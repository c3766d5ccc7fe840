"""Executing a TensorRT engine on values of the device: contexts, their outputs' memory, and recorded graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from adaptrt.runtime.backends import Array
from adaptrt.runtime.backends.cuda import CudaDevice, CudaError, Graph, Memory


class ExecutionError(Exception):
    """TensorRT refused a shape, an address or the work itself."""


@dataclass
class DeviceValue:
    """A tensor on the host, on the device, or both; it is carried over when it is first needed.

    Attributes:
        shape: of it.
        dtype: of it.
        array: on the host, contiguous.
        memory: on the device.
        owner: what must be held as long as ``memory`` is in use.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    array: Array | None = None
    memory: Memory | None = None
    owner: object = None

    def on_device(self, device: CudaDevice) -> Memory:
        """Its place on the device; ``device`` must be locked."""
        if self.memory is None:
            if self.array is None:
                raise ValueError("got a value that is nowhere")
            self.memory = device.allocate(self.array.nbytes)
            device.upload(self.array, self.memory)
        return self.memory

    def on_host(self, device: CudaDevice) -> Array:
        """Its content on the host."""
        if self.array is None:
            if self.memory is None:
                raise ValueError("got a value that is nowhere")
            (self.array,) = device.download([(self.memory, self.shape, self.dtype)])
        return self.array


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of an engine.

    Attributes:
        name: of it.
        dtype: as numpy knows it.
        host: whether TensorRT wants it in the host's memory, as it does where shapes are computed from it.
    """

    name: str
    dtype: np.dtype[Any]
    host: bool


class Execution:
    """An execution context. One thread at a time may use it, and it is used on one stream.

    Args:
        trt: TensorRT's module.
        context: TensorRT's object.
        inputs: of the engine.
        outputs: of the engine.
        device: where it runs.
    """

    def __init__(
        self,
        trt: ModuleType,
        context: Any,
        inputs: Mapping[str, EngineTensor],
        outputs: Mapping[str, EngineTensor],
        device: CudaDevice,
    ) -> None:
        self._context, self._device = context, device
        self._inputs, self._outputs = inputs, outputs
        self._make_allocator = _allocator_class(trt, device)
        self._allocators: dict[str, Any] = {}
        self._held: list[Array] = []

    def prepare(self, values: Mapping[str, DeviceValue]) -> dict[str, DeviceValue | None]:
        """Set shapes and addresses. The outputs, or None for those whose size only the execution tells.

        Raises:
            ExecutionError: TensorRT refuses one of them.
            CudaError: no memory is left.
        """
        context = self._context
        self._held = []
        for name, tensor in self._inputs.items():
            value = values[name]
            _expect(context.set_input_shape(name, value.shape), f"input {name} refused as {list(value.shape)}")
            if tensor.host:
                array = np.array(value.on_host(self._device))  # TensorRT reads it later; a knob's may be anyone's
                self._held.append(array)
                address = array.ctypes.data
            else:
                address = value.on_device(self._device).address
            _expect(context.set_tensor_address(name, address), f"no address taken for input {name}")
        missing = context.infer_shapes()
        _expect(not missing, f"shapes of {', '.join(missing)} not found")
        device_values: dict[str, DeviceValue | None] = {}
        for name, tensor in self._outputs.items():
            shape = tuple(context.get_tensor_shape(name))
            if min(shape, default=0) < 0:
                self._allocate_late(name)
                device_values[name] = None
                continue
            if self._allocators.pop(name, None) is not None:
                _expect(context.set_output_allocator(name, None), f"no address taken for output {name}")
            value = self._output(tensor, shape)
            place = value.array.ctypes.data if value.array is not None else value.on_device(self._device).address
            _expect(context.set_tensor_address(name, place), f"no address taken for output {name}")
            device_values[name] = value
        return device_values

    def enqueue(self, stream: int) -> bool:
        """Put the work on a stream."""
        return bool(self._context.execute_async_v3(stream))

    def late(self, name: str) -> DeviceValue:
        """An output whose size was not known before, after ``enqueue``.

        Raises:
            ExecutionError: TensorRT did not tell its shape.
            CudaError: no memory is left.
        """
        allocator = self._allocators[name]
        _expect(allocator.shape is not None, f"no shape told of output {name}")
        memory = allocator.memory or self._device.allocate(1)
        allocator.memory = None
        return DeviceValue(allocator.shape, self._outputs[name].dtype, memory=memory)

    def failure(self) -> Exception:
        """Why ``enqueue`` returned false: an allocator ran out of memory, or TensorRT has a reason of its own."""
        for allocator in self._allocators.values():
            error, allocator.error = allocator.error, None  # raised, it leads to the allocator: no cycle
            if isinstance(error, CudaError):
                return error
        return ExecutionError("execute_async_v3 returned false")

    def _output(self, tensor: EngineTensor, shape: tuple[int, ...]) -> DeviceValue:
        if tensor.host:
            return DeviceValue(shape, tensor.dtype, array=np.empty(shape, tensor.dtype))
        size = int(np.prod(shape, dtype=np.int64)) * tensor.dtype.itemsize
        return DeviceValue(shape, tensor.dtype, memory=self._device.allocate(size))

    def _allocate_late(self, name: str) -> None:
        allocator = self._allocators.get(name)
        if allocator is None:
            allocator = self._allocators[name] = self._make_allocator()
            _expect(self._context.set_output_allocator(name, allocator), f"no allocator taken for output {name}")
        allocator.memory, allocator.shape, allocator.error = None, None, None


class Recording:
    """An execution captured as a graph: always the same memory in and out.

    Args:
        execution: its own; a captured one must not be used otherwise.
        inputs: where the graph reads.
        outputs: where it writes.
        graph: of it.
    """

    def __init__(
        self,
        execution: Execution,
        inputs: Mapping[str, DeviceValue],
        outputs: Mapping[str, DeviceValue],
        graph: Graph,
    ) -> None:
        self._execution = execution  # holds what the graph points to
        self._inputs, self._outputs, self._graph = inputs, outputs, graph

    def launch(self, values: Mapping[str, DeviceValue], device: CudaDevice) -> None:
        """Copy the inputs to where the graph reads them, and put it on the stream. Call it ``locked``."""
        for name, fixed in self._inputs.items():
            value, target = values[name], fixed.on_device(device)
            if value.memory is None and value.array is not None:
                device.upload(value.array, target)
            else:
                device.copy(value.on_device(device), target, value.dtype.itemsize * int(np.prod(value.shape)))
        device.launch(self._graph)

    def outputs(self, owner: object) -> dict[str, DeviceValue]:
        """What the graph writes; ``owner`` is held as long as any of it is."""
        return {n: DeviceValue(v.shape, v.dtype, memory=v.memory, owner=owner) for n, v in self._outputs.items()}


class Lease:
    """Holds a recording while its outputs are in use: the next launch would write over them."""

    def __init__(self, recording: Recording, idle: list[Recording]) -> None:
        self._recording, self._idle = recording, idle

    def __del__(self) -> None:
        self._idle.append(self._recording)


def _allocator_class(trt: ModuleType, device: CudaDevice) -> Any:
    """TensorRT's output allocator over the device's pool; exceptions must not cross into TensorRT."""

    class OutputAllocator(trt.IOutputAllocator):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.memory: Memory | None = None
            self.shape: tuple[int, ...] | None = None
            self.error: CudaError | None = None

        def reallocate_output_async(
            self,
            tensor_name: str,  # noqa: ARG002 - one allocator per tensor
            memory: int,  # noqa: ARG002 - nothing of it is kept
            size: int,
            alignment: int,  # noqa: ARG002 - cudaMalloc gives at least 256 bytes of it
            stream: int,  # noqa: ARG002 - there is only one
        ) -> int:
            try:
                self.memory = device.allocate(size)
            except CudaError as error:
                self.error = error
                return 0
            return self.memory.address

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            return self.reallocate_output_async(tensor_name, memory, size, alignment, 0)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:  # noqa: ARG002 - as above
            self.shape = tuple(shape)

    return OutputAllocator


def _expect(fine: bool, otherwise: str) -> None:
    if not fine:
        raise ExecutionError(otherwise)
