"""The sensors of a device behind one call that is cheap enough for every inference."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

from adaptrt.runtime.errors import TelemetryError, one_line, shown
from adaptrt.runtime.telemetry.discovery import find_sensors
from adaptrt.runtime.telemetry.energy import EnergyMeter
from adaptrt.runtime.telemetry.reading import Reader, Reading, merge

# A sampling thread that has given nothing for so many periods is held up by a sensor.
_PERIODS_UNTIL_STALE = 20

# Between readings of a thread that was started because reading is slow.
_SHORTEST_PERIOD_S = 0.02

# How long a thread waits while another one takes the very first reading.
_FIRST_READING_S = 1.0


class Telemetry:
    """All readers of a device, read together, at most once per interval. For any number of threads.

    ``read`` never raises for a sensor's sake: what fails is absent and named in ``Reading.problems``.

    In the thread that calls ``read`` the sensors cost their time once per interval: microseconds for
    files that the kernel answers by itself, up to milliseconds where it has to ask a chip over I2C (a
    Jetson's INA3221). ``start`` moves that into a thread of its own, which also keeps a sensor that hangs
    from holding up an inference.

    Attributes:
        readers: in the order in which they are believed.
        notes: what was found amiss at discovery, one line each, with the remedy.
    """

    def __init__(
        self, readers: Sequence[Reader], interval_s: float = 0.05, *, own_thread_above_s: float | None = None
    ) -> None:
        """Read with these readers.

        Args:
            readers: from ``find_sensors``, or others that keep its protocol.
            interval_s: a reading younger than this is given again.
            own_thread_above_s: ``start`` by itself once a reading, the first one apart, took longer; None: never.
                ``read`` is then to be called with times of ``time.perf_counter()``.

        Raises:
            TelemetryError: ``interval_s`` is no number of 0 or more.
        """
        self.readers = tuple(readers)
        self.notes = tuple(note for reader in self.readers for note in reader.notes)
        self._interval_s = _duration("interval_s", interval_s)
        self._patience_s = own_thread_above_s
        self._last: Reading | None = None
        self._meter = EnergyMeter()
        self._reading = threading.Lock()
        self._adding = threading.Lock()
        self._process = os.getpid()
        self._sampler: _Sampler | None = None

    @classmethod
    def find(
        cls, root: str | Path = "/", interval_s: float = 0.05, *, own_thread_above_s: float | None = None
    ) -> Telemetry:
        """The telemetry of this machine, or of a tree laid out as one.

        Raises:
            TelemetryError: ``root`` is no folder, ``interval_s`` no number of 0 or more.
        """
        return cls(find_sensors(root), interval_s, own_thread_above_s=own_thread_above_s)

    def read(self, time_s: float) -> Reading:
        """The newest reading: the last one if it is younger than the interval, else a new one.

        While another thread is at it, the last one is given without waiting; the very first caller's
        companions wait for it.

        Args:
            time_s: now, on a clock that does not jump, such as ``time.perf_counter()``; with ``start``
                on the clock given there.
        """
        last = self._last
        if last is not None and 0 <= time_s - last.time_s < self._interval_s:
            return last
        sampler = self._sampler
        if sampler is not None and last is not None and sampler.is_alive():
            return self._sampled(last, time_s, sampler.period_s)
        if self._process != os.getpid():
            # A lock that another thread held while this process was forked would never be given back.
            self._reading, self._adding, self._process = threading.Lock(), threading.Lock(), os.getpid()
        if not self._reading.acquire(timeout=_FIRST_READING_S if last is None else 0):
            return last or Reading(time_s, problems=(f"the sensors have not answered for {_FIRST_READING_S:g} s",))
        try:
            if last is None and self._last is not None:
                return self._last
            begun = perf_counter()
            reading = self._read_all(time_s)
            slow = self._patience_s is not None and perf_counter() - begun > self._patience_s
            if slow and last is not None and self._sampler is None:  # the first reading opens files
                self.start(max(self._interval_s, _SHORTEST_PERIOD_S))
            return reading
        finally:
            self._reading.release()

    def energy_j(self, start_s: float, end_s: float) -> float | None:
        """Joules of the device between two moments; None where the readings taken do not reach.

        Readings are taken when ``read`` is called, or by ``start``; the end lies at or before the last of
        them.
        """
        with self._adding:
            return self._meter.between(start_s, end_s)

    def mean_power_w(self, start_s: float, end_s: float) -> float | None:
        """Watts of the device over a time; None as with ``energy_j``."""
        with self._adding:
            return self._meter.mean_power_w(start_s, end_s)

    def energy_totals_j(self) -> tuple[float, dict[str, float]]:
        """Joules of the device, and by rail, over all readings taken; counters that go round are put right."""
        with self._adding:
            return self._meter.joules, dict(self._meter.rails)

    def start(self, period_s: float = 0.05, clock: Callable[[], float] = perf_counter) -> None:
        """Read in a thread of its own from now on; ``read`` then only hands out what that thread read.

        Args:
            period_s: between two readings.
            clock: seconds; ``read`` is to be called with times of the same clock.

        Raises:
            TelemetryError: ``period_s`` is no number above 0, or a thread is at it already.
        """
        if _duration("period_s", period_s) == 0:
            raise TelemetryError("got period_s=0; expected seconds between two readings, more than 0")
        if self._sampler is not None and self._sampler.is_alive():
            raise TelemetryError("a thread reads these sensors already; stop it first")
        self._sampler = _Sampler(self, period_s, clock)
        self._sampler.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """End the thread of ``start``, if there is one; wait for it, but not for a sensor that hangs."""
        sampler, self._sampler = self._sampler, None
        if sampler is not None:
            sampler.ended.set()
            sampler.join(timeout_s)

    def close(self) -> None:
        """Stop, and close what the readers hold open; ``read`` may be called again and opens it anew.

        While a sensor hangs its files stay open: a descriptor must not be closed under a read.
        """
        self.stop()
        if self._reading.acquire(timeout=_FIRST_READING_S):
            try:
                for reader in self.readers:
                    reader.close()
            finally:
                self._reading.release()

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sampled(self, last: Reading, time_s: float, period_s: float) -> Reading:
        age = time_s - last.time_s
        if age < _PERIODS_UNTIL_STALE * max(period_s, self._interval_s):
            return last
        return Reading(time_s, problems=(f"the thread that reads the sensors has given nothing for {age:.1f} s",))

    def _read_all(self, time_s: float) -> Reading:
        readings = [_read_one(reader, time_s) for reader in self.readers]
        reading = merge(time_s, readings)
        with self._adding:
            self._meter.add(reading)
        self._last = reading
        return reading


class _Sampler(threading.Thread):
    """Reads once per period until it is told to end."""

    def __init__(self, telemetry: Telemetry, period_s: float, clock: Callable[[], float]) -> None:
        super().__init__(name="adaptrt-telemetry", daemon=True)
        self.period_s = period_s
        self.ended = threading.Event()
        self._telemetry = telemetry
        self._clock = clock

    def run(self) -> None:
        telemetry = self._telemetry
        while not self.ended.is_set():
            with telemetry._reading:
                telemetry._read_all(self._clock())
            self.ended.wait(self.period_s)


def _read_one(reader: Reader, time_s: float) -> Reading:
    try:
        return reader.read(time_s)
    except Exception as error:
        return Reading(time_s, problems=(f"{reader.name}: {type(error).__name__}: {one_line(error)}",))


def _duration(name: str, seconds: float) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < float("inf"):
        raise TelemetryError(f"got {name}={shown(seconds)}; expected seconds, 0 or more")
    return float(seconds)
