"""What the sensors of a device said at one moment, in SI units, the same for every reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import msgspec

V = TypeVar("V")


class EnergyCounter(msgspec.Struct, frozen=True):
    """A counter of energy, as the device keeps it.

    Attributes:
        joules: the count; only differences mean something.
        range_j: the count starts at 0 again after this many joules; None where it never does in practice.
    """

    joules: float
    range_j: float | None = None


class PowerMode(msgspec.Struct, frozen=True):
    """The power mode that someone chose for the device.

    Attributes:
        name: such as ``15W`` or ``MAXN`` (nvpmodel), ``balanced`` (ACPI platform profile); None where
            only the number is known.
        number: nvpmodel's number; None where modes have none.
    """

    name: str | None = None
    number: int | None = None


class Reading(msgspec.Struct, frozen=True):
    """The sensors at one moment. What could not be read is absent: a missing key or None, never 0.

    Power and energy of the same rail go by the same name: ``package-0`` in ``power_w`` and in ``energy``
    are one.

    Attributes:
        time_s: when, on the caller's clock; a cached reading keeps the time at which it was taken.
        power_w: watts by rail. May be below 0: a current monitor at rest has an offset.
        energy: counters by rail.
        total: the rails that together are the device, none of them part of another; empty where the
            sensors do not tell.
        total_power_w: the sum of ``power_w`` over ``total``; None if one of them is absent.
        whole_device: the total covers everything, so that no other reader's rails may be added to it.
        temperature_c: degrees Celsius by zone.
        clock_hz: hertz by clock: ``cpu0``, ``cpu4`` (a cpufreq policy's first core), ``gpu``, ``memory``.
        fan_rpm: revolutions per minute by fan.
        power_mode: the mode that is chosen.
        problems: for each sensor that failed at this reading, one line.
    """

    time_s: float
    power_w: dict[str, float] = {}
    energy: dict[str, EnergyCounter] = {}
    total: tuple[str, ...] = ()
    total_power_w: float | None = None
    whole_device: bool = False
    temperature_c: dict[str, float] = {}
    clock_hz: dict[str, float] = {}
    fan_rpm: dict[str, float] = {}
    power_mode: PowerMode | None = None
    problems: tuple[str, ...] = ()


class Reader(Protocol):
    """One family of sensors, found once, read often.

    Attributes:
        name: such as ``jetson``, ``rapl``.
        notes: what discovery found amiss, one line each, with the remedy.
    """

    name: str
    notes: tuple[str, ...]

    def read(self, time_s: float) -> Reading:
        """Ask every sensor once; one that fails is absent, with a line in ``problems``."""
        ...

    def close(self) -> None:
        """Give up what is held open; reading afterwards opens it again."""
        ...


def total_power(power_w: dict[str, float], total: Sequence[str]) -> float | None:
    """The watts of all rails of a total; None if there is no total or one of its rails is absent."""
    if not total or any(rail not in power_w for rail in total):
        return None
    return sum(power_w[rail] for rail in total)


def merge(time_s: float, readings: Sequence[Reading]) -> Reading:
    """One reading out of those of several readers.

    The first reader to name a zone, a clock or a power mode is believed. Of two rails with one name the
    first is kept. The total is the readers' totals together, or only that of a reader that covers the
    whole device.
    """
    power_w: dict[str, float] = {}
    energy: dict[str, EnergyCounter] = {}
    temperature_c: dict[str, float] = {}
    clock_hz: dict[str, float] = {}
    fan_rpm: dict[str, float] = {}
    mode: PowerMode | None = None
    problems: list[str] = []
    for reading in readings:
        _add_new(power_w, reading.power_w)
        _add_new(energy, reading.energy)
        _add_new(temperature_c, reading.temperature_c)
        _add_new(clock_hz, reading.clock_hz)
        _add_new(fan_rpm, reading.fan_rpm)
        mode = mode or reading.power_mode
        problems += reading.problems
    whole = next((reading for reading in readings if reading.whole_device), None)
    total = whole.total if whole else tuple(dict.fromkeys(rail for reading in readings for rail in reading.total))
    return Reading(
        time_s=time_s,
        power_w=power_w,
        energy=energy,
        total=total,
        total_power_w=total_power(power_w, total),
        whole_device=whole is not None,
        temperature_c=temperature_c,
        clock_hz=clock_hz,
        fan_rpm=fan_rpm,
        power_mode=mode,
        problems=tuple(problems),
    )


def _add_new(known: dict[str, V], more: dict[str, V]) -> None:
    for name, value in more.items():
        known.setdefault(name, value)
