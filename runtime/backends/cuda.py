"""The CUDA runtime as one model uses it: one stream, memory that is kept for reuse, captured graphs.

Everything that a model does on the GPU is put on its one stream, under its one lock. So work is done in
the order in which it was enqueued, and memory whose last user has been enqueued may be given to the next
at once, without waiting for either.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from adaptrt.runtime.backends import Array
from adaptrt.runtime.errors import BackendError, one_line

_SMALLEST = 256
_MOST_STAGING = 64
"""Pinned buffers of one size; above it a copy waits for one to be free."""


class CudaError(Exception):
    """What the CUDA runtime said.

    Attributes:
        out_of_memory: whether there was no memory left.
    """

    def __init__(self, text: str, *, out_of_memory: bool = False) -> None:
        super().__init__(text)
        self.out_of_memory = out_of_memory


class Memory:
    """Some of the device's memory; given back for reuse when nobody holds it.

    Attributes:
        address: on the device.
        size: bytes.
    """

    __slots__ = ("_pool", "address", "size")

    def __init__(self, address: int, size: int, pool: _Pool) -> None:
        self.address, self.size, self._pool = address, size, pool

    def __del__(self) -> None:
        self._pool.give_back(self.address, self.size)


class Graph:
    """A captured piece of work, to be launched as often as wanted."""

    def __init__(self, cuda: ModuleType, executable: Any) -> None:
        self.executable = executable
        weakref.finalize(self, cuda.cudaGraphExecDestroy, executable)


class CudaDevice:
    """The GPU that is current in the calling thread, as one model uses it. Any number of threads may use it.

    Attributes:
        architecture: its compute capability, such as ``"87"``.
        stream: address of the stream, as TensorRT takes it.

    Raises:
        BackendError: cuda-bindings is not installed, or there is no GPU or no driver.
    """

    def __init__(self) -> None:
        self._cuda = cuda = _import()
        try:
            count = self._call("cudaGetDeviceCount")
        except CudaError as error:
            count, reason = 0, f" ({error})"
        else:
            reason = ""
        if not count:
            raise BackendError(
                f"no CUDA device was found{reason}, expected one; check the driver, or name another backend"
            )
        try:
            self._ordinal = self._call("cudaGetDevice")
            attributes = cuda.cudaDeviceAttr
            major, minor = (
                self._call("cudaDeviceGetAttribute", attribute, self._ordinal)
                for attribute in (
                    attributes.cudaDevAttrComputeCapabilityMajor,
                    attributes.cudaDevAttrComputeCapabilityMinor,
                )
            )
            self.architecture = f"{major}{minor}"
            self._stream = self._call("cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking)
            weakref.finalize(self, cuda.cudaStreamDestroy, self._stream)
            self._capturing = self._call("cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking)
            weakref.finalize(self, cuda.cudaStreamDestroy, self._capturing)
        except CudaError as error:
            raise BackendError(
                f"the CUDA device did not start ({error}), expected one that is free; check it with nvidia-smi"
            ) from None
        self.stream = int(self._stream)
        self._pool = _Pool(cuda)
        self._staging = _Staging(cuda)
        self._lock = threading.RLock()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else enqueues in the meantime, and this GPU is the calling thread's."""
        with self._lock:
            current = self._call("cudaGetDevice")
            if current != self._ordinal:
                self._call("cudaSetDevice", self._ordinal)
            try:
                yield
            finally:
                if current != self._ordinal:
                    self._call("cudaSetDevice", current)

    def allocate(self, size: int) -> Memory:
        """Memory of at least ``size`` bytes; its content is whatever was there. Call it ``locked``.

        Raises:
            CudaError: there is none left, even after giving back what lay idle.
        """
        return self._pool.take(size)

    def upload(self, array: Array, memory: Memory) -> None:
        """Copy an array to the device. It may change as soon as this returns. Call it ``locked``."""
        if not array.nbytes:
            return
        buffer = self._staging.take(array.nbytes)
        np.copyto(buffer.bytes[: array.nbytes].view(array.dtype).reshape(array.shape), array)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", memory.address, buffer.address, array.nbytes, kind, self._stream)
        self._call("cudaEventRecord", buffer.event, self._stream)
        self._staging.give_back(buffer)

    def copy(self, source: Memory, target: Memory, size: int) -> None:
        """Copy on the device. Call it ``locked``."""
        if size:
            kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
            self._call("cudaMemcpyAsync", target.address, source.address, size, kind, self._stream)

    def download(self, wanted: Sequence[tuple[Memory, tuple[int, ...], np.dtype[Any]]]) -> list[Array]:
        """Arrays of what lies in memory, and in which shape and dtype: waits once, for all of them.

        Raises:
            CudaError: something that was enqueued before has failed.
        """
        arrays = [np.empty(shape, dtype) for _, shape, dtype in wanted]
        buffers: list[tuple[Array, _Pinned]] = []
        with self.locked():
            for (memory, _, _), array in zip(wanted, arrays, strict=True):
                if not array.nbytes:
                    continue
                buffer = self._staging.take(array.nbytes)
                kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
                self._call("cudaMemcpyAsync", buffer.address, memory.address, array.nbytes, kind, self._stream)
                self._call("cudaEventRecord", buffer.event, self._stream)
                buffers.append((array, buffer))
        for array, buffer in buffers:  # outside the lock: others enqueue while this waits
            self._call("cudaEventSynchronize", buffer.event)
            np.copyto(array, buffer.bytes[: array.nbytes].view(array.dtype).reshape(array.shape))
            self._staging.give_back(buffer)
        return arrays

    def capture(self, enqueue: Callable[[int], bool]) -> Graph | None:
        """What ``enqueue`` puts on the stream that it is given, as a graph; None if it cannot be captured.

        Nothing is executed. It is captured from a stream of its own, where no other thread's work can get in
        between. Call it ``locked``.
        """
        cuda = self._cuda
        self._call(
            "cudaStreamBeginCapture", self._capturing, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )
        fine, graph = False, None
        try:
            fine = enqueue(int(self._capturing))
        finally:
            try:
                graph = self._call("cudaStreamEndCapture", self._capturing)
            except CudaError:
                cuda.cudaGetLastError()  # what cannot be captured is no failure of what comes next
        if graph is None:
            return None
        try:
            return Graph(cuda, self._call("cudaGraphInstantiate", graph, 0)) if fine else None
        except CudaError:
            cuda.cudaGetLastError()
            return None
        finally:
            cuda.cudaGraphDestroy(graph)

    def launch(self, graph: Graph) -> None:
        """Enqueue a captured graph. Call it ``locked``."""
        self._call("cudaGraphLaunch", graph.executable, self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        return _call(self._cuda, name, *arguments)


class _Pool:
    """Device memory by size: allocated once, reused, and freed when the model and its values are gone."""

    def __init__(self, cuda: ModuleType) -> None:
        self._cuda = cuda
        self._idle: dict[int, list[int]] = {}
        self._all: set[int] = set()
        weakref.finalize(self, _free, cuda.cudaFree, self._all)

    def take(self, size: int) -> Memory:
        size = _rounded(size)
        try:
            address = self._idle.setdefault(size, []).pop()
        except IndexError:
            try:
                address = int(_call(self._cuda, "cudaMalloc", size))
            except CudaError as error:
                if not error.out_of_memory:
                    raise
                self._trim()
                address = int(_call(self._cuda, "cudaMalloc", size))
            self._all.add(address)
        return Memory(address, size, self)

    def give_back(self, address: int, size: int) -> None:
        """May be called at any point of any thread, as the collector pleases: it only appends."""
        self._idle[size].append(address)

    def _trim(self) -> None:
        """Free what lies idle; cudaFree waits for work that still uses it."""
        for addresses in self._idle.values():
            while addresses:
                address = addresses.pop()
                self._all.discard(address)
                _call(self._cuda, "cudaFree", address)


class _Pinned:
    """Page-locked host memory, and the event after which it may be used again."""

    def __init__(self, cuda: ModuleType, size: int) -> None:
        self.address = int(_call(cuda, "cudaHostAlloc", size, cuda.cudaHostAllocDefault))
        weakref.finalize(self, cuda.cudaFreeHost, self.address)
        self.event = _call(cuda, "cudaEventCreateWithFlags", cuda.cudaEventDisableTiming)
        weakref.finalize(self, cuda.cudaEventDestroy, self.event)
        self.bytes: Array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.address))


class _Staging:
    """Pinned buffers by size, the one that was used longest ago first."""

    def __init__(self, cuda: ModuleType) -> None:
        self._cuda = cuda
        self._idle: dict[int, list[_Pinned]] = {}

    def take(self, size: int) -> _Pinned:
        size = _rounded(size)
        idle = self._idle.setdefault(size, [])
        try:
            buffer = idle.pop(0)
        except IndexError:
            return _Pinned(self._cuda, size)
        (error,) = self._cuda.cudaEventQuery(buffer.event)
        if not error:
            return buffer
        if len(idle) < _MOST_STAGING:
            idle.insert(0, buffer)
            return _Pinned(self._cuda, size)
        _call(self._cuda, "cudaEventSynchronize", buffer.event)
        return buffer

    def give_back(self, buffer: _Pinned) -> None:
        self._idle[len(buffer.bytes)].append(buffer)


def _rounded(size: int) -> int:
    """A size of which few differ: at most a quarter more."""
    step = max(_SMALLEST, 1 << max(0, size.bit_length() - 3))
    return max(1, -(-size // step)) * step


def _free(free: Callable[[int], object], addresses: set[int]) -> None:
    for address in addresses:
        free(address)


def _call(cuda: ModuleType, name: str, *arguments: Any) -> Any:
    """What a function of the CUDA runtime returns beside its error code.

    Raises:
        CudaError: the code was one.
    """
    error, *values = getattr(cuda, name)(*arguments)
    if error:
        _, text = cuda.cudaGetErrorString(error)
        said = text.decode() if isinstance(text, bytes) else str(text)
        raise CudaError(f"{name}: {said}", out_of_memory=int(error) == int(cuda.cudaError_t.cudaErrorMemoryAllocation))
    return values[0] if values else None


def _import() -> ModuleType:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except Exception as error:  # ImportError, or what a library that does not load raises
        raise BackendError(
            f"cuda.bindings cannot be imported ({one_line(error)}), expected it beside adaptrt; install cuda-bindings"
        ) from None
