"""What calls take by the size of their batch and of their samples, and what an answer takes beside its call."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from statistics import median

from adaptrt.runtime.errors import BudgetError

_CALLS = 16
"""Calls of samples of a size that its factor is learned from; what comes later is the device's."""
_SIZES = 64
_LIMITS = (0.2, 5.0)


class CallCosts:
    """What a call takes, as a multiple of the call that the profile measured.

    Args:
        measured: Milliseconds of calls at one operating point by their number of samples; the smallest number is
            the profile's.

    Raises:
        BudgetError: There is none, or one that is not above 0.
    """

    def __init__(self, measured: Mapping[int, float]) -> None:
        sizes = sorted(measured)
        if not sizes or sizes[0] < 1 or not all(0 < measured[size] < math.inf for size in sizes):
            raise BudgetError(f"got batches that take {dict(measured)} ms, expected sizes and times above 0")
        self.base_ms = measured[sizes[0]]
        self._sizes = sizes
        self._scales = [measured[size] / self.base_ms for size in sizes]
        for place in range(1, len(sizes)):  # more samples never take less
            self._scales[place] = max(self._scales[place], self._scales[place - 1])
        self._seen: dict[float, list[float]] = {}

    def scale(self, samples: int, size: float = 1.0) -> float:
        """The multiple for a batch.

        Args:
            samples: In the batch.
            size: Of each, over that of the samples that the profile was measured with.
        """
        seen = self._seen.get(size)
        return self._batch(samples) * (median(seen) if seen else size)

    def learn(self, samples: int, size: float, scale: float) -> bool:
        """Take in what a call of samples of another size took; whether it was used up by that.

        Args:
            samples: In the batch.
            size: As for ``scale``.
            scale: What it took, as a multiple of what the profile's call takes now.
        """
        if size == 1.0 or not 0 < scale < math.inf:
            return False
        if size not in self._seen and len(self._seen) >= _SIZES:
            self._seen.clear()
        seen = self._seen.setdefault(size, [])
        if len(seen) >= _CALLS:
            return False
        low, high = _LIMITS
        seen.append(min(max(scale / self._batch(samples), size * low), size * high))
        return True

    def _batch(self, samples: int) -> float:
        sizes, scales = self._sizes, self._scales
        if len(sizes) == 1:
            return scales[0] * samples / sizes[0]
        place = min(max(bisect_left(sizes, samples), 1), len(sizes) - 1)
        (low, high), (a, b) = sizes[place - 1 : place + 1], scales[place - 1 : place + 1]
        return max(a + (b - a) * (samples - low) / (high - low), 1e-3)


class RecentQuantile:
    """The value that a share of the latest ones stays under; 0 before there is one.

    Args:
        share: Of the values.
        kept: How many of the latest count.
    """

    def __init__(self, share: float = 0.95, kept: int = 128) -> None:
        self._share = share
        self._values: deque[float] = deque(maxlen=kept)

    @property
    def value(self) -> float:
        """The quantile."""
        if not self._values:
            return 0.0
        ordered = sorted(self._values)
        return ordered[min(math.ceil(self._share * len(ordered)), len(ordered)) - 1]

    def observe(self, value: float) -> None:
        """Take in one; what is no finite number of at least 0 is left out."""
        if 0 <= value < math.inf:
            self._values.append(value)
