"""Whether calls under a soft budget take the work that calibration lets expect of them.

A soft budget holds for the mean over inputs like the calibration data. Inputs that are not like it, or a knob that does
not do what it did there, take more, and nothing in a single call says so: the mean over many does.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from adaptrt.runtime.budget import Budget

Array = np.ndarray[Any, Any]

_LEAST_SAMPLES = 8
_KEPT = 2_000.0
"""Samples from which on older ones count half: what is said is about the latest."""
_ERRORS = 3.0
_LEAST_SCATTER = 0.1
"""Standard deviation of a sample's share that is assumed at least: a few alike do not show how others scatter."""
_TOLERATED = 0.02
"""Of the dense work, and as a share of what was expected: calibration measured it on another split."""


class SoftBudgetCheck:
    """The excess over the expected work, over the latest samples of one model; any number of threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """The budget was changed."""
        self._samples, self._excess, self._squares = 0.0, 0.0, 0.0

    def observe(self, budget: Budget, expected: float, done: Array) -> str | None:
        """Take in a call.

        Args:
            budget: that it was to obey, a soft one of work.
            expected: mean share of the dense work by calibration.
            done: share of it that each sample took, float32 [B].

        Returns:
            What to say to the user, if by now calls take clearly more than was expected.
        """
        if done.size == 1:
            excess = float(done[0]) - expected
            squares = excess * excess
        else:
            differences = done - np.float32(expected)
            excess, squares = float(differences.sum()), float(np.dot(differences, differences))
        with self._lock:
            self._samples += done.size
            self._excess += excess
            self._squares += squares
            samples, mean = self._samples, self._excess / max(self._samples, 1.0)
            scatter = math.sqrt(max(self._squares / max(samples, 1.0) - mean * mean, 0.0))
            if samples > _KEPT:
                self._samples, self._excess, self._squares = samples / 2, self._excess / 2, self._squares / 2
        error = max(scatter, _LEAST_SCATTER) / math.sqrt(max(samples, 1.0))
        tolerated = _TOLERATED * (1 + expected) + _ERRORS * error
        if samples < _LEAST_SAMPLES or not mean > tolerated:
            return None
        return (
            f"got a budget of {budget}, but its calls take {expected + mean:.4g} of the dense work on average over the "
            f"last {samples:.0f} samples, expected {expected:.4g} as calibrated: these inputs are not like the "
            "calibration data; run `adaptrt calibrate` with data like these, or ask for less"
        )
