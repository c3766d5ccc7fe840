"""Thermal zones, clocks, fans and the platform profile of any Linux machine, and this one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from adaptrt.runtime.telemetry import PowerMode, Reading, Telemetry, find_sensors
from adaptrt.runtime.telemetry.linux import LinuxReader
from tests.runtime.telemetry import device_trees as trees


def test_a_laptop(tmp_path: Path) -> None:
    trees.laptop(tmp_path)
    reader = LinuxReader.find(tmp_path)
    assert reader is not None
    reading = reader.read(3.0)
    assert reading.time_s == 3.0 and reading.problems == ()
    assert reading.temperature_c == pytest.approx({"acpitz": 27.8, "x86_pkg_temp": 51})
    assert reading.clock_hz == pytest.approx({"cpu0": 1.8e9, "cpu1": 0.8e9})
    assert reading.fan_rpm == {"thinkpad": 2650}
    assert reading.power_mode == PowerMode("balanced")
    assert reading.power_w == {} and reading.energy == {} and reading.total == ()


def test_an_amd_processor_has_its_thermometer_under_hwmon(tmp_path: Path) -> None:
    """The kernel's document "Kernel driver k10temp": temp1 is Tctl."""
    chip = "sys/class/hwmon/hwmon2"
    trees.put(tmp_path, {f"{chip}/name": "k10temp", f"{chip}/temp1_label": "Tctl", f"{chip}/temp1_input": 61250})
    trees.put(tmp_path, {"sys/class/hwmon/hwmon3/name": "nvme", "sys/class/hwmon/hwmon3/temp1_input": 40850})
    reader = LinuxReader.find(tmp_path)
    assert reader is not None
    assert reader.read(0.0).temperature_c == pytest.approx({"k10temp Tctl": 61.25})


def test_two_zones_and_fans_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for number in (0, 1, 10):
        folder = f"sys/class/thermal/thermal_zone{number}"
        trees.put(tmp_path, {f"{folder}/type": "acpitz", f"{folder}/temp": 1000 * number})
        trees.put(
            tmp_path, {f"sys/class/hwmon/hwmon{number}/name": "fan", f"sys/class/hwmon/hwmon{number}/fan1_input": 7}
        )
    reader = LinuxReader.find(tmp_path)
    assert reader is not None
    reading = reader.read(0.0)
    assert reading.temperature_c == {"acpitz": 0, "acpitz 2": 1, "acpitz 3": 10}
    assert set(reading.fan_rpm) == {"fan", "fan 2", "fan 3"}


def test_a_core_that_is_offline_is_absent(tmp_path: Path) -> None:
    trees.laptop(tmp_path)
    (tmp_path / "sys/devices/system/cpu/cpufreq/policy1/scaling_cur_freq").write_text("<unknown>\n")
    reader = LinuxReader.find(tmp_path)
    assert reader is not None
    reading = reader.read(0.0)
    assert set(reading.clock_hz) == {"cpu0"} and reading.problems[0].startswith("cpu1: got '<unknown>")


def test_a_machine_without_sensors_is_no_error(tmp_path: Path) -> None:
    assert LinuxReader.find(tmp_path) is None and find_sensors(tmp_path) == ()
    assert Telemetry.find(tmp_path).read(5.0) == Reading(5.0)


def test_this_machine() -> None:
    """Whatever it has: nothing raises, and what is read is in the range of what exists."""
    with Telemetry.find(interval_s=0) as telemetry:
        for time_s in (0.0, 1.0):
            reading = telemetry.read(time_s)
            assert reading.time_s == time_s
            assert all(-60 <= value <= 250 for value in reading.temperature_c.values())
            assert all(0 <= value < 1e11 for value in reading.clock_hz.values())
            assert all(value >= 0 for value in reading.fan_rpm.values())
            assert all(counter.joules >= 0 for counter in reading.energy.values())
            assert set(reading.total) <= {*reading.power_w, *reading.energy} or reading.total_power_w is None
            assert all("\n" not in line for line in (*reading.problems, *telemetry.notes))
            assert msgspec.json.decode(msgspec.json.encode(reading), type=Reading) == reading
