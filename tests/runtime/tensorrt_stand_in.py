"""Plays TensorRT's and the CUDA runtime's part, where there is neither.

What is on a stream is done when somebody waits for it and not before, so that memory which is reused or
freed too early gives wrong numbers or an error. Addresses of the device lie in no memory of the process.
An engine is an ONNX file, executed by ONNX Runtime.
"""

from __future__ import annotations

import ctypes
import enum
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

_TYPES = {
    "tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64", "tensor(int32)": "INT32",
    "tensor(bool)": "BOOL", "tensor(int8)": "INT8", "tensor(uint8)": "UINT8", "tensor(double)": "DOUBLE",
}  # fmt: skip
_NUMPY = {"FLOAT": "f4", "HALF": "f2", "INT64": "i8", "INT32": "i4", "BOOL": "?", "INT8": "i1", "UINT8": "u1"}
MAGIC = b"stand-in engine\0"


class Error(enum.IntEnum):
    cudaSuccess = 0  # noqa: N815 - CUDA's names
    cudaErrorInvalidValue = 1  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorNotReady = 600  # noqa: N815
    cudaErrorIllegalAddress = 700  # noqa: N815
    cudaErrorStreamCaptureInvalidated = 901  # noqa: N815


class _Stream:
    def __init__(self, number: int) -> None:
        self.number = number
        self.queue: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None
        self._working = threading.RLock()  # a stream does one thing after the other, whoever waits for it

    def __int__(self) -> int:
        return self.number

    def put(self, work: Callable[[], None]) -> None:
        (self.queue if self.captured is None else self.captured).append(work)

    def drain(self, until: Callable[[], bool] = lambda: False) -> None:
        with self._working:
            while self.queue and not until():
                self.queue.pop(0)()


class _Event:
    def __init__(self) -> None:
        self.waiting = 0
        self.stream: _Stream | None = None


class Cuda:
    """``cuda.bindings.runtime``.

    Attributes:
        calls: names of the functions called, and of what was enqueued, in order.
        capacity: bytes of the device.
        devices: how many there are.
        broken: whether what is enqueued from now on fails when it is done.
        live: objects made and not yet freed.
    """

    cudaError_t = Error  # noqa: N815
    cudaMemcpyKind = enum.IntEnum(  # noqa: N815
        "cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2, "cudaMemcpyDeviceToDevice": 3}
    )
    cudaDeviceAttr = enum.IntEnum(  # noqa: N815
        "cudaDeviceAttr", {"cudaDevAttrComputeCapabilityMajor": 75, "cudaDevAttrComputeCapabilityMinor": 76}
    )
    cudaStreamCaptureMode = enum.IntEnum("cudaStreamCaptureMode", {"cudaStreamCaptureModeThreadLocal": 1})  # noqa: N815
    cudaStreamNonBlocking = 1  # noqa: N815
    cudaEventDisableTiming = 2  # noqa: N815
    cudaHostAllocDefault = 0  # noqa: N815

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.capacity = 1 << 30
        self.devices = 1
        self.architecture = (8, 7)
        self.broken = False
        self.streams: dict[int, _Stream] = {}
        self.memory: dict[int, np.ndarray[Any, Any]] = {}
        self.pinned: dict[int, np.ndarray[Any, Any]] = {}
        self.live: list[object] = []
        self._sticky = Error.cudaSuccess
        self._next = 0x7000_0000_0000

    def used(self) -> int:
        return sum(len(block) for block in self.memory.values())

    def left(self) -> dict[str, int]:
        """What has not been freed."""
        return {"memory": len(self.memory), "pinned": len(self.pinned), "objects": len(self.live)}

    def device_bytes(self, address: int, size: int) -> np.ndarray[Any, Any]:
        if address not in self.memory:
            raise AssertionError(f"device address {address:#x} is not allocated, or was freed")
        block = self.memory[address]
        assert size <= len(block), f"{size} bytes in a block of {len(block)}"
        return block[:size]

    def cudaGetErrorString(self, error: int) -> Any:  # noqa: N802
        return Error.cudaSuccess, Error(error).name.encode()

    def cudaGetLastError(self) -> Any:  # noqa: N802
        return (Error.cudaSuccess,)

    def cudaGetDeviceCount(self) -> Any:  # noqa: N802
        return (Error.cudaSuccess, self.devices) if self.devices else (Error.cudaErrorInsufficientDriver, None)

    def cudaGetDevice(self) -> Any:  # noqa: N802
        return Error.cudaSuccess, 0

    def cudaSetDevice(self, device: int) -> Any:  # noqa: N802
        return (Error.cudaSuccess if device == 0 else Error.cudaErrorInvalidValue,)

    def cudaDeviceGetAttribute(self, attr: int, device: int) -> Any:  # noqa: N802, ARG002
        return Error.cudaSuccess, self.architecture[attr - 75]

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:  # noqa: N802, ARG002
        stream = _Stream(0x500 + len(self.streams))
        self.streams[stream.number] = stream
        self.live.append(stream)
        return Error.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: _Stream) -> Any:  # noqa: N802
        self.live.remove(stream)
        return (Error.cudaSuccess,)

    def cudaMalloc(self, size: int) -> Any:  # noqa: N802
        self.calls.append("malloc")
        if self.used() + size > self.capacity:
            return Error.cudaErrorMemoryAllocation, None
        self._next += size + 0x1000
        self.memory[self._next] = np.full(size, 0xCD, np.uint8)  # what was never written shows
        return Error.cudaSuccess, self._next

    def cudaFree(self, devPtr: int) -> Any:  # noqa: N802, N803
        for stream in self.streams.values():
            stream.drain()  # as the real one waits for work in flight
        self.calls.append("free")
        del self.memory[devPtr]
        return (Error.cudaSuccess,)

    def cudaHostAlloc(self, size: int, flags: int) -> Any:  # noqa: N802, ARG002
        block = np.full(size, 0xAB, np.uint8)
        self.pinned[block.ctypes.data] = block
        return Error.cudaSuccess, block.ctypes.data

    def cudaFreeHost(self, ptr: int) -> Any:  # noqa: N802
        for stream in self.streams.values():
            stream.drain()
        del self.pinned[ptr]
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: int, stream: _Stream) -> Any:  # noqa: N802
        kinds = self.cudaMemcpyKind
        self.calls.append({1: "to device", 2: "to host", 3: "on device"}[int(kind)])
        on_device = [kind != kinds.cudaMemcpyDeviceToHost, kind != kinds.cudaMemcpyHostToDevice]

        def place(address: int, device: bool) -> np.ndarray[Any, Any]:
            if device:
                return self.device_bytes(address, count)
            assert address in self.pinned, "a copy from or to memory that is not pinned waits for the device"
            return self.pinned[address][:count]

        place(dst, on_device[0]), place(src, on_device[1])

        def work() -> None:
            place(dst, on_device[0])[:] = place(src, on_device[1])

        stream.put(self.guarded(work))
        return (Error.cudaSuccess,)

    def guarded(self, work: Callable[[], None]) -> Callable[[], None]:
        """Work that is broken when it is done, if the device is when it is enqueued."""
        broken = self.broken

        def run() -> None:
            if broken:
                self._sticky = Error.cudaErrorIllegalAddress
            else:
                work()

        return run

    def cudaEventCreateWithFlags(self, flags: int) -> Any:  # noqa: N802, ARG002
        event = _Event()
        self.live.append(event)
        return Error.cudaSuccess, event

    def cudaEventDestroy(self, event: _Event) -> Any:  # noqa: N802
        self.live.remove(event)
        return (Error.cudaSuccess,)

    def cudaEventRecord(self, event: _Event, stream: _Stream) -> Any:  # noqa: N802
        event.stream = stream
        event.waiting += 1

        def reached() -> None:
            event.waiting -= 1

        stream.put(reached)
        return (Error.cudaSuccess,)

    def cudaEventQuery(self, event: _Event) -> Any:  # noqa: N802
        return (Error.cudaErrorNotReady if event.waiting else Error.cudaSuccess,)

    def cudaEventSynchronize(self, event: _Event) -> Any:  # noqa: N802
        self.calls.append("wait")
        if event.stream is not None:
            event.stream.drain(lambda: not event.waiting)
        return (self._sticky,)

    def cudaStreamBeginCapture(self, stream: _Stream, mode: int) -> Any:  # noqa: N802, ARG002
        assert stream.captured is None and not stream.queue
        stream.captured = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: _Stream) -> Any:  # noqa: N802
        captured, stream.captured = stream.captured, None
        if captured is None or None in captured:
            return Error.cudaErrorStreamCaptureInvalidated, None
        graph = list(captured)
        self.live.append(graph)
        self.calls.append("captured")
        return Error.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph: list[Any], flags: int) -> Any:  # noqa: N802, ARG002
        executable = [graph.copy()]
        self.live.append(executable)
        return Error.cudaSuccess, executable

    def cudaGraphLaunch(self, graphExec: list[Any], stream: _Stream) -> Any:  # noqa: N802, N803
        self.calls.append("launch")
        for work in graphExec[0]:
            stream.put(work)
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, graphExec: list[Any]) -> Any:  # noqa: N802, N803
        self._forget(graphExec)
        return (Error.cudaSuccess,)

    def cudaGraphDestroy(self, graph: list[Any]) -> Any:  # noqa: N802
        self._forget(graph)
        return (Error.cudaSuccess,)

    def _forget(self, thing: object) -> None:
        self.live[:] = [other for other in self.live if other is not thing]


class TensorRT:
    """The module ``tensorrt``, or ``tensorrt_rtx`` if ``rtx``.

    Attributes:
        refuse: whether engines are refused.
        fail: whether execution is refused.
        no_context: whether no context is made.
        host: names of the tensors that are wanted in the host's memory.
        profiles: for each profile the least and largest size of every dynamic axis.
        capturable: whether what is executed can be captured.
        libraries: plugin libraries loaded.
    """

    DataType = enum.IntEnum("DataType", [*_NUMPY, "BF16", "DOUBLE"])
    TensorIOMode = enum.IntEnum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"], start=0)
    TensorLocation = enum.IntEnum("TensorLocation", ["DEVICE", "HOST"], start=0)

    def __init__(self, cuda: Cuda, *, rtx: bool = False) -> None:
        self.__version__ = "10.13.3.9"
        self.cuda = cuda
        self.refuse = self.fail = self.no_context = False
        self.host: set[str] = set()
        self.profiles = [(1, 64)]
        self.capturable = True
        self.libraries: list[str] = []
        self.library_loads = True
        self.contexts = 0
        self.Runtime = lambda logger: Runtime(self, logger)
        self.ILogger = ILogger
        self.IOutputAllocator = IOutputAllocator
        if rtx:
            self.CudaGraphStrategy = enum.IntEnum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"], start=0)
        self.rtx = rtx

    def get_plugin_registry(self) -> IPluginRegistry:
        return IPluginRegistry(self)


class ILogger:
    Severity = enum.IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)

    def __init__(self) -> None:
        self.ready = True


class IOutputAllocator:
    def __init__(self) -> None:
        self.ready = True


class IPluginRegistry:
    def __init__(self, trt: TensorRT) -> None:
        self._trt = trt

    def load_library(self, plugin_path: str) -> object | None:
        self._trt.libraries.append(plugin_path)
        return object() if self._trt.library_loads else None


class Runtime:
    def __init__(self, trt: TensorRT, logger: Any) -> None:
        assert logger.ready
        self._trt, self._logger = trt, logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        if self._trt.refuse or not serialized_engine.startswith(MAGIC):
            self._logger.log(ILogger.Severity.ERROR, "engine plan file is\nnot compatible")
            self._logger.log(ILogger.Severity.INFO, "not worth telling")
            return None
        return ICudaEngine(self._trt, self._logger, serialized_engine[len(MAGIC) :])


class IRuntimeConfig:
    def __init__(self, trt: TensorRT) -> None:
        self.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED


class ICudaEngine:
    def __init__(self, trt: TensorRT, logger: Any, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        self.trt, self.logger = trt, logger
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.input_nodes = {node.name: node for node in self.session.get_inputs()}
        self.output_nodes = {node.name: node for node in self.session.get_outputs()}
        self.nodes = {**self.input_nodes, **self.output_nodes}
        self.num_io_tensors = len(self.nodes)
        self.num_optimization_profiles = len(trt.profiles)

    def get_tensor_name(self, index: int) -> str:
        return [*self.nodes][index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.trt.TensorIOMode.INPUT if name in self.input_nodes else self.trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self.trt.DataType[_TYPES[self.nodes[name].type]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.nodes[name].shape)

    def get_tensor_location(self, name: str) -> Any:
        return self.trt.TensorLocation.HOST if name in self.trt.host else self.trt.TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        least, most = self.trt.profiles[profile_index]
        return [tuple(end if s < 0 else s for s in self.get_tensor_shape(name)) for end in (least, least, most)]

    def create_runtime_config(self) -> IRuntimeConfig:
        assert self.trt.rtx, "only TensorRT-RTX has this"
        return IRuntimeConfig(self.trt)

    def create_execution_context(self, runtime_config: Any = None) -> IExecutionContext | None:
        if self.trt.rtx:
            assert runtime_config.cuda_graph_strategy == self.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if self.trt.no_context:
            self.logger.log(ILogger.Severity.ERROR, "out of memory")
            return None
        self.trt.contexts += 1
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._trt = engine, engine.trt
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._executed: object = None
        self._captured = False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle in self._trt.cuda.streams
        self._profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert not self._captured, "a captured context was changed"
        least, most = self._trt.profiles[self._profile]
        declared = self._engine.get_tensor_shape(name)
        fine = len(shape) == len(declared) and all(
            size == want if want >= 0 else least <= size <= most for size, want in zip(shape, declared, strict=True)
        )
        if fine:
            self._shapes[name] = tuple(shape)
        return fine

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert memory, f"no address for {name}"
        self._addresses[name] = memory
        return True

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        self._allocators.pop(name, None)
        if output_allocator is not None:
            assert output_allocator.ready
            self._allocators[name] = output_allocator
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine.input_nodes if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Sizes that follow from the inputs' by their axes' names; -1 where they depend on the data."""
        known = {}
        for given, shape in self._shapes.items():
            known |= dict(zip(self._engine.input_nodes[given].shape, shape, strict=True))
        return tuple(size if isinstance(size, int) else known.get(size, -1) for size in self._engine.nodes[name].shape)

    def execute_async_v3(self, stream_handle: int) -> bool:
        cuda, engine = self._trt.cuda, self._engine
        stream = cuda.streams[stream_handle]
        if self._trt.fail:
            engine.logger.log(ILogger.Severity.ERROR, "enqueue failed")
            return False
        addresses, shapes = dict(self._addresses), dict(self._shapes)
        late = [name for name in engine.output_nodes if min(self.get_tensor_shape(name), default=0) < 0]
        if stream.captured is not None:
            assert self._executed == (addresses, shapes), "captured before it was executed"
            if late or not self._trt.capturable:
                stream.captured.append(None)  # type: ignore[arg-type]
                return False
            self._captured = True
        self._executed = addresses, shapes
        cuda.calls.append("execute")
        held = {
            name: np.ctypeslib.as_array((ctypes.c_uint8 * self._size(name, shapes[name])).from_address(addresses[name]))
            for name in self._trt.host & shapes.keys()
        }
        host_now = {name: array.copy() for name, array in held.items()}

        def compute() -> dict[str, np.ndarray[Any, Any]]:
            feeds = {}
            for name, shape in shapes.items():
                raw = host_now.get(name)
                if raw is None:
                    raw = cuda.device_bytes(addresses[name], self._size(name, shape))
                feeds[name] = raw.view(self._dtype(name)).reshape(shape).copy()
            return dict(zip(engine.output_nodes, engine.session.run(None, feeds), strict=True))

        def write(name: str, array: np.ndarray[Any, Any], address: int) -> None:
            raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            if name in self._trt.host:
                ctypes.memmove(address, raw.ctypes.data, raw.nbytes)
            else:
                cuda.device_bytes(address, raw.nbytes)[:] = raw

        if not late:

            def work() -> None:
                for name, array in compute().items():
                    assert array.shape == tuple(self._sizes(name, shapes)), name
                    write(name, array, addresses[name])

            stream.put(cuda.guarded(work))
            return True
        stream.drain()  # it must know the data to know the sizes
        for name, array in compute().items():
            address = addresses.get(name, 0)
            if name in late:
                allocator = self._allocators[name]
                address = allocator.reallocate_output_async(name, 0, array.nbytes, 256, stream_handle)
                if not address:
                    engine.logger.log(ILogger.Severity.ERROR, "output allocator returned null")
                    return False
                allocator.notify_shape(name, array.shape)
            write(name, array, address)
        return True

    def _sizes(self, name: str, shapes: dict[str, tuple[int, ...]]) -> list[int]:
        known: dict[Any, int] = {}
        for given, shape in shapes.items():
            known |= dict(zip(self._engine.input_nodes[given].shape, shape, strict=True))
        return [size if isinstance(size, int) else known[size] for size in self._engine.nodes[name].shape]

    def _dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(_NUMPY[self._engine.get_tensor_dtype(name).name])

    def _size(self, name: str, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape)) * self._dtype(name).itemsize
