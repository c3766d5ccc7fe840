"""Folders laid out as devices' ``/sys``, ``/etc`` and ``/var`` are, each with what says so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ORIN_ZONES = {"cpu-thermal": 47406, "gpu-thermal": 43000, "soc0-thermal": 45500, "tj-thermal": 47406}

# "Supported Modes and Power Efficiency", Jetson Linux Developer Guide r36; blocks and comments as in
# github.com/rbonghi/jetson_stats, issue 130.
ORIN_NANO_MODES = """\
# < POWER_MODEL ID=9 NAME=COMMENT >
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online

< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
CPU_A78_0 MAX_FREQ 1497600
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
CPU_ONLINE CORE_0 1
< PM_CONFIG DEFAULT=1 >
"""

# github.com/anduril/jetpack-nixos, pull request 460: Thor has MAXN (0) and 120W.
THOR_MODES = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n< PM_CONFIG DEFAULT=1 >\n"


def put(root: Path, files: Mapping[str, object]) -> None:
    """Write files by their path below the root, each with the line's end that the kernel gives."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def ina3221(root: Path, device: str, chip: str, channels: Mapping[int, tuple[str, int, int]]) -> Path:
    """A chip under hwmon: the kernel's document "Kernel driver ina3221" (hwmon/ina3221).

    Args:
        root: of the tree.
        device: such as ``1-0040``.
        chip: such as ``hwmon1``.
        channels: label, millivolts, milliamperes by channel.
    """
    folder = f"sys/bus/i2c/drivers/ina3221/{device}/hwmon/{chip}"
    put(root, {f"{folder}/name": "ina3221", f"{folder}/in7_label": "sum of shunt voltages", f"{folder}/in7_input": 2})
    for channel, (label, millivolts, milliamperes) in channels.items():
        put(
            root,
            {
                f"{folder}/in{channel}_label": label,
                f"{folder}/in{channel}_input": millivolts,
                f"{folder}/in{channel}_enable": 1,
                f"{folder}/curr{channel}_input": milliamperes,
                f"{folder}/curr{channel}_crit": 32760,
                f"{folder}/in{channel + 3}_input": 1480,
            },
        )
    return root / folder


def thermal_zones(root: Path, zones: Mapping[str, int]) -> None:
    """Millidegrees by type: the kernel's document "Generic Thermal Sysfs driver How To"."""
    for number, (kind, millidegrees) in enumerate(zones.items()):
        folder = f"sys/class/thermal/thermal_zone{number}"
        put(root, {f"{folder}/type": kind, f"{folder}/temp": millidegrees})


def cpu_clocks(root: Path, kilohertz: Mapping[int, int]) -> None:
    """Kilohertz by a policy's first core: the kernel's document "CPU Performance Scaling"."""
    for core, clock in kilohertz.items():
        put(root, {f"sys/devices/system/cpu/cpufreq/policy{core}/scaling_cur_freq": clock})


def orin_nano(root: Path) -> None:
    """Jetson Orin Nano with JetPack 6.

    Rails: the kernel's arm64/boot/dts/nvidia/tegra234-p3767.dtsi. GPU: ``17000000.gpu``, of_node ``gpu``
    (github.com/rbonghi/jetson_stats, issue 556, which is an Orin NX with L4T 36.3).
    """
    ina3221(
        root,
        "1-0040",
        "hwmon1",
        {1: ("VDD_IN", 4968, 1360), 2: ("VDD_CPU_GPU_CV", 4968, 312), 3: ("VDD_SOC", 4960, 392)},
    )
    thermal_zones(root, ORIN_ZONES)
    cpu_clocks(root, {0: 1510400, 4: 729600})
    put(
        root,
        {
            "sys/class/devfreq/17000000.gpu/cur_freq": 624750000,
            "sys/class/devfreq/17000000.gpu/device/of_node/name": "gpu\0",
            "sys/class/devfreq/15340000.vic/cur_freq": 115200000,
            "sys/class/devfreq/15340000.vic/device/of_node/name": "vic\0",
            "sys/kernel/debug/bpmp/debug/clk/emc/rate": 2133000000,
            "sys/class/hwmon/hwmon0/name": "pwm_tach",
            "sys/class/hwmon/hwmon0/rpm": 1786,
            "etc/nvpmodel.conf": ORIN_NANO_MODES,
            "var/lib/nvpmodel/status": "pmode:0000 fmode:quiet",
        },
    )


def agx_orin(root: Path) -> None:
    """Jetson AGX Orin, rails only: the kernel's arm64/boot/dts/nvidia/tegra234-p3701.dtsi.

    Its second chip measures one channel; the others are disabled there, and are called NC by JetPack 5
    ("Jetson Orin NX Series and Jetson AGX Orin Series", Jetson Linux Developer Guide r34.1).
    """
    first = {1: ("VDD_GPU_SOC", 19800, 160), 2: ("VDD_CPU_CV", 19800, 60), 3: ("VIN_SYS_5V0", 4968, 953)}
    ina3221(root, "1-0040", "hwmon3", first)
    ina3221(root, "1-0041", "hwmon4", {1: ("NC", 0, 0), 2: ("VDDQ_VDD2_1V8AO", 4968, 80), 3: ("NC", 0, 0)})


def thor(root: Path) -> None:
    """Jetson AGX Thor developer kit with JetPack 7.

    INA3221's rails and the zones: the sample output of nvidia-smi's manual for Thor (``VDD_GPU``,
    ``VDD_CPU_SOC_MSS``, ``VIN_SYS_5V0``; no gpu-thermal while the GPU is off). INA238 as VIN, the total:
    github.com/rbonghi/jetson_stats, pull request 900; microwatts: the kernel's document "Kernel driver
    ina238". ``gpu-gpc-0`` and ``gpu-nvd-0`` without of_node: the same, issue 885. ``bwmgr``: the same,
    jtop/core/memory.py.
    """
    rails = {1: ("VDD_GPU", 19700, 260), 2: ("VDD_CPU_SOC_MSS", 19700, 300), 3: ("VIN_SYS_5V0", 4950, 1000)}
    ina3221(root, "2-0040", "hwmon2", rails)
    thermal_zones(root, {"cpu-thermal": 59220, "tj-thermal": 60410, "soc012-thermal": 58470, "soc345-thermal": 60410})
    cpu_clocks(root, {0: 972000, 12: 972000})
    vin = "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon3"
    put(
        root,
        {
            f"{vin}/name": "ina238",
            f"{vin}/label": "VIN",
            f"{vin}/power1_input": 23250000,
            "sys/class/devfreq/gpu-gpc-0/cur_freq": 1575000000,
            "sys/class/devfreq/gpu-nvd-0/cur_freq": 1692000000,
            "sys/class/devfreq/bwmgr/cur_freq": 4266000000,
            "etc/nvpmodel.conf": THOR_MODES,
            "var/lib/nvpmodel/status": "pmode:0001",
        },
    )


def nano(root: Path) -> None:
    """Jetson Nano with JetPack 4: "Power Management for Jetson Nano", Jetson Linux Developer Guide 32.x.

    The path: github.com/rbonghi/jetson_stats, issue 131; the GPU's: the same, issue 427.
    """
    chip = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    for channel, (rail, milliwatts) in enumerate((("POM_5V_IN", 2458), ("POM_5V_GPU", 123), ("POM_5V_CPU", 492))):
        put(root, {f"{chip}/rail_name_{channel}": rail, f"{chip}/in_power{channel}_input": milliwatts})
    thermal_zones(root, {"AO-therm": 44500, "CPU-therm": 46000, "PMIC-Die": 100000})
    put(
        root,
        {
            "sys/class/devfreq/57000000.gpu/cur_freq": 921600000,
            "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=5W >\n",
            "var/lib/nvpmodel/status": "pmode:0001 fmode:cool",
        },
    )


def rapl_zone(root: Path, zone: str, name: str, microjoules: int, largest: int | None = 262143328850) -> Path:
    """One power zone: the kernel's ABI/testing/sysfs-class-powercap.

    Zones and subzones lie side by side, as links: github.com/level1techs/siomon, issue 70.
    """
    folder = f"sys/class/powercap/{zone}"
    put(root, {f"{folder}/name": name, f"{folder}/energy_uj": microjoules, f"{folder}/enabled": 1})
    if largest is not None:
        put(root, {f"{folder}/max_energy_range_uj": largest})
    return root / folder


def laptop(root: Path) -> None:
    """An Intel laptop: zones as in github.com/powercap/powercap, issue 3; the second view of the package,
    through memory, as in github.com/mlco2/codecarbon, pull request 950.
    """
    put(root, {"sys/class/powercap/intel-rapl/enabled": 1})
    rapl_zone(root, "intel-rapl:0", "package-0", 5_000_000)
    rapl_zone(root, "intel-rapl:0:0", "core", 3_000_000)
    rapl_zone(root, "intel-rapl:0:1", "uncore", 1_000_000)
    rapl_zone(root, "intel-rapl:0:2", "dram", 2_000_000)
    rapl_zone(root, "intel-rapl:1", "psys", 9_000_000)
    rapl_zone(root, "intel-rapl-mmio:0", "package-0", 5_000_100)
    thermal_zones(root, {"acpitz": 27800, "x86_pkg_temp": 51000})
    cpu_clocks(root, {0: 1800000, 1: 800000})
    put(
        root,
        {
            "sys/firmware/acpi/platform_profile": "balanced",
            "sys/class/hwmon/hwmon4/name": "thinkpad",
            "sys/class/hwmon/hwmon4/fan1_input": 2650,
        },
    )
