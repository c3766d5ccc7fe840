"""How long each stage takes, so that the next one is begun only if it will end in time."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable

_KEPT = 256
_PERCENTILE = 0.99
_MARGIN = 1.1  # on the percentile: 256 calls do not show the 257th
_AFTERWARDS_S = 50e-6  # from the last stage's end to the caller's having the result


class _Times:
    """The latest times of one stage at about one number of rows."""

    def __init__(self) -> None:
        self._order: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, seconds: float) -> None:
        self._order.append(seconds)
        insort(self._sorted, seconds)
        if len(self._order) > _KEPT:
            del self._sorted[bisect_left(self._sorted, self._order.popleft())]

    @property
    def high(self) -> float:
        return self._sorted[min(int(_PERCENTILE * len(self._sorted)), len(self._sorted) - 1)]


class StageTimes:
    """Times by stage and number of rows, rows counted in powers of two; any number of threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[tuple[int, int], _Times] = {}

    def add(self, stage: int, rows: int, seconds: float) -> None:
        """Take in one run of a stage."""
        with self._lock:
            self._times.setdefault((stage, _bucket(rows)), _Times()).add(seconds)

    def knows(self, stages: int, rows: int) -> bool:
        """Whether every stage ran on about so many rows."""
        return all((stage, _bucket(rows)) in self._times for stage in range(stages))

    def high(self, stage: int, rows: int) -> float:
        """Seconds that a stage takes at most, but for one call in a hundred; infinite where it never ran.

        Fewer rows than were ever seen count as the next larger number that was.
        """
        bucket = _bucket(rows)
        with self._lock:
            seen = [size for number, size in self._times if number == stage]
            larger = [size for size in seen if size >= bucket]
            if larger:
                return self._times[stage, min(larger)].high * _MARGIN
            if seen:
                return self._times[stage, max(seen)].high * float(1 << bucket - max(seen)) * _MARGIN
        return float("inf")


class Deadline:
    """When one call's answer must be there.

    Args:
        times: What is known of the stages, taught by every stage that runs.
        end: Seconds on ``clock``.
        clock: Seconds, monotonic.
    """

    def __init__(self, times: StageTimes, end: float, clock: Callable[[], float]) -> None:
        self._times, self._end, self.clock = times, end, clock

    def fits(self, stage: int, rows: int) -> bool:
        """Whether a stage begun now ends in time."""
        return self.clock() + self._times.high(stage, rows) + _AFTERWARDS_S <= self._end

    def took(self, stage: int, rows: int, seconds: float) -> None:
        """Learn what a stage took."""
        self._times.add(stage, rows, seconds)


def _bucket(rows: int) -> int:
    return max(rows - 1, 0).bit_length()
