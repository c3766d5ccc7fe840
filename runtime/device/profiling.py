"""Profiles of one model on this device: measured through its own calls, kept, and found again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter, sleep

import numpy as np

from adaptrt.runtime.bundle.schema import Bundle, KnobValue
from adaptrt.runtime.control.budget import Budget
from adaptrt.runtime.device.call_energy import CallEnergy
from adaptrt.runtime.device.processors import granted_processors
from adaptrt.runtime.device.profile import SECONDS, DeviceKey, Profile, measure_profile, profiled_shares
from adaptrt.runtime.device.profile_cache import describe_device, hash_bundle
from adaptrt.runtime.errors import BudgetError
from adaptrt.runtime.plan import Planner
from adaptrt.runtime.result import Result
from adaptrt.runtime.telemetry import Telemetry

RunAt = Callable[[Mapping[str, KnobValue]], Result]
"""Runs the batch that is profiled at knob values."""


def device_key(
    bundle: Bundle, engine_version: str, threads: int | None, batch: int, sensors: Telemetry | None
) -> DeviceKey:
    """What a profile measured now holds for.

    Args:
        bundle: that is profiled.
        engine_version: of its backend.
        threads: that one operator may use.
        batch: samples of a call.
        sensors: that tell the power mode; None asks once: those that nobody wants are not read at every call.
    """
    if sensors is not None:
        mode = sensors.read(perf_counter()).power_mode
    else:
        with Telemetry.find() as telemetry:
            mode = telemetry.read(perf_counter()).power_mode
    granted = granted_processors()
    return DeviceKey(
        bundle=hash_bundle(bundle),
        backend=engine_version,
        device=describe_device(),
        power_mode=None if mode is None else mode.name or str(mode.number),
        threads=threads,
        batch=batch,
        processors=granted.usable,
        quota=granted.quota,
    )


def measure(
    run: RunAt,
    planner: Planner,
    key: DeviceKey,
    *,
    meter: CallEnergy | None,
    seconds: float | None,
    progress: Callable[[float], None],
) -> Profile:
    """Measure a profile.

    Args:
        run: runs the batch.
        planner: of the bundle.
        key: what the profile will hold for.
        meter: tells the energy of calls; None leaves it out.
        seconds: to measure for, about; None takes ``SECONDS``.
        progress: told the share that is done.

    Raises:
        BudgetError: the bundle has no curve, or the sensors tell no energy of single calls.
        BackendError: an engine failed.
    """
    cheapest, full = planner.shares

    def call(share: float) -> tuple[float, float, float | None]:
        begun = perf_counter()
        if meter is not None:
            meter.begin(begun)
        result = run(knobs[share])
        spent = None if meter is None else meter.millijoules(begun, perf_counter())
        return float(np.mean(result.macs_fraction)), result.latency_ms, spent

    points = [(share, planner.for_budget(Budget.fraction(share)).point) for share in profiled_shares(cheapest, full)]
    knobs = {share: point.knobs for share, point in points}
    profile = measure_profile(
        call,
        points,
        key,
        clock=perf_counter,
        sleep=sleep,
        seconds=SECONDS if seconds is None else seconds,
        progress=progress,
    )
    if meter is not None and not profile.has_energy:
        raise BudgetError(
            "got no energy of single calls from the sensors of this device, expected them; use Budget.latency"
        )
    return profile
