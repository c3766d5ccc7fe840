"""Which share of work meets a target, call after call, while the device changes.

Three things are told apart, each with a model of its own: what the device makes of the work (``DeviceModel``),
how much work the inputs take (``WorkloadModel``), and what single calls scatter (``QuantileMargin``). The
choice follows by solving them for the target. Time comes in as numbers: there is no clock inside.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from adaptrt.runtime.control.device_model import DeviceModel, Finding
from adaptrt.runtime.control.margin import QuantileMargin
from adaptrt.runtime.control.response_curve import ResponseCurve
from adaptrt.runtime.control.workload import WorkloadModel
from adaptrt.runtime.errors import BudgetError

_LARGEST_RISE = 0.1  # of the curve's width per call; falling is not limited
_DEAD_BAND = 0.01  # of the curve's width: smaller changes are noise
_GRID = 256  # choices over the curve's width: an operating point is worked out once for each
_STEPS_APART = 150  # calls: steps farther apart than that are exceptional
_KINDS = 64  # of calls that are told apart
_COLD_CALLS = 3
_COLD_MEMORY = 0.7
_COLD_JUMP = 2.5
_ODD_MEMORY = 0.98
_ODD_SHARE = 2.0  # of the misses allowed: with chance, rarer outliers stay below it
_ODD_AFTER_STEP = 5.0  # likewise, to begin with


class Choice(NamedTuple):
    """What to run next.

    Attributes:
        fraction: Share of the dense model's work to ask for.
        expected: Response that half of such calls stay under, in the target's unit.
        upper: Response that the wanted share of such calls stays under.
        reachable: False where even the cheapest point is expected to miss the target.
        cold: Which call after a pause it is, from 0; None for all later ones.
        steered: Whether it lies between the cheapest and the dearest point, so that another could be chosen.
    """

    fraction: float
    expected: float
    upper: float
    reachable: bool
    cold: int | None
    steered: bool


class LatencyController:
    """Holds a percentile of the calls' latency, or energy, under a target. Not safe to share between threads.

    Args:
        target: Milliseconds or millijoules of a call, above 0.
        curve: The profile, in the same unit.
        percentile: Share of calls that are to stay under the target.
        noise: Relative scatter of single calls in the profile.
        cold: How much longer the first calls after a pause take, as a factor for each.
        idle_after: Seconds without a call after which the next ones count as first ones.
        limits: The smallest and largest share of work to ask for; None takes the curve's ends.

    Raises:
        BudgetError: The target or the percentile is out of range.

    For every call: ``choose`` before it, ``observe`` after it. A call whose measurement is lost may be left out, and
    calls may overlap: each is observed with its own choice.
    """

    def __init__(
        self,
        target: float,
        curve: ResponseCurve,
        *,
        percentile: float = 0.95,
        noise: float = 0.05,
        cold: tuple[float, ...] = (),
        idle_after: float = 0.25,
        limits: tuple[float, float] | None = None,
    ) -> None:
        if not (math.isfinite(target) and target > 0):
            raise BudgetError(f"got a target of {target!r}, expected a finite number above 0")
        if not 0.5 <= percentile <= 0.999:
            raise BudgetError(f"got percentile={percentile!r}, expected 0.5 to 0.999, such as 0.95")
        self.target, self._curve = target, curve
        self._device = DeviceModel(curve.at(curve.full), noise)
        self._margin = QuantileMargin(percentile, noise)
        self._percentile, self._odd = percentile, 0.0
        self._workload = WorkloadModel()
        self._cold = [*cold[:_COLD_CALLS], *[1.0] * (_COLD_CALLS - len(cold))]
        self._idle_after = idle_after
        self._cheapest, self._full = limits or (curve.cheapest, curve.full)
        self._width = max(self._full - self._cheapest, 1e-9)
        self._last: dict[tuple[int | None, float], float] = {}  # share chosen last for calls of a kind
        self._ended: float | None = None
        self._since_idle, self._since_step = 0, _STEPS_APART
        self._pending: list[tuple[float, bool | None]] = []  # of outliers: over what was expected, and whether missed

    def choose(self, now: float, scale: float = 1.0) -> Choice:
        """What to ask for, in a call that begins at ``now`` (seconds of any monotonic clock).

        Args:
            now: The time.
            scale: What such a call takes over what the curve says, as for another batch size.
        """
        # Threads ask for the time before they get their turn: a little earlier is no clock that was set back.
        if self._ended is None or abs(now - self._ended) > self._idle_after:
            self._since_idle = 0
        cold = self._since_idle if self._since_idle < _COLD_CALLS else None
        curve, margin = self._curve, self._margin.factor
        goal = self.target / (margin * self._cold_factor(cold) * scale)
        wanted = curve.fraction_for(self._device.profiled_for(goal)) / self._workload.ratio
        fraction = self._moved(min(max(wanted, self._cheapest), self._full), (cold, scale))
        expected = self._median(fraction, cold) * scale
        return Choice(
            fraction,
            expected,
            expected * margin,
            self._median(self._cheapest, cold) * margin * scale <= self.target,
            cold,
            self._cheapest < fraction < self._full,
        )

    def observe(self, now: float, choice: Choice, done: float, measured: float, scale: float = 1.0) -> None:
        """Take in a call.

        Args:
            now: When it ended, on the clock of ``choose``.
            choice: What was chosen for it.
            done: The share of work that was done.
            measured: What it took, in the target's unit. What cannot be (NaN, infinite, 0 or less, as when a
                clock jumps, or numbers of other orders than the curve's) is left out.
            scale: As for ``choose``.
        """
        if self.passed(now, choice) or not self._curve.can_be(done, measured / scale):
            return
        cold, expected = choice.cold, self._median(choice.fraction, choice.cold) * scale
        if cold is not None:
            self._cold[cold] = self._learn_cold(self._cold[cold], measured / expected * self._cold[cold])
            finding = Finding.ORDINARY
        else:
            finding = self._device.observe(self._curve.at(done), measured / scale, self._odd)
        self._workload.observe(choice.fraction, done)
        self._correct_margin(finding, choice.steered, measured, expected)

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest share of work that is asked for."""
        return self._cheapest, self._full

    def forecast(self, fraction: float, scale: float = 1.0) -> tuple[float, float]:
        """What a steady call takes: the response that half of them stay under, and what the wanted share stays under.

        Args:
            fraction: The share of work to ask for.
            scale: As for ``choose``.
        """
        expected = self._median(fraction, None) * scale
        return expected, expected * self._margin.factor

    def passed(self, now: float, choice: Choice) -> bool:
        """A call ended of which nothing is to be learned but that it was; whether the clock has gone back since."""
        gone_back = self._ended is not None and now < self._ended - self._idle_after
        self._ended = now
        if choice.cold is not None and not gone_back:
            self._since_idle = max(self._since_idle, choice.cold + 1)
        return gone_back

    def _correct_margin(self, finding: Finding, steered: bool, measured: float, expected: float) -> None:
        """Outliers count once it is known that they are no step: the model answers for steps, the margin for them."""
        self._since_step += 1
        if finding is Finding.STEP:
            # A step is the model's, not the margin's. But where steps come again and again, so do their misses.
            lates = [*(late for _, late in self._pending), measured > self.target if steered else None]
            for late in lates if self._since_step < _STEPS_APART else []:
                if late is not None:
                    self._margin.correct(late)
            self._since_step = 0
            self._pending.clear()
            # How calls scatter now is not known: as the profile said, and outliers may be part of it.
            self._margin.restart()
            self._odd = max(self._odd, _ODD_AFTER_STEP * (1 - self._percentile))
            return
        self._pending.append((measured / expected, measured > self.target if steered else None))
        if finding is Finding.ORDINARY:
            for index, (ratio, missed) in enumerate(self._pending, start=1):
                odd = index < len(self._pending)  # all before the ordinary one at the end
                self._odd += (1 - _ODD_MEMORY) * (odd - self._odd)
                # As rare as misses may be, outliers are no reason to be careful; more often they are the scatter.
                if not odd or self._odd > _ODD_SHARE * (1 - self._percentile):
                    self._margin.observe(ratio)
                if missed is not None:
                    self._margin.correct(missed)
            self._pending.clear()

    def _moved(self, wanted: float, kind: tuple[int | None, float]) -> float:
        """The choice on its grid, no more than one step up, and where it was if it hardly differs.

        Calls of different batch sizes, and first ones after a pause, each move on their own: what is known to cost
        more says nothing of how fast the others may rise.
        """
        last = self._last.get(kind)
        if last is None and len(self._last) >= _KINDS:
            self._last.clear()
        if last is not None:
            if abs(wanted - last) < _DEAD_BAND * self._width:
                return last
            wanted = min(wanted, last + _LARGEST_RISE * self._width)
        chosen = self._full
        if wanted < self._full - self._width / _GRID:
            steps = math.floor((wanted - self._cheapest) / self._width * _GRID)
            chosen = self._cheapest + max(steps, 0) * self._width / _GRID
        self._last[kind] = chosen
        return chosen

    def _median(self, fraction: float, cold: int | None) -> float:
        """Expected response of a call at a share of work asked for."""
        return self._device.predict(self._curve.at(fraction * self._workload.ratio)) * self._cold_factor(cold)

    def _cold_factor(self, cold: int | None) -> float:
        return 1.0 if cold is None else self._cold[cold]

    @staticmethod
    def _learn_cold(known: float, seen: float) -> float:
        """One spike moves it by half at most."""
        return _COLD_MEMORY * known + (1 - _COLD_MEMORY) * min(max(seen, known / _COLD_JUMP), known * _COLD_JUMP)
