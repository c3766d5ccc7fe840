"""From a budget to knob values.

Calibration measured the share of work and the quality at a number of points. Those of one *setting* form
a chain along which everything is interpolated (``chains``): points whose setting has a name in the order
of the curve, those without a name by falling price, where they agree in all other knobs. Nothing is
interpolated across settings: each answers the budget, and the best answer is taken. Points that were
sampled without an order answer for themselves alone.

Hard points (the same work for every input) answer hard budgets, and soft points soft ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from adaptrt.runtime.bundle.schema import PRICE_KNOB, SNAPPING_SETTING, Bundle, CurvePoint, Knob
from adaptrt.runtime.control.budget import Budget
from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS, NOTHING
from adaptrt.runtime.control.chains import (
    Calibrated,
    Canonical,
    Chain,
    Node,
    OperatingPoint,
    Snaps,
    Solution,
    by_price,
    canonical,
    cheapest_of,
)
from adaptrt.runtime.errors import BudgetError

__all__ = ["BudgetSolver", "OperatingPoint"]


class BudgetSolver:
    """Solves budgets for one bundle; immutable, so any number of threads may ask it.

    The expected share never exceeds a reachable budget, never falls when the budget grows, and at a
    measured point of a chain whose quality rises is that point. No calibrated point with the same or less
    work is better than the one chosen, by quality less its standard error.

    Attributes:
        everything: what ``Budget.full()`` runs.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._dense_macs = bundle.dense.macs
        self._name = bundle.name
        points = [(point, Node.of(point, bundle.knobs)) for point in bundle.curve]
        self._soft = _calibrated([pair for pair in points if not pair[0].hard], bundle.knobs)
        self._hard = _calibrated([pair for pair in points if pair[0].hard], bundle.knobs)
        self.everything = _everything([node for _, node in points], bundle.knobs)

    def solve(self, budget: Budget) -> OperatingPoint:
        """The operating point to run under a budget.

        A budget below the cheapest point gives the cheapest, with ``reachable`` False.

        Raises:
            BudgetError: the bundle has no points of the budget's kind, and it is not ``Budget.full()``.
        """
        kind = BUDGET_KINDS[budget.kind]
        if kind.meter is NOTHING:
            return self.everything
        if not self.calibrated(hard=budget.hard):
            raise self._uncalibrated(budget)
        target = kind.share(budget.value, self._dense_macs)
        solution = self.solution(target, hard=budget.hard)
        return self.cheapest(hard=budget.hard) if solution is None else solution.point

    def calibrated(self, *, hard: bool) -> list[Calibrated]:
        """The points that answer hard budgets, or soft ones, by what belongs together."""
        return self._hard if hard else self._soft

    def solution(self, target: float, *, hard: bool) -> Solution | None:
        """The best of all whose expected share is at most ``target``; None: there is none."""
        solutions = [answer for chain in self.calibrated(hard=hard) if (answer := chain.solve(target)) is not None]
        return max(solutions, key=lambda solution: solution.rank, default=None)

    def cheapest(self, *, hard: bool) -> OperatingPoint:
        """What is run where the budget is below every point."""
        return cheapest_of(chain.cheapest for chain in self.calibrated(hard=hard)).point(reachable=False)

    def _uncalibrated(self, budget: Budget) -> BudgetError:
        got = f"got a budget of {budget}, but bundle {self._name!r} has"
        if budget.hard:
            return BudgetError(
                f"{got} no calibrated point at which every sample takes the same work; export the model with its "
                "`capacity` (and `keep`) knobs and calibrate it for hard budgets, or ask for a soft one, without hard"
            )
        if self._hard:
            return BudgetError(f"{got} points for hard budgets only; pass hard=True, calibrate it anew, or pass knobs")
        return BudgetError(
            f"{got} no calibrated curve; run `adaptrt calibrate` on it, use Budget.full(), or pass knobs"
        )


def _calibrated(points: Sequence[tuple[CurvePoint, Node]], knobs: Sequence[Knob]) -> list[Calibrated]:
    named: dict[str, list[Node]] = {}
    unnamed: dict[tuple[Canonical, ...], list[Node]] = {}
    alone: list[Node] = []
    for point, node in points:
        if point.setting.startswith(SNAPPING_SETTING):
            alone.append(node)
        elif point.setting:
            named.setdefault(point.setting, []).append(node)
        else:
            others = tuple(value for name, value in node.key.items() if name != PRICE_KNOB)
            unnamed.setdefault(others, []).append(node)
    chains: list[Calibrated] = [Chain(by_price(nodes), knobs) for nodes in unnamed.values()]
    chains += [Chain(nodes, knobs) for nodes in named.values()]
    return [*chains, Snaps(alone)] if alone else chains


def _everything(nodes: Sequence[Node], knobs: Sequence[Knob]) -> OperatingPoint:
    """All knobs at their defaults; what to expect there is measured there, or where most was run."""
    defaults = {knob.name: knob.default for knob in knobs}
    if not nodes:
        return OperatingPoint({**defaults}, math.nan, None)
    key = {knob.name: canonical(knob.default, knob) for knob in knobs}
    at_default = [node for node in nodes if node.key == key]
    node = max(at_default or nodes, key=lambda node: node.fraction)
    return OperatingPoint({**defaults}, node.fraction, node.quality)
