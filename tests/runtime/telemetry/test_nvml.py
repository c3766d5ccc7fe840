"""NVML through the real package ``nvidia-ml-py``, with its C library replaced by one that answers like a device's.

What stands in for ``libnvidia-ml.so.1`` gives the numbers of "NVML API Reference Guide": NVML_SUCCESS 0,
NVML_ERROR_NOT_SUPPORTED 3, NVML_ERROR_GPU_IS_LOST 15; milliwatts, millijoules, degrees, megahertz.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adaptrt.runtime.telemetry import EnergyCounter, Reading
from adaptrt.runtime.telemetry.nvml import NvmlReader

pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed (adaptrt[telemetry])")

NOT_SUPPORTED, LOST, NO_PERMISSION = 3, 15, 4

Answer = int | Callable[..., int]


class Driver:
    """The library's functions, each of which writes its answer behind the pointer that it was given."""

    def __init__(self, gpus: list[dict[str, int]]) -> None:
        self.gpus = gpus
        self.opened = 0

    def nvmlInitWithFlags(self, _flags: object) -> int:  # noqa: N802
        self.opened += 1
        return 0

    def nvmlShutdown(self) -> int:  # noqa: N802
        self.opened -= 1
        return 0

    def nvmlErrorString(self, code: Any) -> bytes:  # noqa: N802
        return f"error {getattr(code, 'value', code)}".encode()

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.gpus)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, device: Any) -> int:  # noqa: N802
        ctypes.cast(device, ctypes.POINTER(ctypes.c_void_p))[0] = index.value + 1
        return 0

    def _answer(self, device: Any, what: str, into: Any) -> int:
        address = ctypes.cast(device, ctypes.c_void_p).value
        assert address is not None
        said = self.gpus[address - 1].get(what, -NOT_SUPPORTED)
        if said < 0:
            return -said
        into.value = said
        return 0

    def nvmlDeviceGetPowerUsage(self, device: Any, power: Any) -> int:  # noqa: N802
        return self._answer(device, "milliwatts", power._obj)

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, energy: Any) -> int:  # noqa: N802
        return self._answer(device, "millijoules", energy._obj)

    def nvmlDeviceGetTemperature(self, device: Any, _sensor: Any, degrees: Any) -> int:  # noqa: N802
        return self._answer(device, "degrees", degrees._obj)

    def nvmlDeviceGetClockInfo(self, device: Any, kind: Any, clock: Any) -> int:  # noqa: N802
        return self._answer(device, {1: "megahertz", 2: "memory"}[kind.value], clock._obj)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[dict[str, int]]], Driver]]:
    def put(gpus: list[dict[str, int]]) -> Driver:
        driver = Driver(gpus)
        monkeypatch.setattr(pynvml, "nvmlLib", driver)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        return driver

    return put  # type: ignore[return-value]


FULL = {"milliwatts": 71000, "millijoules": 5_000_000, "degrees": 41, "megahertz": 1410, "memory": 2619}
ROOT = Path("/")


def found() -> NvmlReader:
    reader = NvmlReader.find(ROOT, pynvml)
    assert reader is not None
    return reader


def test_a_gpu_that_answers_everything(install: Any) -> None:
    install([dict(FULL)])
    reading = found().read(2.0)
    assert reading == Reading(
        2.0,
        power_w={"gpu0": pytest.approx(71)},
        energy={"gpu0": EnergyCounter(pytest.approx(5000))},
        total=("gpu0",),
        total_power_w=pytest.approx(71),
        temperature_c={"gpu0": 41},
        clock_hz={"gpu0": pytest.approx(1.41e9), "gpu0 memory": pytest.approx(2.619e9)},
    )


@pytest.mark.parametrize("missing", sorted(FULL))
def test_what_is_not_supported_is_absent_without_a_word(install: Any, missing: str) -> None:
    install([{name: value for name, value in FULL.items() if name != missing}])
    reading = found().read(0.0)
    assert reading.problems == ()
    present = {
        "milliwatts": bool(reading.power_w),
        "millijoules": bool(reading.energy),
        "degrees": bool(reading.temperature_c),
        "megahertz": "gpu0" in reading.clock_hz,
        "memory": "gpu0 memory" in reading.clock_hz,
    }
    assert [name for name, there in present.items() if not there] == [missing]


def test_orin_answers_nothing_and_is_no_gpu_here(install: Any) -> None:
    """github.com/HazyResearch/intelligence-per-watt, issue 40: every query is not supported."""
    driver = install([{}])
    assert NvmlReader.find(ROOT, pynvml) is None
    assert driver.opened == 0


def test_a_driver_of_cuda_13_is_asked_by_the_newer_name(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install([dict(FULL)])

    def newer(_device: Any, answer: Any) -> int:
        answer._obj.temperature = 67
        return 0

    monkeypatch.setattr(driver, "nvmlDeviceGetTemperatureV", newer, raising=False)
    assert found().read(0.0).temperature_c == {"gpu0": 67}
    monkeypatch.delattr(Driver, "nvmlDeviceGetTemperature")
    assert found().read(0.0).temperature_c == {"gpu0": 67}


def test_several_gpus_add_up_and_keep_their_numbers(install: Any) -> None:
    install([dict(FULL), {}, {**FULL, "milliwatts": 29000}])
    reading = found().read(0.0)
    assert reading.total == ("gpu0", "gpu2") and reading.total_power_w == pytest.approx(100)


def test_a_gpu_that_is_lost_is_absent_until_it_is_back(install: Any) -> None:
    driver = install([dict(FULL)])
    reader = found()
    driver.gpus[0].update(milliwatts=-LOST, millijoules=-LOST)
    reading = reader.read(1.0)
    assert reading.power_w == {} and reading.total_power_w is None and reading.energy == {}
    assert reading.temperature_c == {"gpu0": 41}
    assert [line.partition(":")[0] for line in reading.problems] == ["gpu0 power", "gpu0 energy"]
    driver.gpus[0].update(FULL)
    assert reader.read(2.0).total_power_w == pytest.approx(71)


def test_a_library_that_refuses_leaves_a_note(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install([dict(FULL)])
    monkeypatch.setattr(driver, "nvmlInitWithFlags", lambda _: NO_PERMISSION)
    reader = found()
    assert len(reader.notes) == 1 and reader.notes[0].startswith("nvml: no GPU is read")
    assert reader.read(0.0) == Reading(0.0)


def test_a_forked_process_opens_the_library_again(install: Any) -> None:
    driver = install([dict(FULL)])
    reader = found()
    reader._process = -1
    assert reader.read(0.0).total_power_w == pytest.approx(71)
    assert driver.opened == 2 and reader._process == os.getpid()
    reader.read(1.0)
    assert driver.opened == 2


def test_closing_lets_the_library_go(install: Any) -> None:
    driver = install([dict(FULL)])
    reader = found()
    reader.close()
    reader.close()
    assert driver.opened == 0 and reader.read(0.0).power_w == {}


def test_a_tree_is_not_this_machine(tmp_path: Path) -> None:
    assert NvmlReader.find(tmp_path) is None


def test_without_a_driver_there_is_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", missing)
    assert NvmlReader.find(ROOT, pynvml) is None
