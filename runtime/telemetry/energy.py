"""Joules between two moments, from readings. Nothing here looks at a clock: time comes in with them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque

from adaptrt.runtime.telemetry.reading import Reading

# No device that this runs on draws more; a counter that seems to say so was set back.
HIGHEST_POWER_W = 2000.0


def counted(
    before_j: float, after_j: float, range_j: float | None, seconds: float, highest_w: float = HIGHEST_POWER_W
) -> float | None:
    """Joules that a counter counted, over at most one return to 0.

    Args:
        before_j: the earlier count.
        after_j: the later one.
        range_j: after how many joules the count starts at 0 again; None if never.
        seconds: between them.
        highest_w: more than this the device cannot draw.

    Returns:
        0 or more; None if no time passed, if the counter may have gone round more than once in this
        time, or if it was set back (by a suspended machine, a reloaded driver).
    """
    if not seconds > 0:
        return None
    most = highest_w * seconds
    if range_j is not None and most >= range_j:
        return None
    spent = after_j - before_j
    if spent < 0 and range_j is not None:
        spent += range_j
    return spent if 0 <= spent <= most else None


class EnergyMeter:
    """Adds up the energy of the device, rail by rail, over readings given in the order of their times.

    A rail's energy comes from its counter where it has one, else from its power, taken as straight
    between two readings (trapezoid). What cannot be known is left out and counted in ``unmeasured_s``:
    a pause longer than ``longest_gap_s`` without counters, a rail that was absent, a counter set back.

    Not for several threads at once.

    Attributes:
        joules: of the device (the readings' ``total``) in the measured time.
        measured_s, unmeasured_s: seconds whose energy of the device is known, and those it is not.
        rails: joules by rail, of every rail that has a counter or power.
    """

    def __init__(
        self, longest_gap_s: float = 1.0, remembered: int = 4096, highest_power_w: float = HIGHEST_POWER_W
    ) -> None:
        """Start with nothing.

        Args:
            longest_gap_s: over a longer pause power is not taken as straight.
            remembered: how many readings back ``between`` can look.
            highest_power_w: more than this no rail can draw.
        """
        self.joules = 0.0
        self.measured_s = 0.0
        self.unmeasured_s = 0.0
        self.rails: dict[str, float] = {}
        self._longest_gap_s = longest_gap_s
        self._highest_power_w = highest_power_w
        self._last: Reading | None = None
        # Time, joules and unmeasured seconds up to each reading.
        self._history: deque[tuple[float, float, float]] = deque(maxlen=remembered)

    def add(self, reading: Reading) -> None:
        """Take the next reading; one with a time that was seen already, or that is no number, changes nothing.

        A time before the last one means that the clock was set back: what was added up stays, and
        counting goes on from here.
        """
        if not math.isfinite(reading.time_s):
            return
        last = self._last
        if last is not None:
            seconds = reading.time_s - last.time_s
            if seconds == 0:
                return
            if seconds < 0:
                self._history.clear()
            else:
                self._add_interval(last, reading, seconds)
        self._last = reading
        self._history.append((reading.time_s, self.joules, self.unmeasured_s))

    def between(self, start_s: float, end_s: float) -> float | None:
        """Joules of the device between two moments; between readings its power is taken as constant.

        Returns:
            None where the readings do not reach: a moment before the oldest remembered reading or after
            the last one, time that could not be measured in between, an end before the start.
        """
        start, end = self._at(start_s), self._at(end_s)
        if start is None or end is None or end_s < start_s or end[1] > start[1]:
            return None
        return end[0] - start[0]

    def mean_power_w(self, start_s: float, end_s: float) -> float | None:
        """Watts of the device over a time; None as with ``between``, or if no time passes."""
        joules = self.between(start_s, end_s)
        return joules / (end_s - start_s) if joules is not None and end_s > start_s else None

    def _add_interval(self, last: Reading, reading: Reading, seconds: float) -> None:
        spent = {
            rail: joules
            for rail in {**reading.power_w, **reading.energy}
            if (joules := self._spent(rail, last, reading, seconds)) is not None
        }
        for rail, joules in spent.items():
            self.rails[rail] = self.rails.get(rail, 0.0) + joules
        if reading.total and reading.total == last.total and all(rail in spent for rail in reading.total):
            self.joules += sum(spent[rail] for rail in reading.total)
            self.measured_s += seconds
        else:
            self.unmeasured_s += seconds

    def _spent(self, rail: str, last: Reading, reading: Reading, seconds: float) -> float | None:
        before, after = last.energy.get(rail), reading.energy.get(rail)
        if before is not None and after is not None:
            joules = counted(before.joules, after.joules, after.range_j, seconds, self._highest_power_w)
            if joules is not None:
                return joules
        then, now = last.power_w.get(rail), reading.power_w.get(rail)
        if then is None or now is None or seconds > self._longest_gap_s:
            return None
        return (then + now) / 2 * seconds

    def _at(self, moment_s: float) -> tuple[float, float] | None:
        history = self._history
        if not history or not history[0][0] <= moment_s <= history[-1][0]:
            return None
        place = bisect_right(history, (moment_s, math.inf, math.inf))
        time, joules, unmeasured = history[place - 1]
        if time == moment_s:
            return joules, unmeasured
        next_time, next_joules, next_unmeasured = history[place]
        share = (moment_s - time) / (next_time - time)
        return joules + share * (next_joules - joules), unmeasured + share * (next_unmeasured - unmeasured)
