"""Budgets in milliseconds, from profile to controller, for one model and all of its threads.

The model's own budget has one controller, which all calls without a budget of their own share and teach. A
call with its own budget is answered from the profile and what calls of its batch size took, and teaches nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from adaptrt.runtime.budget import Budget
from adaptrt.runtime.control.controller import Choice, LatencyController
from adaptrt.runtime.control.profile import Profile
from adaptrt.runtime.control.response_curve import ResponseCurve
from adaptrt.runtime.plan import Plan, Planner

Array = np.ndarray[Any, Any]
Inputs = Mapping[str, Array]
Profiler = Callable[[Inputs, int], Profile]
"""Gives the profile for some inputs, of so many samples: from the cache, or measured now."""

_FACTOR_CALLS = 16
"""Calls of a batch size without a profile that its factor is learned from; later ones are the device's."""


@dataclass(frozen=True)
class Ticket:
    """One call under a budget that depends on the device.

    Attributes:
        plan: What to run.
        expected_ms: Milliseconds that half of such calls stay under.
        choice: The controller's, to be observed; None for a call with its own budget.
        batch: Samples.
        scale: What the batch takes over the profiled one, as assumed.
        controller: Whose choice it is.
    """

    plan: Plan
    expected_ms: float
    choice: Choice | None
    batch: int
    scale: float
    controller: LatencyController | None


class PhysicalBudgets:
    """Latency budgets of one model; any number of threads may use it.

    Args:
        planner: Makes plans from shares of work.
    """

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._lock = threading.Lock()
        self._profiling = threading.Lock()
        self._profile: Profile | None = None
        self._curve: ResponseCurve | None = None
        self._controller: LatencyController | None = None
        self._factors: dict[int, tuple[float, int]] = {}

    @property
    def profile(self) -> Profile | None:
        """The profile in use; None before the first call under a latency budget."""
        return self._profile

    def use(self, profile: Profile) -> None:
        """Work with this profile from now on; the controller starts anew with it."""
        with self._lock:
            self._profile, self._curve, self._controller = profile, profile.curve(), None
            self._factors.clear()

    def reset(self) -> None:
        """The model's own budget was changed: its controller starts anew."""
        with self._lock:
            self._controller = None

    def begin(self, budget: Budget, inputs: Inputs, batch: int, now: float, *, own: bool, profiler: Profiler) -> Ticket:
        """Choose what a call runs.

        Args:
            budget: A latency budget.
            inputs: Of the call: what is profiled, if nothing is yet.
            batch: Samples in it, at least one.
            now: Seconds, monotonic.
            own: Whether the budget is the call's own, not the model's.
            profiler: Asked once, by the first call under a latency budget.

        Raises:
            BudgetError: The bundle has no curve.
            BackendError: The engine failed while it was profiled.
        """
        profile, curve = self._ready(inputs, batch, profiler)
        scale = self._scale(profile, batch)
        if own:
            return self._from_profile(budget, profile, curve, batch, scale)
        with self._lock:
            controller = self._controller
            if controller is None or controller.target != budget.value:
                controller = self._controller = LatencyController(
                    budget.value,
                    curve,
                    percentile=budget.percentile,
                    noise=profile.noise,
                    cold=tuple(profile.cold),
                    limits=self._planner.shares,
                )
            choice = controller.choose(now, scale)
        plan = self._plan(budget, choice.fraction, choice.upper, choice.reachable)
        return Ticket(plan, choice.expected, choice, batch, scale, controller)

    def end(self, ticket: Ticket, done: float, milliseconds: float, now: float) -> None:
        """Take in what a call took, and the share of work it did."""
        if ticket.choice is None or ticket.controller is None:
            return
        with self._lock:
            if not self._learn_factor(ticket, milliseconds):
                ticket.controller.observe(now, ticket.choice, done, milliseconds, ticket.scale)

    def _ready(self, inputs: Inputs, batch: int, profiler: Profiler) -> tuple[Profile, ResponseCurve]:
        profile, curve = self._profile, self._curve
        if profile is None or curve is None:
            with self._profiling:  # other threads wait for the first one's
                if self._profile is None:
                    self.use(profiler(inputs, batch))
            profile, curve = self._profile, self._curve
            assert profile is not None and curve is not None
        return profile, curve

    def _scale(self, profile: Profile, batch: int) -> float:
        """Work grows with the batch; a factor per batch size makes up for what does not."""
        return batch / profile.key.batch * self._factors.get(batch, (1.0, 0))[0]

    def _learn_factor(self, ticket: Ticket, milliseconds: float) -> bool:
        """Learn what a batch size without a profile takes; whether the call was used up by that."""
        assert self._profile is not None
        if ticket.batch == self._profile.key.batch or not 0 < milliseconds < float("inf"):
            return False
        factor, calls = self._factors.get(ticket.batch, (1.0, 0))
        if calls >= _FACTOR_CALLS:
            return False
        seen = factor * min(max(milliseconds / ticket.expected_ms, 0.2), 5.0)
        self._factors[ticket.batch] = factor + (seen - factor) / (calls + 1), calls + 1
        return True

    def _from_profile(self, budget: Budget, profile: Profile, curve: ResponseCurve, batch: int, scale: float) -> Ticket:
        margin = NormalDist(1.0, profile.noise).inv_cdf(budget.percentile)
        allowed = budget.value / (margin * scale)
        cheapest, full = self._planner.shares
        fraction = min(max(curve.fraction_for(allowed), cheapest), full)
        expected = curve.at(fraction) * scale
        plan = self._plan(budget, fraction, expected * margin, allowed >= curve.at(cheapest))
        return Ticket(plan, expected, None, batch, scale, None)

    def _plan(self, budget: Budget, fraction: float, upper_ms: float, reachable: bool) -> Plan:
        message = None
        if not reachable:
            message = (
                f"got a budget of {budget}, but the cheapest calibrated point is expected to take up to "
                f"{upper_ms:.4g} ms now; ran that one"
            )
        return self._planner.for_fraction(fraction, budget, reachable=reachable, message=message)
