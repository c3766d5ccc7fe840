"""Plays TensorRT's part, where there is none, on the stand-in for CUDA: work is done when it is waited for.

An engine is an ONNX file, executed by ONNX Runtime.
"""

from __future__ import annotations

import ctypes
import enum
from typing import Any

import numpy as np
import onnxruntime

from tests.runtime.cuda_stand_in import Cuda

_TYPES = {
    "tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64", "tensor(int32)": "INT32",
    "tensor(bool)": "BOOL", "tensor(int8)": "INT8", "tensor(uint8)": "UINT8", "tensor(double)": "DOUBLE",
}  # fmt: skip
_NUMPY = {"FLOAT": "f4", "HALF": "f2", "INT64": "i8", "INT32": "i4", "BOOL": "?", "INT8": "i1", "UINT8": "u1"}
MAGIC = b"stand-in engine\0"


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
