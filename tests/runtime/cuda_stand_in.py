"""Plays the CUDA runtime's part (``cuda.bindings.runtime``), where there is none.

What is on a stream is done when somebody waits for it and not before, so that memory which is reused or
freed too early gives wrong numbers or an error. Addresses of the device lie in no memory of the process.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from typing import Any

import numpy as np


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

    def cudaFree(self, devPtr: int) -> Any:  # noqa: N802
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

    def cudaGraphLaunch(self, graphExec: list[Any], stream: _Stream) -> Any:  # noqa: N802
        self.calls.append("launch")
        for work in graphExec[0]:
            stream.put(work)
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, graphExec: list[Any]) -> Any:  # noqa: N802
        self._forget(graphExec)
        return (Error.cudaSuccess,)

    def cudaGraphDestroy(self, graph: list[Any]) -> Any:  # noqa: N802
        self._forget(graph)
        return (Error.cudaSuccess,)

    def _forget(self, thing: object) -> None:
        self.live[:] = [other for other in self.live if other is not thing]
