"""How much more or less work the inputs take than those of calibration, at the same knobs."""

from __future__ import annotations

from statistics import median

_MEMORY = 0.9
_LIMITS = (0.2, 5.0)
_RUN = 3
_JUMP = 0.25


class WorkloadModel:
    """A slowly moving ratio of work done to work expected; follows a jump after three calls to one side."""

    def __init__(self) -> None:
        self._ratio = 1.0
        self._jumped: list[float] = []

    @property
    def ratio(self) -> float:
        """Work done over work expected."""
        return self._ratio

    def observe(self, expected: float, done: float) -> None:
        """Take in one call's shares of work, both above 0."""
        ratio = min(max(done / expected, _LIMITS[0]), _LIMITS[1])
        away = ratio / self._ratio - 1
        if abs(away) <= _JUMP:
            self._jumped.clear()
            self._ratio += (1 - _MEMORY) * (ratio - self._ratio)
            return
        if self._jumped and (self._jumped[-1] > self._ratio) != (away > 0):
            self._jumped.clear()
        self._jumped.append(ratio)
        if len(self._jumped) >= _RUN:
            self._ratio = median(self._jumped)
            self._jumped.clear()
        else:
            self._ratio += (1 - _MEMORY) * (ratio - self._ratio)
