"""Every way of choosing against every trace, with the very same calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptrt.bench.control.on_machine import MachineRun
from adaptrt.bench.control.rivals import RIVALS
from adaptrt.bench.control.simulated_device import SimulatedDevice
from adaptrt.bench.control.traces import FORGIVEN, TRACES, Floats, Trace
from adaptrt.runtime.control.response_curve import ResponseCurve

TARGET = 9.0
PERCENTILE = 0.95
NOISE = 0.05
MISS_LIMIT, LAG_LIMIT, QUALITY_LIMIT = 0.05, FORGIVEN, 1.0
SHARES = np.linspace(0.3, 1.02, 9)
DEVICE = SimulatedDevice(ResponseCurve(tuple(SHARES.tolist()), tuple((1 + 9 * SHARES).tolist())))
_SETTLED = 0.05  # how near the percentile is to its target once a step is over


@dataclass(frozen=True)
class Run:
    """One way of choosing on one trace; arrays ``[calls]``: the share asked for and the milliseconds it took."""

    fraction: Floats
    milliseconds: Floats


@dataclass(frozen=True)
class ControlRow:
    """One way of choosing on one trace, over all seeds.

    Attributes:
        trace: What happened.
        rival: Who chose.
        missed: Share of the counted calls over the target, the mean over seeds.
        missed_worst: Of the worst seed.
        missed_all: Share of all calls over the target, spikes and steps too.
        quality: Mean expected quality, in points.
        below_oracle: Points that the oracle's is higher, of the worst seed.
        settled_after: Calls after a step from which on the percentile is within 5% of the target, or of what the
            cheapest or the dearest point gives, on average over 20 calls; for the slowest step of all; -1 where
            it never is within 60 calls; None where there is no step, or calls scatter in another way after it, which
            so few calls do not show.
    """

    trace: str
    rival: str
    missed: float
    missed_worst: float
    missed_all: float
    quality: float
    below_oracle: float
    settled_after: int | None


@dataclass(frozen=True)
class ControlResult:
    """All that the simulation found, with what it must reach, and a run on this machine if there was one.

    ``controller_us`` is what the runtime spends on a call for a latency budget's sake, in microseconds.
    """

    benchmark: str
    target_ms: float
    percentile: float
    seeds: int
    calls: int
    limits: dict[str, float]
    controller_us: float
    rows: list[ControlRow]
    on_machine: MachineRun | None
    machine: dict[str, Any]
    source: dict[str, Any]


def simulate(trace: Trace, rival: str, device: SimulatedDevice = DEVICE) -> Run:
    """Let one way of choosing run through a trace."""
    chooser = RIVALS[rival](TARGET, device.profile, PERCENTILE, NOISE)
    now, fractions, times = 0.0, [], []
    for call, (gap, work) in enumerate(zip(trace.gap, trace.work, strict=True)):
        now += float(gap)
        fraction = chooser.choose(now)
        milliseconds = device.response(trace, call, fraction)
        now += milliseconds / 1e3
        chooser.observe(now, fraction, fraction * float(work), milliseconds)
        fractions.append(fraction)
        times.append(milliseconds)
    return Run(np.array(fractions), np.array(times))


def rows_of(
    seeds: int, on_done: Callable[[], None] = lambda: None, rivals: Sequence[str] = tuple(RIVALS)
) -> list[ControlRow]:
    """Every trace with every way of choosing, over ``seeds`` draws of each."""
    rows = []
    for make in TRACES:
        traces = [make(seed) for seed in range(seeds)]
        best = [_quality(DEVICE.oracle(trace, TARGET, PERCENTILE)) for trace in traces]
        for rival in rivals:
            runs = [simulate(trace, rival) for trace in traces]
            over = [run.milliseconds > TARGET for run in runs]
            missed = [float(one[trace.counted].mean()) for one, trace in zip(over, traces, strict=True)]
            quality = [_quality(run.fraction) for run in runs]
            settled = [_settled_after(trace, run) for trace, run in zip(traces, runs, strict=True)]
            known = [calls for calls in settled if calls is not None]
            rows.append(
                ControlRow(
                    trace=traces[0].name,
                    rival=rival,
                    missed=float(np.mean(missed)),
                    missed_worst=max(missed),
                    missed_all=float(np.mean(over)),
                    quality=float(np.mean(quality)),
                    below_oracle=max(high - reached for high, reached in zip(best, quality, strict=True)),
                    settled_after=(-1 if -1 in known else max(known)) if known else None,
                )
            )
            on_done()
    return rows


def _quality(fractions: Floats) -> float:
    return float(np.mean([DEVICE.quality(fraction) for fraction in fractions]))


def _settled_after(trace: Trace, run: Run) -> int | None:
    """For the slowest step; the percentile follows from the share asked for and from what the oracle would ask for."""
    if trace.regime.any():
        return None
    level = DEVICE.oracle(trace, TARGET, PERCENTILE)
    edges = np.flatnonzero(np.diff(trace.forgiven.astype(int), prepend=0) == 1)
    settled = []
    for edge in edges:
        stop = edge + 4 * FORGIVEN
        work = trace.work[edge:stop] / trace.work[edge:stop].mean()
        wanted = np.array([DEVICE.nominal(share) for share in level[edge:stop] * work])
        chosen = np.array([DEVICE.nominal(share) for share in run.fraction[edge:stop] * work])
        ratio = np.convolve(chosen / wanted, np.full(FORGIVEN, 1 / FORGIVEN), mode="valid")
        near = np.flatnonzero(np.abs(ratio - 1) <= _SETTLED)
        settled.append(int(near[0]) if len(near) else -1)
    return (-1 if -1 in settled else max(settled)) if settled else None
