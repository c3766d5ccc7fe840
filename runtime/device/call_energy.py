"""Millijoules of a call, from whatever sensors there are."""

from __future__ import annotations

from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS, NOTHING
from adaptrt.runtime.errors import BudgetError
from adaptrt.runtime.table import either
from adaptrt.runtime.telemetry import Telemetry

_WINDOW_S = 0.25
"""Sensors without counters say the power now and then: its mean over this time is taken for the call's."""
_QUICK_S = 300e-6
_SAMPLING_S = 0.02


class CallEnergy:
    """Energy of the device between two moments.

    Exact where a counter of energy is read at both, which is done where reading takes less than 0.3 ms. Else a
    thread samples the sensors, and the energy is the latest mean power times the time: right for an app that
    calls back to back, too low for calls between long pauses.

    Args:
        telemetry: With an interval of 0, so that every reading is new.
        now: Seconds, on the clock of all later calls.
        cost: Seconds that a second reading took.

    Raises:
        BudgetError: No sensor tells the power or the energy of this device.
    """

    def __init__(self, telemetry: Telemetry, now: float, cost: float) -> None:
        reading = telemetry.read(now)
        if not reading.total:
            notes = "; ".join([*telemetry.notes, *reading.problems])
            raise BudgetError(
                "got a budget of energy or power, but no sensor of this device tells its power"
                + (f" ({notes})" if notes else "")
                + f"; expected one, use {either(_without_sensor())}"
            )
        self._telemetry = telemetry
        self._exact = cost < _QUICK_S and all(rail in reading.energy for rail in reading.total)
        if not self._exact:
            telemetry.start(_SAMPLING_S)

    def begin(self, now: float) -> None:
        """A call begins."""
        if self._exact:
            self._telemetry.read(now)

    def millijoules(self, start: float, end: float) -> float | None:
        """From ``start`` to ``end``, which is now; None where the sensors do not tell."""
        last = self._telemetry.read(end)
        if self._exact:
            joules = self._telemetry.energy_j(start, end)
            if joules is not None:
                return joules * 1e3
        watts = self._telemetry.mean_power_w(last.time_s - _WINDOW_S, last.time_s)
        if watts is None:
            watts = last.total_power_w
        return None if watts is None else watts * (end - start) * 1e3


def _without_sensor() -> list[str]:
    """How to make the budgets that need no sensor, those of the device first."""
    kinds = [kind for kind in BUDGET_KINDS.values() if kind.meter is not NOTHING and not kind.meter.sensor]
    return [kind.call for kind in sorted(kinds, key=lambda kind: not kind.meter.physical)]
