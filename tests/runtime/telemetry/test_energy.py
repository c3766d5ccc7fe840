"""Joules between moments, in simulation: the true power is known."""

from __future__ import annotations

import math

import pytest

from adaptrt.runtime.telemetry import EnergyCounter, EnergyMeter, Reading


def sample(time_s: float, total: tuple[str, ...] = ("VDD_IN",), **power_w: float) -> Reading:
    return Reading(time_s, power_w=power_w, total=total)


def power_at(time_s: float) -> float:
    return 10 + 4 * math.sin(2 * math.pi * time_s)


def energy_until(time_s: float) -> float:
    return 10 * time_s + 4 / (2 * math.pi) * (1 - math.cos(2 * math.pi * time_s))


@pytest.fixture
def wave() -> EnergyMeter:
    meter = EnergyMeter()
    for number in range(201):
        meter.add(sample(number * 0.05, VDD_IN=power_at(number * 0.05)))
    return meter


def test_samples_of_power_are_integrated(wave: EnergyMeter) -> None:
    assert wave.joules == pytest.approx(energy_until(10.0), rel=1e-3)
    assert wave.measured_s == pytest.approx(10) and wave.unmeasured_s == 0
    assert wave.rails == {"VDD_IN": pytest.approx(wave.joules)}


@pytest.mark.parametrize(("start", "end"), [(0.0, 10.0), (1.0, 1.5), (2.013, 2.031), (9.96, 9.99), (3.0, 3.0)])
def test_between_any_two_moments(wave: EnergyMeter, start: float, end: float) -> None:
    # Between two readings the power is taken as constant: the slope may cost 25 W/s x 0.05 s here.
    close = 25 * 0.05 * min(end - start, 0.1) + 0.05
    assert wave.between(start, end) == pytest.approx(energy_until(end) - energy_until(start), abs=close)


def test_the_mean_power_over_a_whole_wave(wave: EnergyMeter) -> None:
    assert wave.mean_power_w(2.0, 5.0) == pytest.approx(10, rel=1e-3)
    assert wave.mean_power_w(2.0, 2.0) is None


@pytest.mark.parametrize(("start", "end"), [(-0.1, 1), (1, 10.1), (2, 1), (math.nan, 1), (1, math.inf)])
def test_moments_that_the_readings_do_not_reach(wave: EnergyMeter, start: float, end: float) -> None:
    assert wave.between(start, end) is None


def test_a_straight_line_is_exact() -> None:
    meter = EnergyMeter()
    for time_s in (0.0, 0.3, 0.35, 1.0):
        meter.add(sample(time_s, VDD_IN=2 + 6 * time_s))
    assert meter.joules == pytest.approx(2 + 3)


def test_nothing_is_known_of_nothing() -> None:
    meter = EnergyMeter()
    assert meter.between(0, 0) is None and meter.joules == 0
    meter.add(sample(1.0, VDD_IN=5))
    assert meter.between(1.0, 1.0) == 0 and meter.between(0.5, 1.0) is None


def test_a_pause_is_not_measured() -> None:
    """A process that was stopped: what the device drew meanwhile is not known."""
    meter = EnergyMeter(longest_gap_s=1.0)
    for time_s in (0.0, 0.5, 30.5, 31.0):
        meter.add(sample(time_s, VDD_IN=10))
    assert meter.joules == pytest.approx(10)
    assert meter.measured_s == 1.0 and meter.unmeasured_s == 30.0
    assert meter.between(0.0, 0.5) == pytest.approx(5) and meter.between(30.5, 31) == pytest.approx(5)
    assert meter.between(0.0, 31.0) is None and meter.between(10, 11) is None


def test_counters_bridge_a_pause() -> None:
    meter = EnergyMeter(longest_gap_s=1.0)
    for time_s, joules in ((0.0, 100.0), (30.0, 400.0)):
        meter.add(Reading(time_s, energy={"gpu0": EnergyCounter(joules)}, total=("gpu0",)))
    assert meter.joules == 300 and meter.unmeasured_s == 0


def test_a_counter_is_believed_before_samples() -> None:
    meter = EnergyMeter()
    for time_s, joules in ((0.0, 100.0), (0.5, 107.0)):
        counter = {"gpu0": EnergyCounter(joules)}
        meter.add(Reading(time_s, power_w={"gpu0": 10.0}, energy=counter, total=("gpu0",)))
    assert meter.joules == 7


def test_a_counter_set_back_leaves_it_to_the_samples() -> None:
    meter = EnergyMeter()
    for time_s, joules in ((0.0, 100.0), (0.5, 1.0)):
        counter = {"gpu0": EnergyCounter(joules)}
        meter.add(Reading(time_s, power_w={"gpu0": 10.0}, energy=counter, total=("gpu0",)))
    assert meter.joules == 5


def test_a_total_of_counters_and_samples() -> None:
    meter = EnergyMeter()
    total = ("package-0", "VDD_SOC")
    for time_s in (0.0, 0.5):
        counters = {"package-0": EnergyCounter(20 * time_s, 262143.0)}
        meter.add(Reading(time_s, power_w={"VDD_SOC": 4.0}, energy=counters, total=total))
    assert meter.joules == pytest.approx(10 + 2)
    assert meter.rails == pytest.approx({"package-0": 10, "VDD_SOC": 2})


def test_a_missing_rail_makes_the_device_unknown_and_not_smaller() -> None:
    meter = EnergyMeter()
    total = ("CPU", "GPU")
    meter.add(sample(0.0, total, CPU=4.0, GPU=6.0))
    meter.add(sample(0.5, total, CPU=4.0))
    meter.add(sample(1.0, total, CPU=4.0, GPU=6.0))
    meter.add(sample(1.5, total, CPU=4.0, GPU=6.0))
    assert meter.joules == pytest.approx(5) and meter.unmeasured_s == 1.0
    assert meter.rails == pytest.approx({"CPU": 6, "GPU": 3})


def test_without_a_total_only_rails_are_counted() -> None:
    meter = EnergyMeter()
    for time_s in (0.0, 1.0):
        meter.add(sample(time_s, (), MOTOR=3.0))
    assert meter.joules == 0 and meter.measured_s == 0 and meter.rails == {"MOTOR": 3.0}


def test_the_same_reading_twice_counts_once() -> None:
    meter = EnergyMeter()
    for time_s in (0.0, 0.0, 0.5, 0.5):
        meter.add(sample(time_s, VDD_IN=10))
    assert meter.joules == 5


def test_a_clock_set_back_starts_anew_and_keeps_the_sum() -> None:
    meter = EnergyMeter()
    for time_s in (100.0, 100.5, 7.0, 7.5):
        meter.add(sample(time_s, VDD_IN=10))
    assert meter.joules == 10
    assert meter.between(7.0, 7.5) == 5 and meter.between(100.0, 100.5) is None


@pytest.mark.parametrize("time_s", [math.nan, math.inf, -math.inf])
def test_a_time_that_is_no_number_changes_nothing(time_s: float) -> None:
    meter = EnergyMeter()
    for moment in (0.0, time_s, 0.5):
        meter.add(sample(moment, VDD_IN=10))
    assert meter.joules == 5


def test_old_readings_are_forgotten() -> None:
    meter = EnergyMeter(remembered=3)
    for number in range(10):
        meter.add(sample(number / 10, VDD_IN=10))
    assert meter.between(0.7, 0.9) == pytest.approx(2) and meter.between(0.6, 0.9) is None
    assert meter.joules == pytest.approx(9)
