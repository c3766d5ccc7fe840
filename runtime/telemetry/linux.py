"""Temperatures, clocks, fans and the platform profile of any Linux machine.

Layouts: the kernel's documents "Generic Thermal Sysfs driver How To" (driver-api/thermal/sysfs-api:
``temp`` in millidegrees), "CPU Performance Scaling" (admin-guide/pm/cpufreq: ``scaling_cur_freq`` in
kilohertz), "Naming and data format standards for sysfs files" (hwmon/sysfs-interface: ``fan*_input`` in
revolutions per minute, ``temp*_input`` in millidegrees), ABI/testing/sysfs-platform_profile.
"""

from __future__ import annotations

from pathlib import Path

from adaptrt.runtime.telemetry.reading import PowerMode, Reading
from adaptrt.runtime.telemetry.sensor_file import (
    CLOCK_KILO,
    FAN,
    TEMPERATURE,
    KeptFile,
    SensorFile,
    exists,
    listed,
    read_text,
    unused,
)

# AMD's processors have no thermal zone; their driver is this one.
_CPU_THERMOMETERS = frozenset({"k10temp", "zenpower"})


class LinuxReader:
    """Thermal zones, cpufreq, fans, platform profile; attributes as in ``Reader``."""

    name = "linux"
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        temperatures: dict[str, SensorFile],
        clocks: dict[str, SensorFile],
        fans: dict[str, SensorFile],
        profile: KeptFile | None,
    ) -> None:
        self._temperatures = temperatures
        self._clocks = clocks
        self._fans = fans
        self._profile = profile

    @staticmethod
    def find(root: Path) -> LinuxReader | None:
        """The sensors below a root folder; None if there are none."""
        temperatures = _thermal_zones(root)
        fans: dict[str, SensorFile] = {}
        for chip in listed(root / "sys/class/hwmon", "hwmon*"):
            kind = read_text(chip / "name") or chip.name
            _add_fans(fans, chip, kind)
            if kind in _CPU_THERMOMETERS:
                for path in listed(chip, "temp*_input"):
                    label = read_text(path.with_name(path.name.replace("_input", "_label"))) or path.name[:-6]
                    zone = unused(f"{kind} {label}", temperatures)
                    temperatures[zone] = SensorFile(path, zone, TEMPERATURE)
        clocks = {}
        for policy in listed(root / "sys/devices/system/cpu/cpufreq", "policy[0-9]*"):
            path = policy / "scaling_cur_freq"
            if exists(path):
                clock = f"cpu{policy.name[len('policy') :]}"
                clocks[clock] = SensorFile(path, clock, CLOCK_KILO)
        path = root / "sys/firmware/acpi/platform_profile"
        profile = KeptFile(path, "power mode") if exists(path) else None
        if not (temperatures or clocks or fans or profile):
            return None
        return LinuxReader(temperatures, clocks, fans, profile)

    def read(self, time_s: float) -> Reading:
        """Ask every sensor once."""
        problems: list[str] = []
        chosen = self._profile.text(problems) if self._profile else None
        return Reading(
            time_s=time_s,
            temperature_c=values(self._temperatures, problems),
            clock_hz=values(self._clocks, problems),
            fan_rpm=values(self._fans, problems),
            power_mode=PowerMode(chosen.decode("utf-8", "replace").strip()) if chosen else None,
            problems=tuple(problems),
        )

    def close(self) -> None:
        """Close the files."""
        for sensors in (self._temperatures, self._clocks, self._fans):
            for sensor in sensors.values():
                sensor.close()
        if self._profile:
            self._profile.close()


def values(sensors: dict[str, SensorFile], problems: list[str]) -> dict[str, float]:
    """What the sensors say; one that fails is left out, with a line in ``problems``."""
    read = {name: sensor.read(problems) for name, sensor in sensors.items()}
    return {name: value for name, value in read.items() if value is not None}


def _thermal_zones(root: Path) -> dict[str, SensorFile]:
    zones: dict[str, SensorFile] = {}
    for folder in listed(root / "sys/class/thermal", "thermal_zone[0-9]*"):
        path = folder / "temp"
        if not exists(path):
            continue
        zone = unused(read_text(folder / "type") or folder.name, zones)
        zones[zone] = SensorFile(path, zone, TEMPERATURE)
    return zones


def _add_fans(fans: dict[str, SensorFile], chip: Path, kind: str) -> None:
    # A Jetson's tachometer (pwm_tach) calls its file "rpm".
    for path in [*listed(chip, "fan*_input"), *listed(chip, "rpm")]:
        label = read_text(path.with_name(path.name.replace("_input", "_label"))) if path.name != "rpm" else None
        fan = unused(label or kind, fans)
        fans[fan] = SensorFile(path, fan, FAN)
