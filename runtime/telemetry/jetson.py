"""Power rails, GPU and memory clocks and the power mode of NVIDIA's Jetsons.

Layouts:

- INA3221 under hwmon (JetPack 5, 6, 7): the kernel's document "Kernel driver ina3221" (hwmon/ina3221):
  ``in[123]_label``, ``in[123]_input`` in millivolts, ``curr[123]_input`` in milliamperes; ``in7`` is a sum
  of shunt voltages and no rail. Labels: the kernel's arm64/boot/dts/nvidia/tegra234-p3701.dtsi and
  tegra234-p3767.dtsi; "Jetson Orin Nano Series, Jetson Orin NX Series and Jetson AGX Orin Series" in the
  Jetson Linux Developer Guide r36.3.
- INA3221 under iio (JetPack 4): "Power Management for Jetson Nano", Jetson Linux Developer Guide 32.x:
  ``rail_name_N``, ``in_powerN_input`` in milliwatts.
- INA238 on Thor's carrier board (JetPack 7): the kernel's document "Kernel driver ina238": ``power1_input``
  in microwatts; that it is the whole board: forums.developer.nvidia.com, topic 366461.
- devfreq: the kernel's ABI/testing/sysfs-class-devfreq (``cur_freq`` in hertz); Orin's ``17000000.gpu``, Thor's
  ``gpu-gpc-0`` and ``bwmgr``: github.com/rbonghi/jetson_stats, issues 556 and 885.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from adaptrt.runtime.telemetry.linux import values
from adaptrt.runtime.telemetry.power_mode import NvpModel
from adaptrt.runtime.telemetry.reading import Reading, total_power
from adaptrt.runtime.telemetry.sensor_file import (
    CLOCK,
    CURRENT,
    POWER_MICRO,
    POWER_MILLI,
    VOLTAGE,
    SensorFile,
    exists,
    listed,
    read_text,
    unused,
)

# A rail that is the module's or board's input: the total by itself.
_INPUTS = ("VIN", "VDD_IN", "POM_5V_IN")

# Rails that together are a module without such an input. AGX Orin's VDDQ_VDD2_1V8AO is left out: it is fed
# from the 5 V rail (its bus voltage is that rail's), so VIN_SYS_5V0 holds it.
_TOGETHER = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),  # Thor's module
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)

_UNCONNECTED = "NC"
_GPU_NODES = re.compile(r"gpu|ga10b|gb10b|gv11b|gp10b|gm20b")
_GPU_FOLDERS = re.compile(r"gpu-gpc-\d+|[0-9a-f]+\.(gpu|ga10b|gb10b|gv11b|gp10b|gm20b)")
_MEMORY_FOLDERS = re.compile(r"bwmgr|.*\bemc")

_MEMORY_DENIED = "jetson: the memory's clock is in the kernel's debug files, which only root may read; it is left out"


@dataclass
class _Rail:
    """Either a power file, or one for the voltage and one for the current."""

    power: SensorFile | None = None
    voltage: SensorFile | None = None
    current: SensorFile | None = None

    def read(self, problems: list[str]) -> float | None:
        if self.power is not None:
            return self.power.read(problems)
        assert self.voltage is not None and self.current is not None
        voltage = self.voltage.read(problems)
        # With no voltage the current's failure would be the same line again.
        current = self.current.read(problems) if voltage is not None else None
        return None if voltage is None or current is None else voltage * current

    def files(self) -> list[SensorFile]:
        return [file for file in (self.power, self.voltage, self.current) if file]


class JetsonReader:
    """Rails, GPU and memory clock, power mode; attributes as in ``Reader``.

    Temperatures, CPU clocks and fans of a Jetson are those of any Linux machine (``LinuxReader``).
    """

    name = "jetson"

    def __init__(
        self,
        rails: dict[str, _Rail],
        clocks: dict[str, SensorFile],
        nvpmodel: NvpModel | None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self._rails = rails
        self._clocks = clocks
        self._nvpmodel = nvpmodel
        self.notes = notes
        self._total, self._whole_device = _total(rails)

    @staticmethod
    def find(root: Path) -> JetsonReader | None:
        """The sensors below a root folder; None if there are none, as on every other machine."""
        rails = _rails(root)
        nvpmodel = NvpModel.find(root)
        if not rails and nvpmodel is None:
            return None
        clocks = _clocks(root)
        notes: tuple[str, ...] = ()
        if "memory" not in clocks:
            path = root / "sys/kernel/debug/bpmp/debug/clk/emc/rate"
            file = SensorFile(path, "memory", CLOCK)
            if file.read([]) is not None:
                clocks["memory"] = file
            elif file.denied:
                notes = (_MEMORY_DENIED,)
        return JetsonReader(rails, clocks, nvpmodel, notes)

    def read(self, time_s: float) -> Reading:
        """Ask every sensor once."""
        problems: list[str] = []
        power_w = {}
        for name, rail in self._rails.items():
            watts = rail.read(problems)
            if watts is not None:
                power_w[name] = watts
        return Reading(
            time_s=time_s,
            power_w=power_w,
            total=self._total,
            total_power_w=total_power(power_w, self._total),
            whole_device=self._whole_device,
            clock_hz=values(self._clocks, problems),
            power_mode=self._nvpmodel.read(problems) if self._nvpmodel else None,
            problems=tuple(problems),
        )

    def close(self) -> None:
        """Close the files."""
        for rail in self._rails.values():
            for file in rail.files():
                file.close()
        for file in self._clocks.values():
            file.close()


def _rails(root: Path) -> dict[str, _Rail]:
    rails: dict[str, _Rail] = {}
    drivers = root / "sys/bus/i2c/drivers"
    for driver in ("ina3221", "ina3221x"):
        for device in listed(drivers / driver, "*-*"):
            for chip in listed(device, "hwmon/hwmon*"):
                _add_hwmon_rails(rails, chip)
            for chip in listed(device, "iio:device*"):
                _add_iio_rails(rails, chip)
    for device in listed(drivers / "ina238", "*-*"):
        for chip in listed(device, "hwmon/hwmon*"):
            if exists(chip / "power1_input"):
                # The driver knows no channel labels; the chip's own is the board's, where it gives one.
                name = unused(read_text(chip / "label") or read_text(chip / "in1_label") or "VIN", rails)
                rails[name] = _Rail(power=SensorFile(chip / "power1_input", name, POWER_MICRO))
    return rails


def _add_hwmon_rails(rails: dict[str, _Rail], chip: Path) -> None:
    for channel in (1, 2, 3):
        label = read_text(chip / f"in{channel}_label")
        voltage, current = chip / f"in{channel}_input", chip / f"curr{channel}_input"
        if label and label != _UNCONNECTED and exists(voltage) and exists(current):
            name = unused(label, rails)
            rails[name] = _Rail(voltage=SensorFile(voltage, name, VOLTAGE), current=SensorFile(current, name, CURRENT))


def _add_iio_rails(rails: dict[str, _Rail], chip: Path) -> None:
    for channel in (0, 1, 2):
        label, power = read_text(chip / f"rail_name_{channel}"), chip / f"in_power{channel}_input"
        if label and label != _UNCONNECTED and exists(power):
            name = unused(label, rails)
            rails[name] = _Rail(power=SensorFile(power, name, POWER_MILLI))


def _total(rails: dict[str, _Rail]) -> tuple[tuple[str, ...], bool]:
    """The rails that are the device, and whether they are all of it; nothing on a board that is not known."""
    for name in _INPUTS:
        if name in rails:
            return (name,), True
    for names in _TOGETHER:
        if all(name in rails for name in names):
            return names, True
    return (), False


def _clocks(root: Path) -> dict[str, SensorFile]:
    clocks: dict[str, SensorFile] = {}
    for folder in listed(root / "sys/class/devfreq", "*"):
        path = folder / "cur_freq"
        if not exists(path):
            continue
        # gpu-nvd-0 is Thor's video engine.
        node = "" if folder.name.startswith("gpu-") else read_text(folder / "device/of_node/name") or ""
        if _GPU_FOLDERS.fullmatch(folder.name) or _GPU_NODES.fullmatch(node):
            name = unused("gpu", clocks)
        elif _MEMORY_FOLDERS.fullmatch(folder.name):
            name = unused("memory", clocks)
        else:
            continue
        clocks[name] = SensorFile(path, name, CLOCK)
    return clocks
