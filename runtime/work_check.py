"""Whether calls under a soft budget take the work that calibration lets expect of them.

A soft budget holds for the mean over inputs like the calibration data. Inputs that are not like it, or a knob that does
not do what it did there, take more, and nothing in a single call says so: the mean over many does.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from adaptrt.runtime.inputs import FEW

Array = np.ndarray[Any, Any]

_LEAST_SAMPLES = 8.0
_FARTHER = 1.1
"""The next look is at so many times the samples."""
_KEPT = 2_000.0
"""Samples from which on older ones count half: what is said is about the latest."""
_KINDS = 20
"""Per dense work: calls whose expected work differs by a twentieth of it are of different kinds."""
_ERRORS = 3.0
_WAITING = 8
"""Single samples that are taken in together: in a call of one, this would be a quarter of what the runtime adds."""
_LEAST_SCATTER = 0.1
"""Standard deviation of a sample's share that is assumed at least: a few alike do not show how others scatter."""
_TOLERATED = 0.02
"""Of the dense work, and as a share of what was expected: calibration measured it on another split."""


class SoftBudgetCheck:
    """The excess over the expected work, over the latest samples of one model; any number of threads may use it.

    Calls that expect about the same work are looked at together, and no others: what obeys one budget says nothing
    of another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._excesses: dict[int, _Excess] = {}

    def reset(self) -> None:
        """The budget was changed."""
        with self._lock:
            self._excesses.clear()

    def observe(self, expected: float, done: Array) -> str | None:
        """Take in a call under a soft budget of work.

        Args:
            expected: mean share of the dense work by calibration.
            done: share of it that each sample took, float32 [B].

        Returns:
            What to say to the user, if by the latest look such calls take clearly more than was expected. Looks
            become rarer as there is more to look at: a call costs next to nothing.
        """
        kind = int(expected * _KINDS)
        excesses = self._excesses.get(kind)
        if excesses is None:
            with self._lock:
                excesses = self._excesses.setdefault(kind, _Excess())
        count = done.size
        if count == 1:
            waiting = excesses.waiting
            waiting.append((done.item(), expected))
            if len(waiting) >= _WAITING:
                with self._lock:
                    excesses.take_waiting()
            return excesses.text
        if count <= FEW:
            each = [share - expected for share in done.tolist()]
            excess, squares = sum(each), sum([one * one for one in each])
        else:
            differences = done - np.float32(expected)
            excess, squares = float(differences.sum()), float(np.dot(differences, differences))
        with self._lock:
            excesses.add(count, excess, squares, count * expected)
        return excesses.text


class _Excess:
    """Sums over the samples of one kind of calls, and what the latest look at them says."""

    def __init__(self) -> None:
        self._samples, self._excess, self._squares, self._expected = 0.0, 0.0, 0.0, 0.0
        self._next_look = _LEAST_SAMPLES
        self.text: str | None = None
        self.waiting: list[tuple[float, float]] = []
        """Of single samples: the share that was done, and the one expected. Appending needs no lock."""

    def take_waiting(self) -> None:
        """Take in the single samples."""
        taken = self.waiting[:]
        del self.waiting[: len(taken)]  # no more than were copied: other threads go on appending
        for done, expected in taken:
            self.add(1, done - expected, (done - expected) ** 2, expected)

    def add(self, count: int, excess: float, squares: float, expected: float) -> None:
        """Take in so many samples' sums."""
        if not math.isfinite(squares):
            return  # work that is no number would be in every mean from now on
        self._samples += count
        self._excess += excess
        self._squares += squares
        self._expected += expected
        if self._samples >= self._next_look:
            self._look()

    def _look(self) -> None:
        samples = self._samples
        mean, expected = self._excess / samples, self._expected / samples
        scatter = math.sqrt(max(self._squares / samples - mean * mean, 0.0))
        error = max(scatter, _LEAST_SCATTER) / math.sqrt(samples)
        self.text = None
        if mean > _TOLERATED * (1 + expected) + _ERRORS * error:
            self.text = (
                f"calls under this soft budget take {expected + mean:.4g} of the dense work on average over the last "
                f"{samples:.0f} samples, expected {expected:.4g} as calibrated: these inputs are not like the "
                "calibration data; run `adaptrt calibrate` with data like these, or ask for less"
            )
        if samples > _KEPT:
            self._samples, self._expected = samples / 2, self._expected / 2
            self._excess, self._squares = self._excess / 2, self._squares / 2
        self._next_look = max(self._samples * _FARTHER, self._samples + 1)
