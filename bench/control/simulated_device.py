"""A device and a network in simulation: what a call at a share of work takes, and how good its answers are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from adaptrt.bench.control.traces import Floats, Trace
from adaptrt.runtime.control.response_curve import ResponseCurve

SPIKE = 10.0


@dataclass(frozen=True)
class SimulatedDevice:
    """Profiled as one thing, found as another.

    Attributes:
        profile: What the controller is told.
        offset: Milliseconds that the truth adds to the profile.
        slope: Factor that the truth has on it.
        best: Points of quality at most.
        loss: Points below at the cheapest.
        width: Quality is ``best - loss * exp(-(fraction - cheapest) / width)``.
    """

    profile: ResponseCurve
    offset: float = 0.2
    slope: float = 1.05
    best: float = 90.0
    loss: float = 6.0
    width: float = 0.12

    def response(self, trace: Trace, call: int, fraction: float) -> float:
        """Milliseconds of a call; work outside the profile's range goes on along its last piece."""
        done = fraction * trace.work[call]
        return float(
            self.nominal(done) * trace.slowdown[call] * trace.scatter[call] * (SPIKE if trace.spike[call] else 1.0)
        )

    def nominal(self, done: float) -> float:
        """Milliseconds at a share of work done, where nothing slows the device."""
        return self.offset + self.slope * self.profile.at(done)

    def quality(self, fraction: float) -> float:
        """Expected quality, in points."""
        return self.best - self.loss * math.exp(-(fraction - self.profile.cheapest) / self.width)

    def oracle(self, trace: Trace, target: float, percentile: float) -> Floats:
        """The share of work that who knows the trace would run at each call: only its scatter is unknown to it."""
        typical = _smooth(trace.work)
        scatter = trace.scatter * trace.work / typical
        highest = [np.quantile(scatter[trace.regime == regime], percentile) for regime in range(trace.regime.max() + 1)]
        factor = trace.slowdown * np.array(highest)[trace.regime]
        chosen = []
        for level, slow in zip(typical, factor, strict=True):
            allowed = (target / slow - self.offset) / self.slope
            chosen.append(self.profile.fraction_for(allowed) / level)
        shares: Floats = np.clip(np.array(chosen), self.profile.cheapest, self.profile.full)
        return shares


def _smooth(work: Floats) -> Floats:
    """The level of the work without the scatter of single calls, a median over 41 calls."""
    padded = np.pad(work, 20, mode="edge")
    level: Floats = np.median(np.lib.stride_tricks.sliding_window_view(padded, 41), axis=1)
    return level
