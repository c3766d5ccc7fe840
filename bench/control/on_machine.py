"""A latency target on this machine, while another process takes a core and gives it back.

Three runs of the same phases: everything always, the point that the profile chooses, and the controller.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from adaptrt.bench.control.contention import Contention
from adaptrt.bench.control.traces import FORGIVEN
from adaptrt.runtime import AdaptiveModel, Budget, load
from adaptrt.runtime.bundle.schema import Bundle, CurvePoint, Dense, Knob
from adaptrt.runtime.device.device_budgets import DeviceBudgets
from adaptrt.runtime.device.profile import DeviceKey, Profile, ProfilePoint
from adaptrt.runtime.plan import Planner

PHASES = (False, True, False, True, False)
LIMIT = 1.10
_SHARE = 1.5  # of the time that everything takes undisturbed: the target; the other process takes half of two cores

Inputs = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Phase:
    """One way of choosing in one phase, the first calls after the switch left out.

    Attributes:
        rival: Who chose.
        contended: Whether the other process ran.
        calls: Counted.
        p95_over_target: What 95% of them stayed under, over the target.
        median_over_target: Of half of them.
        missed: Share over the target.
        quality: Mean expected quality; None where the bundle has none.
        macs_fraction: Mean share of the dense work.
    """

    rival: str
    contended: bool
    calls: int
    p95_over_target: float
    median_over_target: float
    missed: float
    quality: float | None
    macs_fraction: float


@dataclass(frozen=True)
class MachineRun:
    """All phases of all ways of choosing, and every call's milliseconds, share of work and phase, for a picture."""

    bundle: str
    target_ms: float
    threads: int
    limit: float
    phases: list[Phase]
    calls: dict[str, dict[str, list[float]]]


def measure_on_machine(
    folder: Path,
    inputs: Inputs,
    *,
    seconds: float,
    threads: int,
    progress: Callable[[str, float], None],
) -> MachineRun:
    """Run all phases.

    Args:
        folder: A calibrated bundle.
        inputs: A batch for it.
        seconds: Of each phase.
        threads: That one operator may use.
        progress: Told what runs and its share.
    """
    model = load(folder, threads=threads)
    profile = model.profile(inputs)
    target = _SHARE * profile.points[-1].median_ms
    fixed = _fitting(profile, target)
    ways = {
        "no control": Budget.full(),
        "fixed point": Budget.fraction(fixed),
        "controller": Budget.latency(target),
    }
    phases, calls = [], {}
    core = sorted(os.sched_getaffinity(0))[-1] if hasattr(os, "sched_getaffinity") else 0
    with Contention(core) as other:
        for rival, budget in ways.items():
            model.budget = budget
            series: dict[str, list[float]] = {"milliseconds": [], "macs_fraction": [], "contended": []}
            for index, contended in enumerate(PHASES):
                other.switch(contended)
                times, shares = _run(model, inputs, seconds)
                series["milliseconds"] += times
                series["macs_fraction"] += shares
                series["contended"] += [float(contended)] * len(times)
                counted = np.array(times[FORGIVEN:])
                phases.append(
                    Phase(
                        rival,
                        contended,
                        len(counted),
                        float(np.quantile(counted, 0.95)) / target,
                        float(np.median(counted)) / target,
                        float((counted > target).mean()),
                        _expected_quality(model.bundle, shares[FORGIVEN:]),
                        float(np.mean(shares[FORGIVEN:])),
                    )
                )
                progress(rival, (index + 1) / len(PHASES))
            calls[rival] = series
    return MachineRun(model.bundle.name, target, threads, LIMIT, phases, calls)


def controller_cost(seed: int = 0) -> float:
    """Microseconds that a latency budget adds to a call: choosing, making the plan, learning; median of 20 x 200."""
    budgets = DeviceBudgets(Planner(_example()))
    generator = np.random.default_rng(seed)
    points = [ProfilePoint(share, share, 0.9, 1 + 9 * share, 11.0, 60) for share in np.linspace(0.3, 1.0, 9).tolist()]
    budgets.use(Profile(DeviceKey("", "", "", None, 1, 1, 1, None), points, 0.05, [1.0, 1.0, 1.0], 1.0))
    budget, scatter = Budget.latency(7.0), np.exp(generator.normal(0, 0.04, 200)).tolist()
    microseconds, now = [], 0.0
    for _ in range(21):
        begun = perf_counter()
        for factor in scatter:
            ticket = budgets.begin(budget, 1, now, for_call=False, profiler=_unasked)
            now += 0.01
            budgets.end(ticket, ticket.plan.point.macs_fraction, ticket.expected * factor, now)
        microseconds.append((perf_counter() - begun) / len(scatter) * 1e6)
    return float(np.median(microseconds[1:]))


def _unasked(batch: int, energy: bool) -> Profile:
    raise AssertionError(f"asked for a profile of batch {batch}, energy {energy}, though there is one")


def _example() -> Bundle:
    """A bundle of one price with a calibrated curve, no files behind it."""
    shares = np.linspace(0.3, 1.0, 12).tolist()
    knob = Knob("price", "float32", [1], 0.0, 1.0, 0.0)
    curve = [CurvePoint({"price": float((1.0 - s) / 0.7)}, macs_fraction=s, quality=0.9, frontier=True) for s in shares]
    return Bundle(
        format_version=1,
        name="example",
        producer="bench",
        inputs=[],
        outputs=[],
        stages=[],
        knobs=[knob],
        dense=Dense(macs=1, parameters=1),
        curve=curve,
    )


def _fitting(profile: Profile, target: float) -> float:
    """The largest share whose 95th percentile fits by the profile."""
    fits = [point.fraction for point in profile.points if point.p95_ms <= target]
    return max(fits, default=profile.points[0].fraction)


def _run(model: AdaptiveModel, batch: Inputs, seconds: float) -> tuple[list[float], list[float]]:
    """Milliseconds and shares of work of as many calls as the time allows."""
    times: list[float] = []
    shares: list[float] = []
    end = perf_counter() + seconds
    while perf_counter() < end or len(times) <= 2 * FORGIVEN:
        result = model.run(batch)
        times.append(result.latency_ms)
        shares.append(float(result.macs_fraction.mean()))
    return times, shares


def _expected_quality(bundle: Bundle, shares: Sequence[float]) -> float | None:
    """Mean quality that the curve lets expect of these shares of work; None where it has none."""
    known = sorted((point.macs_fraction, point.quality) for point in bundle.curve if point.quality is not None)
    if not known:
        return None
    return float(np.interp(shares, [share for share, _ in known], [quality for _, quality in known]).mean())
