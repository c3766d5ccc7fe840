"""What a bundle takes on this device, over the operating points that budgets lead to.

Measured in a few seconds: the points in turn, in an order that changes from round to round, so that drift
and neighbours fall on all of them alike; then the first calls after a pause, whose clocks have dropped.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from adaptrt.runtime.control.response_curve import ResponseCurve
from adaptrt.runtime.errors import BudgetError

if TYPE_CHECKING:
    from adaptrt.runtime.control.operating_point import OperatingPoint

FORMAT_VERSION = 2
POINTS = 9
SECONDS = 3.0

_WARM = 3
_ROUNDS = (5, 60)
_PAUSE_S = 0.25
_PAUSES = 5
COLD_CALLS = 3
_NOISE_LIMITS = (0.01, 0.3)
_MOST_POINTS = 1_000
_SMALLEST, _LARGEST = 1e-6, 1e9  # ms or mJ of a call: a nanosecond to eleven days
_LARGEST_SHARE = 100.0
_SAME = 1e-3  # shares of work that cannot be told apart

Call = Callable[[float], tuple[float, float, float | None]]
"""Runs a call at a share of the dense work; gives the share done, and the milliseconds and millijoules it took."""


class ProfilePoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One operating point.

    Attributes:
        fraction: Share of the dense work that was asked for.
        done: Mean share that was done.
        quality: Expected there by calibration; None if unknown.
        median_ms: Milliseconds of half of the calls at most.
        p95_ms: Of 95% of them.
        runs: Calls measured.
        median_mj: Millijoules of half of the calls at most; None where no sensor tells.
    """

    fraction: float
    done: float
    quality: float | None
    median_ms: float
    p95_ms: float
    runs: int
    median_mj: float | None = None


class DeviceKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a profile holds for, and for nothing else.

    Attributes:
        bundle: Hash of the bundle's content.
        backend: The engine and its version.
        device: Processor and what else tells devices apart.
        power_mode: Where the device has such; None elsewhere.
        threads: That one operator may use; None leaves it to the engine.
        batch: Samples of a call.
        processors: Logical ones that the process may run on.
        quota: Processors' worth of time that its control groups grant; None without a limit.
    """

    bundle: str
    backend: str
    device: str
    power_mode: str | None
    threads: int | None
    batch: int
    processors: int
    quota: float | None


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Latency over the operating points of one bundle on one device.

    Attributes:
        key: What it holds for.
        points: From the cheapest on.
        noise: Relative scatter of single calls.
        cold: How much longer the first calls after a pause take, as a factor for each.
        seconds: That measuring took.
        format_version: Of the file.
    """

    key: DeviceKey
    points: list[ProfilePoint]
    noise: float
    cold: list[float]
    seconds: float
    format_version: int = FORMAT_VERSION

    @property
    def has_energy(self) -> bool:
        """Whether the energy of every point was measured."""
        return all(point.median_mj is not None for point in self.points)

    def curve(self) -> ResponseCurve:
        """Milliseconds over the share of work done."""
        return _curve([(point.done, point.median_ms) for point in self.points])

    def energy_curve(self) -> ResponseCurve:
        """Millijoules over the share of work done.

        Raises:
            BudgetError: they were not measured.
        """
        return _curve([(point.done, point.median_mj or 0.0) for point in self.points])

    def energy_for(self, watts: float) -> float:
        """Millijoules of the dearest point that draws no more than this while it runs; 0 if none does."""
        fits = [p.median_mj for p in self.points if p.median_mj is not None and p.median_mj / p.median_ms <= watts]
        return max(fits, default=0.0)


def check_profile(profile: Profile) -> None:
    """Check every number of a profile that comes from a file, so that none of them surprises a later call.

    Raises:
        BudgetError: Names the first that cannot have been measured.
    """
    key = profile.key
    _expect(1 <= key.batch <= 2**31, f"a batch of {key.batch}", "at least 1 sample")
    _expect(key.threads is None or 1 <= key.threads <= 2**16, f"{key.threads} threads", "at least 1")
    _expect(1 <= key.processors <= 2**20, f"{key.processors} processors", "at least 1")
    _expect(key.quota is None or 0 < key.quota <= 2**20, f"a quota of {key.quota}", "above 0")
    _expect(0 < len(profile.points) <= _MOST_POINTS, f"{len(profile.points)} points", f"1 to {_MOST_POINTS}")
    low, high = _NOISE_LIMITS
    _expect(low <= profile.noise <= high, f"noise {profile.noise}", f"{low} to {high}")
    _expect(len(profile.cold) == COLD_CALLS, f"{len(profile.cold)} factors of first calls", f"{COLD_CALLS}")
    for factor in profile.cold:
        _expect(1 <= factor <= _LARGEST, f"a factor of {factor} for a first call", f"1 to {_LARGEST:g}")
    _expect(0 <= profile.seconds < math.inf, f"{profile.seconds} s of measuring", "0 or more")
    for point in profile.points:
        for name, share in (("fraction", point.fraction), ("done", point.done)):
            _expect(0 < share <= _LARGEST_SHARE, f"{name} {share}", f"above 0, at most {_LARGEST_SHARE:g}")
        for name in ("median_ms", "p95_ms", "median_mj"):
            measured = getattr(point, name)
            fine = measured is None or _SMALLEST <= measured <= _LARGEST
            _expect(fine, f"{name} {measured}", f"{_SMALLEST:g} to {_LARGEST:g}")
        _expect(point.runs >= 1, f"{point.runs} runs", "at least 1")
        _expect(point.quality is None or math.isfinite(point.quality), f"quality {point.quality}", "a finite number")
    profile.curve()
    if profile.has_energy:
        profile.energy_curve()


def _expect(fine: bool, got: str, expected: str) -> None:
    if not fine:
        raise BudgetError(f"got a profile with {got}, expected {expected}; profile again")


def _curve(pairs: Sequence[tuple[float, float]]) -> ResponseCurve:
    shares: list[float] = []
    responses: list[float] = []
    for share, response in sorted(pairs):
        if not shares or share > shares[-1] + _SAME:
            shares.append(share)
            responses.append(response)
    return ResponseCurve(tuple(shares), tuple(responses))


def profiled_shares(cheapest: float, full: float, count: int = POINTS) -> list[float]:
    """Shares of the dense work to measure at, evenly from the cheapest calibrated point to everything."""
    if full - cheapest < _SAME:
        return [full]
    return [cheapest + (full - cheapest) * step / (count - 1) for step in range(count)]


def measure_profile(
    call: Call,
    points: Sequence[tuple[float, OperatingPoint]],
    key: DeviceKey,
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    seconds: float = SECONDS,
    progress: Callable[[float], None] = lambda _share: None,
) -> Profile:
    """Measure a profile.

    Args:
        call: What is measured.
        points: Shares of work to ask for, ascending, with what calibration expects there.
        key: What the profile will hold for.
        clock: Seconds, monotonic.
        sleep: Waits so many seconds.
        seconds: To spend on the steady part, about; every point is run five times at least.
        progress: Told the share that is done.

    Raises:
        BudgetError: There are no points, or the clock does not advance.
    """
    if not points:
        raise BudgetError("got no operating points to profile, expected a calibrated bundle; run `adaptrt calibrate`")
    begin = clock()
    progress(0.0)
    shares = [share for share, _ in points]
    for share in (*reversed(shares), *[shares[-1]] * _WARM):
        call(share)
    times: list[list[float]] = [[] for _ in shares]
    energies: list[list[float]] = [[] for _ in shares]
    done: list[list[float]] = [[] for _ in shares]
    order, generator, steady = list(range(len(shares))), random.Random(0), clock()
    least, most = _ROUNDS
    for round_number in range(most):
        generator.shuffle(order)
        for index in order:
            share_done, milliseconds, millijoules = call(shares[index])
            done[index].append(share_done)
            times[index].append(milliseconds)
            if millijoules is not None and millijoules > 0:
                energies[index].append(millijoules)
        progress(min((clock() - steady) / max(seconds, 1e-9), 1.0) * 0.8)
        if round_number + 1 >= least and clock() - steady > seconds:
            break
    medians = [float(np.median(one)) for one in times]
    if not all(math.isfinite(median) and median > 0 for median in medians):
        raise BudgetError(f"got calls that took {medians} ms, expected times above 0; check the clock, profile again")
    cold = _measure_cold(call, shares[-1], medians[-1], sleep, lambda share: progress(0.8 + 0.2 * share))
    scatter = [np.quantile(np.array(one) / median, 0.84) - 1 for one, median in zip(times, medians, strict=True)]
    low, high = _NOISE_LIMITS
    return Profile(
        key,
        [
            ProfilePoint(
                share,
                float(np.mean(done[index])),
                point.quality,
                medians[index],
                float(np.quantile(times[index], 0.95)),
                len(times[index]),
                float(np.median(energies[index])) if len(energies[index]) >= least else None,
            )
            for index, (share, point) in enumerate(points)
        ],
        noise=float(min(max(np.median(scatter), low), high)),
        cold=cold,
        seconds=clock() - begin,
    )


def _measure_cold(
    call: Call, share: float, median: float, sleep: Callable[[float], None], progress: Callable[[float], None]
) -> list[float]:
    """Factors of the first calls after a pause, everything running."""
    factors: list[list[float]] = []
    for pause in range(_PAUSES):
        sleep(_PAUSE_S)
        factors.append([call(share)[1] / median for _ in range(COLD_CALLS)])
        progress((pause + 1) / _PAUSES)
    return [float(max(factor, 1.0)) for factor in np.median(np.array(factors), axis=0)]
