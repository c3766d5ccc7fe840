"""RAPL's counters: which are counted, what denies them, what they do when they go round."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.runtime.telemetry import EnergyCounter, EnergyMeter, Reading, find_sensors
from adaptrt.runtime.telemetry.energy import counted
from adaptrt.runtime.telemetry.rapl import DENIED, RaplReader
from tests.runtime.telemetry import device_trees as trees

RANGE_J = 262143.328850


def found(root: Path) -> RaplReader:
    reader = RaplReader.find(root)
    assert reader is not None
    return reader


def test_a_laptop_counts_its_package_once_and_its_memory(tmp_path: Path) -> None:
    trees.laptop(tmp_path)
    reading = found(tmp_path).read(0.0)
    assert reading.energy == {
        "package-0": EnergyCounter(pytest.approx(5), pytest.approx(RANGE_J)),
        "core package-0": EnergyCounter(pytest.approx(3), pytest.approx(RANGE_J)),
        "uncore package-0": EnergyCounter(pytest.approx(1), pytest.approx(RANGE_J)),
        "dram package-0": EnergyCounter(pytest.approx(2), pytest.approx(RANGE_J)),
        "psys": EnergyCounter(pytest.approx(9), pytest.approx(RANGE_J)),
    }
    assert reading.total == ("package-0", "dram package-0") and not reading.whole_device
    assert reading.power_w == {} and reading.total_power_w is None


def test_power_is_the_mean_since_the_reading_before(tmp_path: Path) -> None:
    trees.laptop(tmp_path)
    reader = found(tmp_path)
    reader.read(10.0)
    trees.rapl_zone(tmp_path, "intel-rapl:0", "package-0", 6_000_000)
    trees.rapl_zone(tmp_path, "intel-rapl:0:2", "dram", 2_100_000)
    reading = reader.read(10.05)
    assert reading.power_w["package-0"] == pytest.approx(20)
    assert reading.power_w["core package-0"] == 0
    assert reading.total_power_w == pytest.approx(22)


def test_two_packages_with_a_memory_each(tmp_path: Path) -> None:
    for package in (0, 1):
        trees.rapl_zone(tmp_path, f"intel-rapl:{package}", f"package-{package}", 10 * package)
        trees.rapl_zone(tmp_path, f"intel-rapl:{package}:0", "dram", 1, 65712999613)
    assert found(tmp_path).read(0.0).total == ("package-0", "package-1", "dram package-0", "dram package-1")


def test_dies_that_mirror_one_counter_count_once(tmp_path: Path) -> None:
    """A Threadripper 1950X: github.com/mlco2/codecarbon, issue 1274."""
    trees.rapl_zone(tmp_path, "intel-rapl:0", "package-0-die-0", 68_000_000)
    trees.rapl_zone(tmp_path, "intel-rapl:1", "package-0-die-1", 68_000_400)
    assert found(tmp_path).read(0.0).total == ("package-0-die-0",)


def test_dies_with_counters_of_their_own_count_both(tmp_path: Path) -> None:
    trees.rapl_zone(tmp_path, "intel-rapl:0", "package-0-die-0", 68_000_000)
    trees.rapl_zone(tmp_path, "intel-rapl:1", "package-0-die-1", 51_000_400)
    assert found(tmp_path).read(0.0).total == ("package-0-die-0", "package-0-die-1")


def test_the_platform_is_the_total_only_where_it_is_alone(tmp_path: Path) -> None:
    trees.rapl_zone(tmp_path, "intel-rapl:0", "psys", 68_000_000)
    assert found(tmp_path).read(0.0).total == ("psys",)


def test_the_view_through_memory_serves_where_the_registers_fail(tmp_path: Path) -> None:
    trees.laptop(tmp_path)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("?\n")
    assert found(tmp_path).read(0.0).energy["package-0"].joules == pytest.approx(5.0001)


def test_denied_counters_are_explained_once_and_in_one_line(ordinary_user: Path) -> None:
    """Since Linux 5.10 the files are 0400 and root's (INTEL-SA-00389)."""
    trees.laptop(ordinary_user)
    for path in (ordinary_user / "sys/class/powercap").glob("*/energy_uj"):
        path.chmod(0)
    reader = found(ordinary_user)
    assert reader.notes == (DENIED,)
    assert "\n" not in DENIED and "sudo chmod a+r /sys/class/powercap/intel-rapl*/energy_uj" in DENIED
    assert reader.read(0.0) == Reading(0.0)


def test_one_denied_counter_leaves_no_total_that_is_a_part(ordinary_user: Path) -> None:
    trees.laptop(ordinary_user)
    (ordinary_user / "sys/class/powercap/intel-rapl:0:2/energy_uj").chmod(0)
    reader = found(ordinary_user)
    assert reader.notes == (DENIED,)
    reader.read(0.0)
    reading = reader.read(1.0)
    assert "package-0" in reading.power_w and "dram package-0" not in reading.energy
    assert reading.total == ("package-0", "dram package-0") and reading.total_power_w is None


def test_a_counter_that_goes_away_has_no_power_when_it_is_back(tmp_path: Path) -> None:
    path = trees.rapl_zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000) / "energy_uj"
    reader = found(tmp_path)
    reader.read(0.0)
    for number, content in enumerate(("garbage", "2000000")):
        path.write_text(content)
        reading = reader.read(1.0 + number)
        assert reading.power_w == {} and (reading.energy == {}) == (content == "garbage")
    path.write_text("3000000")
    assert reader.read(3.0).power_w == pytest.approx({"package-0": 1.0})


def test_a_machine_without_powercap(tmp_path: Path) -> None:
    trees.put(tmp_path, {"sys/class/powercap/dtpm/enabled": 1})
    assert RaplReader.find(tmp_path) is None
    assert find_sensors(tmp_path) == ()


@given(
    start=st.floats(0, RANGE_J, exclude_max=True),
    spent=st.floats(0, 900, allow_subnormal=False),
    seconds=st.floats(1, 100),
)
def test_energy_over_a_counter_that_goes_round(start: float, spent: float, seconds: float) -> None:
    after = (start + spent) % RANGE_J
    assert counted(start, after, RANGE_J, seconds) == pytest.approx(spent, abs=1e-6)


@given(
    powers=st.lists(st.floats(0, 400), min_size=1, max_size=60),
    seconds=st.floats(0.01, 20),
    start=st.floats(0, 1000),
    range_j=st.floats(50_000, 70_000),
)
def test_a_meter_over_many_rounds(powers: list[float], seconds: float, start: float, range_j: float) -> None:
    meter = EnergyMeter()
    true = 0.0
    for number, power in enumerate([0.0, *powers]):
        true += power * seconds
        counter = EnergyCounter((start + true) % range_j, range_j)
        meter.add(Reading(number * seconds, energy={"package-0": counter}, total=("package-0",)))
    assert meter.joules == pytest.approx(true, rel=1e-9, abs=1e-3)
    assert meter.unmeasured_s == 0


@pytest.mark.parametrize(
    ("before", "after", "range_j", "seconds", "spent"),
    [
        (1, 2, None, 1, 1),
        (2, 1, None, 1, None),  # set back, and it never goes round
        (100, 5, 262143, 1, None),  # set back: going round would be 262 kW
        (262140, 5, 262143, 1, 8),
        (1, 2, 262143, 1000, None),  # may have gone round more than once
        (1, 2, 262143, 0, None),
        (1, 2, 262143, -1, None),
        (1, 2, 262143, float("nan"), None),
        (1, 1e6, None, 1, None),
    ],
)
def test_what_a_counter_cannot_mean(
    before: float, after: float, range_j: float | None, seconds: float, spent: float | None
) -> None:
    assert counted(before, after, range_j, seconds) == spent
