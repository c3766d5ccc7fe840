"""One call for all sensors: cached, for many threads, never an exception, never a wait."""

from __future__ import annotations

import gc
import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adaptrt.runtime import load
from adaptrt.runtime.errors import TelemetryError
from adaptrt.runtime.telemetry import Reading, Telemetry
from tests.runtime.conftest import TINY
from tests.runtime.telemetry import device_trees as trees

LONG_S = 30.0


class Sensor:
    """A reader that counts how often it is asked, and can be held up."""

    name = "sensor"
    notes = ("a note",)

    def __init__(self) -> None:
        self.asked = 0
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.closed = 0

    def read(self, time_s: float) -> Reading:
        self.asked += 1
        self.entered.set()
        assert self.open.wait(LONG_S)
        return Reading(time_s, power_w={"VDD_IN": 10.0}, total=("VDD_IN",))

    def close(self) -> None:
        self.closed += 1


class Broken(Sensor):
    name = "broken"
    notes = ()

    def read(self, time_s: float) -> Reading:
        raise RuntimeError(f"bus\non fire at {time_s}")


def test_a_reading_is_given_again_while_it_is_young() -> None:
    sensor = Sensor()
    telemetry = Telemetry([sensor], interval_s=0.05)
    first = telemetry.read(1.0)
    assert telemetry.read(1.0) is first and telemetry.read(1.0499) is first and sensor.asked == 1
    second = telemetry.read(1.06)
    assert second.time_s == 1.06 and sensor.asked == 2
    assert telemetry.notes == ("a note",)


def test_a_clock_that_is_set_back_or_is_no_number_does_not_freeze_the_reading() -> None:
    sensor = Sensor()
    telemetry = Telemetry([sensor], interval_s=0.05)
    for time_s in (100.0, 7.0, math.nan, 7.1):
        assert telemetry.read(time_s).power_w == {"VDD_IN": 10.0}
    assert sensor.asked == 4


def test_a_reader_that_raises_costs_only_itself() -> None:
    reading = Telemetry([Broken(), Sensor()]).read(2.0)
    assert reading.total_power_w == 10.0
    assert reading.problems == ("broken: RuntimeError: bus on fire at 2.0",)


def test_while_one_thread_reads_the_others_get_the_last_reading() -> None:
    sensor = Sensor()
    telemetry = Telemetry([sensor], interval_s=0.05)
    first = telemetry.read(0.0)
    sensor.open.clear()
    sensor.entered.clear()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(telemetry.read, 1.0)
        assert sensor.entered.wait(LONG_S)
        assert telemetry.read(1.0) is first
        sensor.open.set()
        assert slow.result(LONG_S).time_s == 1.0
    assert sensor.asked == 2


def test_many_threads_read_once_per_interval() -> None:
    sensor = Sensor()
    telemetry = Telemetry([sensor], interval_s=1000.0)
    with ThreadPoolExecutor(8) as pool:
        readings = list(pool.map(lambda number: telemetry.read(1.0 + number / 1000), range(400)))
    assert sensor.asked == 1 and all(reading is readings[0] for reading in readings)


def test_energy_of_the_readings_taken() -> None:
    telemetry = Telemetry([Sensor()], interval_s=0.05)
    for number in range(11):
        telemetry.read(number / 10)
    assert telemetry.energy_j(0.25, 0.75) == pytest.approx(5)
    assert telemetry.mean_power_w(0.25, 0.75) == pytest.approx(10)
    assert telemetry.energy_j(0.5, 1.5) is None
    assert telemetry.energy_totals_j() == (pytest.approx(10), {"VDD_IN": pytest.approx(10)})


def test_a_thread_of_its_own_reads() -> None:
    sensor = Sensor()
    ticks = iter(range(10**9))
    third = threading.Event()

    def clock() -> float:
        tick = next(ticks)
        if tick >= 3:
            third.set()
        return float(tick)

    with Telemetry([sensor], interval_s=0) as telemetry:
        telemetry.start(period_s=0.001, clock=clock)
        assert third.wait(LONG_S)
        with pytest.raises(TelemetryError, match="a thread reads these sensors already"):
            telemetry.start()
        taken = telemetry.read(2.0)
        assert taken.time_s >= 2.0 and taken.power_w == {"VDD_IN": 10.0}
        assert threading.get_ident() not in {thread.ident for thread in _samplers()}
    assert not _samplers() and sensor.closed == 1
    asked = sensor.asked
    assert telemetry.read(1e9).time_s == 1e9 and sensor.asked == asked + 1


def test_slow_sensors_get_a_thread_from_the_second_reading_on() -> None:
    threads = []

    class Chip(Sensor):
        def read(self, time_s: float) -> Reading:
            threads.append(threading.get_ident())
            time.sleep(0.002)
            return super().read(time_s)

    with Telemetry([Chip()], interval_s=0.0, own_thread_above_s=0.001) as telemetry:
        telemetry.read(time.perf_counter())
        assert not _samplers()  # the first one opens files
        telemetry.read(time.perf_counter())
        assert _samplers()
        for _ in range(20):
            telemetry.read(time.perf_counter())
        assert threads.count(threading.get_ident()) == 2
    assert not _samplers()


def test_quick_sensors_get_no_thread() -> None:
    with Telemetry([Sensor()], interval_s=0.0, own_thread_above_s=LONG_S) as telemetry:
        for _ in range(20):
            telemetry.read(time.perf_counter())
        assert not _samplers()


def test_a_model_that_is_gone_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptrt.runtime.device.model_on_device._SLOW_SENSORS_S", 0.0)  # every sensor is slow
    model = load(TINY)
    for _ in range(2):
        model.telemetry()
        time.sleep(0.06)  # longer than readings are kept for
    assert _samplers()
    del model
    gc.collect()
    assert not _samplers()


def test_a_sensor_that_hangs_holds_up_nobody() -> None:
    sensor = Sensor()
    telemetry = Telemetry([sensor], interval_s=0)
    first = telemetry.read(0.0)
    sensor.open.clear()
    sensor.entered.clear()
    telemetry.start(period_s=0.05, clock=lambda: 0.1)
    try:
        assert sensor.entered.wait(LONG_S)
        assert telemetry.read(0.2) is first
        late = telemetry.read(60.0)
        assert late.power_w == {} and late.time_s == 60.0
        assert late.problems == ("the thread that reads the sensors has given nothing for 60.0 s",)
        telemetry.stop(timeout_s=0.01)
        assert telemetry.read(61.0) is first
        telemetry.close()
        assert sensor.closed == 0
    finally:
        sensor.open.set()
        for thread in _samplers():
            thread.join(LONG_S)


def test_the_first_callers_wait_for_the_first_reading() -> None:
    sensor = Sensor()
    telemetry = Telemetry([sensor], interval_s=1.0)
    sensor.open.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(telemetry.read, 0.0)
        assert sensor.entered.wait(LONG_S)
        second = pool.submit(telemetry.read, 0.1)
        sensor.open.set()
        assert second.result(LONG_S).power_w == first.result(LONG_S).power_w == {"VDD_IN": 10.0}
    assert sensor.asked == 1


def test_a_forked_process_reads_for_itself() -> None:
    """Forked while another thread holds the lock and a sampler runs: neither exists in the child."""
    sensor = Sensor()
    telemetry = Telemetry([sensor], interval_s=0)
    telemetry.read(0.0)
    sensor.open.clear()
    sensor.entered.clear()
    telemetry.start(period_s=0.001, clock=lambda: 1.0)
    assert sensor.entered.wait(LONG_S)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sensor.open = threading.Event()
            sensor.open.set()
            code = 0 if telemetry.read(5.0).time_s == 5.0 else 2
        finally:
            os._exit(code)
    sensor.open.set()
    telemetry.stop(LONG_S)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_whole_device_is_found_and_read(tmp_path: Path) -> None:
    trees.thor(tmp_path)
    with Telemetry.find(tmp_path) as telemetry:
        assert [reader.name for reader in telemetry.readers] == ["jetson", "linux"]
        reading = telemetry.read(1.0)
    assert reading.total_power_w == pytest.approx(23.25) and reading.clock_hz["cpu0"] == pytest.approx(972e6)


def test_a_sensor_that_vanishes_between_two_calls(tmp_path: Path) -> None:
    trees.laptop(tmp_path)
    telemetry = Telemetry.find(tmp_path, interval_s=0)
    assert "x86_pkg_temp" in telemetry.read(0.0).temperature_c
    telemetry.close()
    (tmp_path / "sys/class/thermal/thermal_zone1/temp").unlink()
    reading = telemetry.read(1.0)
    assert "x86_pkg_temp" not in reading.temperature_c and "acpitz" in reading.temperature_c
    assert len(reading.problems) == 1 and reading.problems[0].startswith("x86_pkg_temp: No such file")


@pytest.mark.parametrize("interval", [-1, math.nan, math.inf, "0.05", None, True])
def test_bad_intervals(interval: object) -> None:
    with pytest.raises(TelemetryError, match="expected seconds"):
        Telemetry([], interval_s=interval)  # type: ignore[arg-type]
    with pytest.raises(TelemetryError, match="expected seconds"):
        Telemetry([]).start(period_s=interval)  # type: ignore[arg-type]


def test_a_period_of_nothing() -> None:
    with pytest.raises(TelemetryError, match="more than 0"):
        Telemetry([]).start(period_s=0)


def test_a_root_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(TelemetryError, match="expected a folder, such as /"):
            Telemetry.find(root)


def _samplers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "adaptrt-telemetry"]
