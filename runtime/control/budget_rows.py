"""The table of a bundle's budgets, at the very shares where the solver's answer changes its form.

Every answer is a point as it stands or lies on a line between two neighbours of a chain. Along such a line merit
rises or does not count, so that between two events (a point's share, or where a chain's line begins to be run or to
count) each chain's merit is constant or a straight line, and each form of answer holds over one interval: its end is
found by bisection over the floats.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from adaptrt.runtime.bundle.schema import BudgetPoint, BudgetRow, BudgetTable, Bundle
from adaptrt.runtime.control.budget_table import look_up
from adaptrt.runtime.control.chains import Calibrated, OperatingPoint, Solution, copy_knobs
from adaptrt.runtime.control.operating_point import BudgetSolver


def budget_table(bundle: Bundle) -> BudgetTable | None:
    """The table that says of every budget what ``BudgetSolver`` does; None where the bundle has no curve."""
    if not bundle.curve:
        return None
    solver = BudgetSolver(bundle)
    dtypes = {knob.name: knob.dtype for knob in bundle.knobs}
    soft, hard = (_rows(solver, hard=hard, dtypes=dtypes) for hard in (False, True))
    return BudgetTable(soft, hard, _point(solver.everything))


def _rows(solver: BudgetSolver, *, hard: bool, dtypes: dict[str, str]) -> list[BudgetRow]:
    chains = solver.calibrated(hard=hard)
    if not chains:
        return []
    least = min(chain.cheapest.fraction for chain in chains)
    rows = [] if least <= 0 else [_row(0.0, Solution(solver.cheapest(hard=hard), -math.inf))]
    for share, solution in _changes(solver, chains, hard=hard):
        row = _row(share, solution)
        if rows and _says_the_same(rows[-1], row, dtypes):
            row = BudgetRow(rows.pop().fraction, row.work, row.quality, row.knobs, row.to)
        rows.append(row)
    return rows


def _changes(solver: BudgetSolver, chains: Sequence[Calibrated], *, hard: bool) -> Iterator[tuple[float, Solution]]:
    """Where another form of answer begins, and the answer there."""

    def form(share: float) -> Solution:
        solution = solver.solution(share, hard=hard)
        assert solution is not None  # there is one from the cheapest share on
        return solution

    events = sorted({event for chain in chains for event in _events(chain)})
    for begin, end in pairwise([*events, math.inf]):
        share = begin
        while True:
            solution = form(share)
            yield share, solution
            last = share if end == math.inf else math.nextafter(end, 0.0)
            if share >= last or _alike(form(last), solution):
                break
            share = _first(_differs(form, solution), share, last)


def _events(chain: Calibrated) -> Iterator[float]:
    """Shares between which a chain gives one form of answer, whose merit is one straight line."""
    yield from chain.shares
    for begin, end in pairwise(sorted(set(chain.shares))):
        last = math.nextafter(end, 0.0)
        first, final = chain.solve(begin), chain.solve(last)
        if first is None or final is None or begin >= last:
            continue
        if not _alike(first, final):
            yield _first(_differs(chain.solve, first), begin, last)
        if final.merit != first.merit:
            yield _first(_gains(chain.solve, first), begin, last)


def _differs(solve: Callable[[float], Solution | None], known: Solution) -> Callable[[float], bool]:
    return lambda share: not _alike(solve(share), known)


def _gains(solve: Callable[[float], Solution | None], known: Solution) -> Callable[[float], bool]:
    def gains(share: float) -> bool:
        solution = solve(share)
        return solution is not None and solution.merit != known.merit

    return gains


def _first(changed: Callable[[float], bool], same: float, other: float) -> float:
    """The smallest float between two at which something has changed: not yet at the one, but at the other."""
    low, high = _bits(same), _bits(other)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if changed(_float(middle)) else (middle, high)
    return _float(high)


def _bits(value: float) -> int:
    """Floats of 0 and more stand in the order of their bits."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def _float(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])


def _alike(one: Solution | None, other: Solution | None) -> bool:
    """Whether two answers are of one form: the same point as it stands, or on the same line."""
    if one is None or other is None:
        return one is other
    if one.line is not None or other.line is not None:
        return one.line is other.line
    return one.point == other.point


def _row(share: float, solution: Solution) -> BudgetRow:
    if solution.line is None:
        near = _point(solution.point)
        return BudgetRow(share, near.work, near.quality, near.knobs)
    near, far = (_point(end) for end in solution.line.ends)
    return BudgetRow(share, near.work, near.quality, near.knobs, far)


def _point(point: OperatingPoint) -> BudgetPoint:
    return BudgetPoint(point.macs_fraction, point.quality, copy_knobs(point.knobs))


def _says_the_same(before: BudgetRow, row: BudgetRow, dtypes: dict[str, str]) -> bool:
    """Whether the row would say of the shares of the row before it what that one says."""
    ends = (before.work, before.quality, before.knobs) == (row.work, row.quality, row.knobs)
    if before.to == row.to:
        return ends
    # On a line nothing moves at first, as knobs are rounded: there its near end stands as it is.
    still = look_up([row], math.nextafter(row.fraction, 0.0), dtypes)
    return ends and before.to is None and (still.knobs, still.work) == (before.knobs, before.work)
