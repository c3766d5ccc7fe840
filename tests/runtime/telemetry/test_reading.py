"""Readings of several readers made one."""

from __future__ import annotations

import pytest

from adaptrt.runtime.telemetry import EnergyCounter, PowerMode, Reading, merge

CPU = Reading(0.0, power_w={"package-0": 20.0}, total=("package-0",), total_power_w=20.0)
GPU = Reading(0.0, power_w={"gpu0": 70.0}, total=("gpu0",), total_power_w=70.0)
BOARD = Reading(0.0, power_w={"VIN": 55.0, "VDD_GPU": 30.0}, total=("VIN",), total_power_w=55.0, whole_device=True)


def test_nothing_is_merged_to_nothing() -> None:
    assert merge(4.0, []) == Reading(4.0)


def test_parts_add_up() -> None:
    reading = merge(1.0, [CPU, GPU])
    assert reading.total == ("package-0", "gpu0") and reading.total_power_w == 90.0
    assert reading.power_w == {"package-0": 20.0, "gpu0": 70.0}


@pytest.mark.parametrize("order", [[CPU, GPU, BOARD], [BOARD, CPU, GPU]])
def test_nothing_is_added_to_a_total_of_everything(order: list[Reading]) -> None:
    reading = merge(1.0, order)
    assert reading.total == ("VIN",) and reading.total_power_w == 55.0 and reading.whole_device
    assert set(reading.power_w) == {"package-0", "gpu0", "VIN", "VDD_GPU"}


def test_a_part_that_is_absent_takes_the_total_with_it() -> None:
    reading = merge(1.0, [CPU, Reading(0.0, total=("gpu0",))])
    assert reading.total == ("package-0", "gpu0") and reading.total_power_w is None


def test_the_first_is_believed_and_all_problems_are_kept() -> None:
    first = Reading(
        0.0,
        temperature_c={"tj": 50.0},
        clock_hz={"gpu": 1e9},
        energy={"a": EnergyCounter(1.0)},
        power_mode=PowerMode("15W", 0),
        problems=("one",),
    )
    second = Reading(
        0.0,
        temperature_c={"tj": 99.0, "cpu": 40.0},
        clock_hz={"gpu": 2e9},
        fan_rpm={"fan": 900.0},
        energy={"a": EnergyCounter(2.0)},
        power_mode=PowerMode("balanced"),
        problems=("two",),
    )
    reading = merge(7.0, [Reading(0.0), first, second])
    assert reading == Reading(
        7.0,
        temperature_c={"tj": 50.0, "cpu": 40.0},
        clock_hz={"gpu": 1e9},
        fan_rpm={"fan": 900.0},
        energy={"a": EnergyCounter(1.0)},
        power_mode=PowerMode("15W", 0),
        problems=("one", "two"),
    )


def test_a_total_of_zero_watts_is_a_reading() -> None:
    assert merge(0.0, [Reading(0.0, power_w={"gpu0": 0.0}, total=("gpu0",))]).total_power_w == 0.0
