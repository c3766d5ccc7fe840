"""Jetsons: rails, totals, clocks, power modes, of trees laid out as theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptrt.runtime.telemetry import PowerMode, Reading, find_sensors, merge
from adaptrt.runtime.telemetry.jetson import JetsonReader
from tests.runtime.telemetry import device_trees as trees


def read(root: Path) -> Reading:
    readers = find_sensors(root)
    return merge(1.0, [reader.read(1.0) for reader in readers])


def test_orin_nano_with_jetpack_6(tmp_path: Path) -> None:
    trees.orin_nano(tmp_path)
    reading = read(tmp_path)
    assert reading.problems == ()
    assert reading.power_w == pytest.approx(
        {"VDD_IN": 4.968 * 1.36, "VDD_CPU_GPU_CV": 4.968 * 0.312, "VDD_SOC": 4.96 * 0.392}
    )
    assert reading.total == ("VDD_IN",) and reading.whole_device
    assert reading.total_power_w == pytest.approx(6.75648)
    assert reading.temperature_c == pytest.approx(
        {"cpu-thermal": 47.406, "gpu-thermal": 43, "soc0-thermal": 45.5, "tj-thermal": 47.406}
    )
    assert reading.clock_hz == pytest.approx({"cpu0": 1510.4e6, "cpu4": 729.6e6, "gpu": 624.75e6, "memory": 2133e6})
    assert reading.fan_rpm == {"pwm_tach": 1786}
    assert reading.power_mode == PowerMode("15W", 0)
    assert reading.energy == {}


def test_agx_orin_has_no_input_rail_and_adds_up_three(tmp_path: Path) -> None:
    trees.agx_orin(tmp_path)
    reading = read(tmp_path)
    assert set(reading.power_w) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}
    assert reading.total == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    assert reading.total_power_w == pytest.approx(19.8 * 0.22 + 4.968 * 0.953)
    assert reading.power_mode is None and reading.clock_hz == {}


def test_thor_with_jetpack_7_lacks_some(tmp_path: Path) -> None:
    trees.thor(tmp_path)
    reading = read(tmp_path)
    assert reading.problems == ()
    assert reading.total == ("VIN",) and reading.total_power_w == pytest.approx(23.25)
    assert reading.power_w["VDD_GPU"] == pytest.approx(19.7 * 0.26)
    assert reading.clock_hz == pytest.approx({"gpu": 1575e6, "memory": 4266e6, "cpu0": 972e6, "cpu12": 972e6})
    assert "gpu-thermal" not in reading.temperature_c and reading.temperature_c["tj-thermal"] == pytest.approx(60.41)
    assert reading.fan_rpm == {}
    assert reading.power_mode == PowerMode("120W", 1)


def test_thors_video_engine_is_not_its_gpu(tmp_path: Path) -> None:
    trees.thor(tmp_path)
    trees.put(tmp_path, {"sys/class/devfreq/gpu-nvd-0/device/of_node/name": "gpu\0"})
    assert set(read(tmp_path).clock_hz) == {"gpu", "memory", "cpu0", "cpu12"}


def test_thors_input_is_known_without_a_label(tmp_path: Path) -> None:
    trees.thor(tmp_path)
    (tmp_path / "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon3/label").unlink()
    assert read(tmp_path).total == ("VIN",)


def test_thor_on_another_carrier_board_has_no_vin(tmp_path: Path) -> None:
    trees.thor(tmp_path)
    chip = tmp_path / "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon3"
    for file in chip.iterdir():
        file.unlink()
    reading = read(tmp_path)
    assert reading.total == ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")
    assert reading.total_power_w == pytest.approx(19.7 * 0.56 + 4.95)


def test_nano_with_jetpack_4(tmp_path: Path) -> None:
    trees.nano(tmp_path)
    reading = read(tmp_path)
    assert reading.power_w == pytest.approx({"POM_5V_IN": 2.458, "POM_5V_GPU": 0.123, "POM_5V_CPU": 0.492})
    assert reading.total_power_w == pytest.approx(2.458)
    assert reading.clock_hz == {"gpu": 921.6e6}
    assert reading.power_mode == PowerMode("5W", 1)


def test_a_board_that_is_not_known_has_rails_and_no_total(tmp_path: Path) -> None:
    trees.ina3221(tmp_path, "7-0040", "hwmon0", {1: ("MOTOR", 12000, 1000), 2: ("CAMERA", 5000, 500)})
    reading = read(tmp_path)
    assert reading.power_w == pytest.approx({"MOTOR": 12.0, "CAMERA": 2.5})
    assert reading.total == () and reading.total_power_w is None and not reading.whole_device


def test_a_rail_at_rest_may_be_below_zero(tmp_path: Path) -> None:
    trees.ina3221(tmp_path, "2-0040", "hwmon2", {1: ("VDD_GPU", 19600, -20)})
    assert read(tmp_path).power_w == pytest.approx({"VDD_GPU": -0.392})


@pytest.mark.parametrize("garbage", ["", "??", "nan", "99999999999"])
@pytest.mark.parametrize("file", ["in1_input", "curr1_input"])
def test_a_broken_rail_takes_the_total_with_it_and_nothing_else(tmp_path: Path, file: str, garbage: str) -> None:
    trees.orin_nano(tmp_path)
    (tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1" / file).write_text(garbage)
    reading = read(tmp_path)
    assert set(reading.power_w) == {"VDD_CPU_GPU_CV", "VDD_SOC"}
    assert reading.total_power_w is None
    assert len(reading.problems) == 1 and reading.problems[0].startswith("VDD_IN: ")


def test_one_rail_of_a_sum_missing_means_no_sum(tmp_path: Path) -> None:
    trees.agx_orin(tmp_path)
    reader = JetsonReader.find(tmp_path)
    assert reader is not None and reader.read(0.0).total_power_w is not None
    (tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr2_input").write_text("EIO")
    reading = reader.read(1.0)
    assert "VDD_CPU_CV" not in reading.power_w and reading.total_power_w is None


def test_a_gated_gpu_runs_at_zero_hertz(tmp_path: Path) -> None:
    """The kernel says 0, so 0 is what is read: it is no absent reading."""
    trees.orin_nano(tmp_path)
    (tmp_path / "sys/class/devfreq/17000000.gpu/cur_freq").write_text("0\n")
    assert read(tmp_path).clock_hz["gpu"] == 0.0


def test_the_memory_clock_in_debug_files_is_explained_once(ordinary_user: Path) -> None:
    trees.orin_nano(ordinary_user)
    (ordinary_user / "sys/kernel/debug").chmod(0)
    try:
        reader = JetsonReader.find(ordinary_user)
        assert reader is not None
        (note,) = reader.notes
        assert "only root may read" in note and "\n" not in note
        reading = reader.read(0.0)
        assert "memory" not in reading.clock_hz and reading.problems == ()
    finally:
        (ordinary_user / "sys/kernel/debug").chmod(0o755)


def test_the_mode_follows_nvpmodel(tmp_path: Path) -> None:
    trees.orin_nano(tmp_path)
    reader = JetsonReader.find(tmp_path)
    assert reader is not None and reader.read(0.0).power_mode == PowerMode("15W", 0)
    status = tmp_path / "var/lib/nvpmodel/status"
    status.write_text("pmode:0002\n")
    assert reader.read(1.0).power_mode == PowerMode("MAXN_SUPER", 2)
    new = status.with_name("new")
    new.write_text("pmode:0001\n")
    new.replace(status)
    assert reader.read(2.0).power_mode == PowerMode("25W", 1)
    status.write_text("pmode:0009\n")
    assert reader.read(3.0).power_mode == PowerMode(None, 9)


@pytest.mark.parametrize("status", ["", "garbage", "pmode:", "pmode:x1", "pmode:99999999999999"])
def test_a_mode_that_cannot_be_told_is_absent(tmp_path: Path, status: str) -> None:
    """Never the default of the configuration: what was set is not known."""
    trees.orin_nano(tmp_path)
    (tmp_path / "var/lib/nvpmodel/status").write_text(status)
    reading = read(tmp_path)
    assert reading.power_mode is None
    assert len(reading.problems) == 1 and "expected pmode:0000" in reading.problems[0]


def test_a_status_that_goes_away(tmp_path: Path) -> None:
    trees.orin_nano(tmp_path)
    reader = JetsonReader.find(tmp_path)
    assert reader is not None
    (tmp_path / "var/lib/nvpmodel/status").unlink()
    reading = reader.read(0.0)
    assert reading.power_mode is None and "No such file" in reading.problems[0]


def test_without_a_configuration_the_mode_has_its_number(tmp_path: Path) -> None:
    trees.orin_nano(tmp_path)
    (tmp_path / "etc/nvpmodel.conf").unlink()
    assert read(tmp_path).power_mode == PowerMode(None, 0)


def test_another_machine_is_no_jetson(tmp_path: Path) -> None:
    trees.laptop(tmp_path)
    assert JetsonReader.find(tmp_path) is None


def test_a_closed_reader_reads_again(tmp_path: Path) -> None:
    trees.thor(tmp_path)
    reader = JetsonReader.find(tmp_path)
    assert reader is not None
    first = reader.read(0.0)
    reader.close()
    assert reader.read(0.0) == first
