"""What a call needs to know of its budget, worked out once per budget and shared by all threads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from adaptrt.runtime.budget import Budget
from adaptrt.runtime.bundle_schema import Bundle
from adaptrt.runtime.errors import BudgetError
from adaptrt.runtime.inputs import knob_arrays
from adaptrt.runtime.operating_point import BudgetSolver, OperatingPoint

_PLANS_KEPT = 256
"""Enough for every budget an app switches between; a controller that never repeats one stays bounded."""


@dataclass(frozen=True)
class Plan:
    """One budget's operating point as arrays to feed; never changed once made.

    Attributes:
        budget: that was asked for; None where knob values were.
        point: what to run.
        feeds: a read-only array for every knob.
        message: for the caller, where the budget cannot be met.
    """

    budget: Budget | None
    point: OperatingPoint
    feeds: dict[str, np.ndarray[Any, Any]]
    message: str | None


class Planner:
    """Makes plans for one bundle, and keeps the latest."""

    def __init__(self, bundle: Bundle) -> None:
        self._knobs = bundle.knobs
        self._solver = BudgetSolver(bundle)
        self._cached = lru_cache(maxsize=_PLANS_KEPT)(self._solve)

    def for_budget(self, budget: Budget) -> Plan:
        """The plan that obeys a budget.

        Raises:
            BudgetError: it is no ``Budget``, or the bundle has no curve to solve it with.
        """
        if not isinstance(budget, Budget):
            raise BudgetError(
                f"got a budget of {budget!r}, expected a Budget; pass Budget.fraction(0.5), Budget.macs(2e9) "
                "or Budget.full()"
            )
        return self._cached(budget)

    def for_knobs(self, knobs: Mapping[str, float], budget: Budget | None) -> Plan:
        """The plan that feeds given values; knobs that are not named stand at their defaults.

        Raises:
            InputError: an unknown knob, or a value that it does not take.
            BudgetError: a budget is given as well.
        """
        if budget is not None:
            raise BudgetError(f"got both a budget ({budget}) and knobs, expected one of them; leave one out")
        feeds = knob_arrays(self._knobs, knobs)
        values = {knob.name: float(knobs.get(knob.name, knob.default)) for knob in self._knobs}
        return Plan(None, OperatingPoint(values, math.nan, None), feeds, None)

    def _solve(self, budget: Budget) -> Plan:
        point = self._solver.solve(budget)
        message = None
        if not point.reachable:
            message = (
                f"got a budget of {budget}, but the cheapest calibrated point takes "
                f"{point.macs_fraction:.4g} of the dense work; ran that one"
            )
        return Plan(budget, point, knob_arrays(self._knobs, point.knobs), message)
