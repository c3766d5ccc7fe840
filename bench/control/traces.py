"""Devices that change, for simulation: what each call meets, drawn once and the same for every controller.

A trace says for every call how much slower than profiled the device is, what the inputs' work is against
the expected one, how long the app waited, and which calls are spikes or come right after a step. The
device's true response differs from its profile in slope and offset, too: no profile is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]

CALLS = 1200
FORGIVEN = 20
"""Calls after a step that a controller may take to find out."""

_SCATTER = 0.04
_WORK_SCATTER = 0.02
_COLD = (1.7, 1.3, 1.1)
_PERIOD_S = 0.02


@dataclass(frozen=True)
class Trace:
    """What every call meets; all arrays ``[calls]``.

    Attributes:
        name: What happens.
        slowdown: Factor of the device against its profile, pauses included.
        work: Work of the inputs against the expected work.
        gap: Seconds without a call before each.
        scatter: Factor of the single call, around 1.
        spike: Calls that something else held up tenfold.
        forgiven: The calls right after a step.
        regime: Number of the way in which calls scatter; within one all scatter alike.
    """

    name: str
    slowdown: Floats
    work: Floats
    gap: Floats
    scatter: Floats
    spike: Flags
    forgiven: Flags
    regime: Integers

    @property
    def counted(self) -> Flags:
        """Calls that must meet the target."""
        return ~(self.spike | self.forgiven)


def _quiet(name: str, seed: int, calls: int) -> Trace:
    generator = np.random.default_rng(seed)
    ones, no = np.ones(calls), np.zeros(calls, bool)
    return Trace(
        name,
        slowdown=ones,
        work=np.exp(generator.normal(0, _WORK_SCATTER, calls)),
        gap=np.full(calls, _PERIOD_S),
        scatter=np.exp(generator.normal(0, _SCATTER, calls)),
        spike=no,
        forgiven=no,
        regime=np.zeros(calls, np.int64),
    )


def _changed(trace: Trace, **arrays: npt.NDArray[np.generic]) -> Trace:
    return Trace(**{**vars(trace), **arrays})


def _after(steps: list[int], calls: int) -> Flags:
    flags = np.zeros(calls, bool)
    for step in steps:
        flags[step : step + FORGIVEN] = True
    return flags


def steady(seed: int, calls: int = CALLS) -> Trace:
    """Nothing happens."""
    return _quiet("steady", seed, calls)


def step(seed: int, calls: int = CALLS) -> Trace:
    """Twice as slow for the middle third, at once, and back."""
    trace, edges = _quiet("step x2 and back", seed, calls), [calls // 3, 2 * calls // 3]
    slowdown = trace.slowdown.copy()
    slowdown[edges[0] : edges[1]] = 2
    return _changed(trace, slowdown=slowdown, forgiven=_after(edges, calls))


def thermal_ramp(seed: int, calls: int = CALLS) -> Trace:
    """Slowly up to 1.8 times as slow, and slowly back half of the way."""
    trace = _quiet("thermal ramp", seed, calls)
    return _changed(trace, slowdown=np.interp(np.arange(calls) / calls, [0, 0.1, 0.6, 0.7, 1], [1, 1, 1.8, 1.8, 1.4]))


def contention(seed: int, calls: int = CALLS) -> Trace:
    """A second process takes 60% more time, on for 100 calls and off for 100, again and again."""
    trace, edges = _quiet("periodic contention", seed, calls), list(range(100, calls, 100))
    slowdown = np.where(np.arange(calls) // 100 % 2 == 1, 1.6, 1.0)
    return _changed(trace, slowdown=slowdown, forgiven=_after(edges, calls))


def time_slices(seed: int, calls: int = CALLS) -> Trace:
    """For 200 calls and again a process shares a core: calls are a quarter slower, one in seven by half as much again.

    What two busy threads on one core look like: the system lets the other one run for a slice of time or two,
    which most short calls escape.
    """
    trace, edges = _quiet("time slices", seed, calls), list(range(200, calls, 200))
    shared = np.arange(calls) // 200 % 2 == 1
    held_up = shared & (np.random.default_rng(seed + 1).random(calls) < 1 / 7)
    return _changed(
        trace,
        slowdown=np.where(shared, 1.25, 1.0),
        scatter=trace.scatter * np.where(held_up, 1.5, 1.0),
        forgiven=_after(edges, calls),
        regime=shared.astype(np.int64),
    )


def spikes(seed: int, calls: int = CALLS) -> Trace:
    """Every fiftieth call takes ten times as long."""
    trace = _quiet("2% spikes x10", seed, calls)
    return _changed(trace, spike=np.random.default_rng(seed + 1).random(calls) < 0.02)


def idle_gaps(seed: int, calls: int = CALLS) -> Trace:
    """The app pauses every 40 calls or so; clocks have dropped when it goes on."""
    trace, generator = _quiet("idle gaps", seed, calls), np.random.default_rng(seed + 1)
    starts = np.flatnonzero(generator.random(calls) < 1 / 40)
    gap, slowdown = trace.gap.copy(), trace.slowdown.copy()
    gap[starts] = generator.uniform(2, 20, len(starts))
    for start in starts:
        slowdown[start : start + len(_COLD)] = _COLD[: calls - start]
    return _changed(trace, gap=gap, slowdown=slowdown)


def workload(seed: int, calls: int = CALLS) -> Trace:
    """Inputs get a quarter harder, then much easier, at once."""
    trace, edges = _quiet("workload changes", seed, calls), [calls // 3, 2 * calls // 3]
    factor = np.repeat([1.0, 1.25, 0.8], [edges[0], edges[1] - edges[0], calls - edges[1]])
    return _changed(trace, work=trace.work * factor, forgiven=_after(edges, calls))


TRACES: tuple[Callable[[int], Trace], ...] = (
    *(steady, step, thermal_ramp, contention, time_slices, spikes, idle_gaps, workload),
)
