"""How often calls took how long, counted by bounds that never move, as Prometheus wants it."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence

from adaptrt.runtime.errors import TelemetryError, shown

# Three bounds a decade from 0.1 ms to 10 s.
_BOUNDS_S = (*(factor * 10.0**decade for decade in range(-4, 1) for factor in (1, 2, 5)), 10.0)


class LatencyHistogram:
    """Counts latencies; for any number of threads, about a microsecond each.

    Attributes:
        bounds_s: rising upper bounds in seconds, inclusive; what is above the last is counted apart.
    """

    def __init__(self, bounds_s: Sequence[float] = _BOUNDS_S) -> None:
        """Start with nothing.

        Raises:
            TelemetryError: the bounds are none, or not rising.
        """
        self.bounds_s = tuple(float(bound) for bound in bounds_s)
        if not self.bounds_s or any(not a < b for a, b in zip(self.bounds_s, self.bounds_s[1:], strict=False)):
            raise TelemetryError(f"got bounds_s={shown(bounds_s)}; expected rising numbers of seconds")
        self._counts = [0] * (len(self.bounds_s) + 1)
        self._sum_s = 0.0
        self._lock = threading.Lock()

    def observe(self, seconds: float) -> None:
        """Count one call; a latency that is no number or below 0 is not counted."""
        if not seconds >= 0:
            return
        place = bisect_left(self.bounds_s, seconds)
        with self._lock:
            self._counts[place] += 1
            self._sum_s += seconds

    def snapshot(self) -> tuple[list[tuple[float, int]], float]:
        """How many calls took at most each bound, the last bound being infinite; and the sum in seconds."""
        with self._lock:
            counts, sum_s = list(self._counts), self._sum_s
        buckets, so_far = [], 0
        for bound, count in zip((*self.bounds_s, float("inf")), counts, strict=True):
            so_far += count
            buckets.append((bound, so_far))
        return buckets, sum_s
