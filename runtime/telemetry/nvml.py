"""Power, energy, temperature and clocks of NVIDIA GPUs: NVML through its package ``nvidia-ml-py``.

Units are those of "NVML API Reference Guide", Device Queries: milliwatts, millijoules since the driver was
loaded, degrees Celsius, megahertz. A Jetson has the library too; Orin's answers hardly any query, Thor's
some (github.com/rbonghi/jetson_stats, pull requests 698 and 867): what is not answered is left out.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptrt.runtime.errors import one_line
from adaptrt.runtime.telemetry.reading import EnergyCounter, Reading, total_power

MISSING = (
    "nvml: an NVIDIA driver is running but the package nvidia-ml-py is missing, so the GPU is not read; "
    "install adaptrt[telemetry]"
)

_DRIVER = "proc/driver/nvidia/version"

Query = Callable[[Any], float]


@dataclass
class _Gpu:
    """One GPU and the queries that it answers, by the quantity's name."""

    name: str
    handle: Any
    queries: dict[str, Query] = field(default_factory=dict)


class NvmlReader:
    """GPUs as ``gpu0``, ``gpu1``, …; attributes as in ``Reader``."""

    name = "nvml"

    def __init__(self, library: Any, gpus: list[_Gpu], notes: tuple[str, ...] = ()) -> None:
        self._library = library
        self._gpus = gpus
        self._process = os.getpid()
        self.notes = notes
        self._total = tuple(gpu.name for gpu in gpus if {"power", "energy"} & set(gpu.queries))

    @staticmethod
    def find(root: Path, library: Any = None) -> NvmlReader | None:
        """The GPUs of this machine; None if there are none or none answers anything.

        Args:
            root: only "/" is this machine; any other folder has no GPU, except with ``library``.
            library: what takes the place of the package ``pynvml``.
        """
        if library is None:
            if root != Path("/"):
                return None
            try:
                library = importlib.import_module("pynvml")
            except ImportError:
                driver = (root / _DRIVER).exists()
                return NvmlReader(None, [], (MISSING,)) if driver else None
        try:
            gpus = _open(library)
        except Exception as error:
            if type(error).__name__ == "NVMLError_LibraryNotFound":
                return None
            return NvmlReader(None, [], (f"nvml: no GPU is read, the library says: {one_line(error)}",))
        for gpu in gpus:
            gpu.queries = _answered(library, gpu.handle)
        answering = [gpu for gpu in gpus if gpu.queries]
        if not answering:
            library.nvmlShutdown()
            return None
        return NvmlReader(library, answering)

    def read(self, time_s: float) -> Reading:
        """Ask every GPU once."""
        problems: list[str] = []
        self._reopen_after_fork(problems)
        answers = {gpu.name: _ask(gpu, problems) for gpu in self._gpus}
        power_w = {name: said["power"] for name, said in answers.items() if "power" in said}
        clock_hz = {name: said["clock"] for name, said in answers.items() if "clock" in said}
        for name, said in answers.items():
            if "memory clock" in said:
                clock_hz[f"{name} memory"] = said["memory clock"]
        return Reading(
            time_s=time_s,
            power_w=power_w,
            energy={name: EnergyCounter(said["energy"]) for name, said in answers.items() if "energy" in said},
            total=self._total,
            total_power_w=total_power(power_w, self._total),
            temperature_c={name: said["temperature"] for name, said in answers.items() if "temperature" in said},
            clock_hz=clock_hz,
            problems=tuple(problems),
        )

    def close(self) -> None:
        """Let the library go, if this process opened it; reading afterwards finds nothing."""
        if self._gpus and self._process == os.getpid():
            self._gpus = []
            self._library.nvmlShutdown()

    def _reopen_after_fork(self, problems: list[str]) -> None:
        # NVML's state does not survive a fork.
        if self._process == os.getpid() or not self._gpus:
            return
        try:
            handles = {gpu.name: gpu.handle for gpu in _open(self._library)}
        except Exception as error:
            problems.append(f"nvml: the library says after a fork: {one_line(error)}")
            return
        self._process = os.getpid()
        for gpu in self._gpus:
            gpu.handle = handles.get(gpu.name, gpu.handle)


def _open(library: Any) -> list[_Gpu]:
    library.nvmlInit()
    return [
        _Gpu(f"gpu{index}", library.nvmlDeviceGetHandleByIndex(index)) for index in range(library.nvmlDeviceGetCount())
    ]


def _answered(library: Any, handle: Any) -> dict[str, Query]:
    """The queries that a GPU answers, by the quantity; of several ways to ask, the first that works."""
    milli, mega = 1e-3, 1e6
    ways: tuple[tuple[str, str, tuple[str, ...], float], ...] = (
        ("power", "nvmlDeviceGetPowerUsage", (), milli),
        ("energy", "nvmlDeviceGetTotalEnergyConsumption", (), milli),
        # The older name goes away with CUDA 14, drivers before CUDA 13 do not know the newer one.
        ("temperature", "nvmlDeviceGetTemperatureV", ("NVML_TEMPERATURE_GPU",), 1.0),
        ("temperature", "nvmlDeviceGetTemperature", ("NVML_TEMPERATURE_GPU",), 1.0),
        ("clock", "nvmlDeviceGetClockInfo", ("NVML_CLOCK_SM",), mega),
        ("memory clock", "nvmlDeviceGetClockInfo", ("NVML_CLOCK_MEM",), mega),
    )
    answered: dict[str, Query] = {}
    for what, function, constants, scale in ways:
        if what not in answered and hasattr(library, function):
            query = _query(getattr(library, function), [getattr(library, name) for name in constants], scale)
            if not isinstance(_outcome(query, handle), Exception):
                answered[what] = query
    return answered


def _query(function: Callable[..., float], arguments: list[Any], scale: float) -> Query:
    return lambda handle: function(handle, *arguments) * scale


def _outcome(query: Query, handle: Any) -> float | Exception:
    try:
        return query(handle)
    except Exception as error:
        return error


def _ask(gpu: _Gpu, problems: list[str]) -> dict[str, float]:
    answers = {}
    for what, query in gpu.queries.items():
        outcome = _outcome(query, gpu.handle)
        if isinstance(outcome, Exception):
            problems.append(f"{gpu.name} {what}: {one_line(outcome)}")
        else:
            answers[what] = outcome
    return answers
