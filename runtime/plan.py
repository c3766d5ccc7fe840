"""What a call needs to know of its budget, worked out once per budget and shared by all threads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from adaptrt.runtime.bundle.schema import THRESHOLDS_KNOB, Bundle, Knob, KnobValue
from adaptrt.runtime.control.budget import Budget
from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS, WORK
from adaptrt.runtime.control.chains import OperatingPoint
from adaptrt.runtime.control.operating_point import BudgetSolver
from adaptrt.runtime.errors import BudgetError
from adaptrt.runtime.inputs import knob_arrays
from adaptrt.runtime.table import either

_PLANS_KEPT = 512
"""Enough for every budget an app switches between; a controller that never repeats one stays bounded."""


@dataclass(frozen=True)
class Plan:
    """One budget's operating point as arrays to feed; never changed once made.

    Attributes:
        budget: that was asked for; None where knob values were.
        point: what to run.
        feeds: a read-only array for every knob that is a graph input.
        thresholds: for each stage but the last the confidence above which a sample leaves, exactly the
            float32; infinity where none does.
        message: for the caller, where the budget cannot be met.
        lists: whether some knob's value is a list, which a copy of ``point.knobs`` would share.
        checked: whether its calls are to take the expected work on average: a soft budget of work, calibrated.
        physical: whether the budget depends on the device, which then chooses the plan of each call.
        everything: whether every knob stands at its default and nobody leaves early.
    """

    budget: Budget | None
    point: OperatingPoint
    feeds: dict[str, np.ndarray[Any, Any]]
    thresholds: tuple[float, ...]
    message: str | None
    lists: bool
    checked: bool
    physical: bool = False
    everything: bool = False


class Planner:
    """Makes plans for one bundle, and keeps the latest."""

    def __init__(self, bundle: Bundle) -> None:
        self._knobs = bundle.knobs
        self._solver = BudgetSolver(bundle)
        self._cached = lru_cache(maxsize=_PLANS_KEPT)(self._solve)
        self._cached_fractions = lru_cache(maxsize=_PLANS_KEPT)(self._for_fraction)
        self._everything = self._solver.solve(Budget.full()).macs_fraction

    def for_budget(self, budget: Budget) -> Plan:
        """The plan that obeys a budget; of one that depends on the device what stands for it until a call: everything.

        Raises:
            BudgetError: it is no ``Budget``, or the bundle has no curve to solve it with.
        """
        if not isinstance(budget, Budget):
            raise BudgetError(
                f"got a budget of {budget!r}, expected a Budget; pass "
                + either(kind.call for kind in BUDGET_KINDS.values())
            )
        return self._cached(budget)

    @property
    def shares(self) -> tuple[float, float]:
        """The shares of the dense work between which budgets choose: the cheapest point's and everything's.

        Raises:
            BudgetError: the bundle has no curve.
        """
        cheapest = self._cached(Budget.fraction(0.0)).point.macs_fraction
        return cheapest, max(cheapest, self._cached(Budget.full()).point.macs_fraction)

    def for_fraction(self, fraction: float, budget: Budget, *, reachable: bool, message: str | None) -> Plan:
        """The plan that runs a share of the dense work for the sake of another kind of budget.

        Raises:
            BudgetError: the bundle has no curve.
        """
        if message is None and reachable:
            return self._cached_fractions(fraction, budget)  # a controller's choices lie on a grid
        plan = self._for_fraction(fraction, budget)
        return replace(plan, point=replace(plan.point, reachable=reachable), message=message)

    def _for_fraction(self, fraction: float, budget: Budget) -> Plan:
        plan = self._cached(Budget.full() if fraction >= self._everything else Budget.fraction(fraction))
        point, physical = replace(plan.point, reachable=True), BUDGET_KINDS[budget.kind].meter.physical
        return replace(plan, budget=budget, point=point, message=None, checked=False, physical=physical)

    def for_knobs(self, knobs: Mapping[str, KnobValue], budget: Budget | None) -> Plan:
        """The plan that feeds given values; knobs that are not named stand at their defaults.

        Raises:
            InputError: an unknown knob, or a value that it does not take.
            BudgetError: a budget is given as well.
        """
        if budget is not None:
            raise BudgetError(f"got both a budget ({budget}) and knobs, expected one of them; leave one out")
        arrays = knob_arrays(self._knobs, knobs)
        values = {knob.name: _plain(knobs.get(knob.name, knob.default)) for knob in self._knobs}
        return self._plan(None, OperatingPoint(values, math.nan, None), arrays, None)

    def _solve(self, budget: Budget) -> Plan:
        if BUDGET_KINDS[budget.kind].meter.physical:
            _, full = self.shares
            return self._for_fraction(full, budget)
        point = self._solver.solve(budget)
        message = None
        if not point.reachable:
            message = (
                f"got a budget of {budget}, but the cheapest calibrated point takes "
                f"{point.macs_fraction:.4g} of the dense work; ran that one"
            )
        return self._plan(budget, point, knob_arrays(self._knobs, point.knobs), message)

    def _plan(
        self,
        budget: Budget | None,
        point: OperatingPoint,
        arrays: dict[str, np.ndarray[Any, Any]],
        message: str | None,
    ) -> Plan:
        thresholds = tuple(arrays.pop(THRESHOLDS_KNOB).tolist() if THRESHOLDS_KNOB in arrays else ())
        lists = any(isinstance(value, list) for value in point.knobs.values())
        soft = budget is not None and BUDGET_KINDS[budget.kind].meter is WORK and not budget.hard
        checked = soft and math.isfinite(point.macs_fraction)
        everything = runs_everything(self._knobs, point.knobs)
        return Plan(budget, point, arrays, thresholds, message, lists, checked, everything=everything)


def runs_everything(knobs: Sequence[Knob], values: Mapping[str, Any]) -> bool:
    """Whether all values are the knobs' defaults, at which nothing is left out and nobody leaves early.

    Args:
        knobs: of the bundle.
        values: a number, or one for each element; knobs that are not named stand at their defaults.
    """
    return all(np.all(np.asarray(values.get(knob.name, knob.default)) == knob.default) for knob in knobs)


def _plain(value: KnobValue | tuple[float, ...] | np.ndarray[Any, Any]) -> KnobValue:
    """A checked value as the result reports it."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [float(number) for number in value]
    return float(value)
