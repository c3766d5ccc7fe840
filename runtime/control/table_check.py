"""Whether a bundle's table of budgets says what its curve says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from adaptrt.runtime.bundle.schema import BudgetRow, Bundle, KnobValue
from adaptrt.runtime.control.budget import Budget
from adaptrt.runtime.control.budget_table import look_up
from adaptrt.runtime.control.chains import canonical
from adaptrt.runtime.control.operating_point import BudgetSolver
from adaptrt.runtime.errors import BundleError

_MOST_SOLVED = 20_000
"""Chains asked in one check: of a curve of thousands of chains not every share is tried."""
_SAME = 1e-9
_TIE = 1e-12


def check_table(bundle: Bundle) -> None:
    """Solve the budgets at which the table or the curve change, and those half way between, and look them up.

    Raises:
        BundleError: an answer of the table is not the curve's.
    """
    table = bundle.budget_table
    if table is None:
        return
    solver = BudgetSolver(bundle)
    everything = solver.everything
    if not _agrees(bundle, table.full.knobs, table.full.work, everything.knobs, everything.macs_fraction):
        raise _contradiction(bundle, "everything")
    dtypes = {knob.name: knob.dtype for knob in bundle.knobs}
    for hard, rows in ((False, table.soft), (True, table.hard)):

        def same(share: float, rows: Sequence[BudgetRow] = rows, hard: bool = hard) -> bool:
            solved, answer = solver.solve(Budget.fraction(share, hard=hard)), look_up(rows, share, dtypes)
            alike = _agrees(bundle, answer.knobs, answer.work, solved.knobs, solved.macs_fraction)
            return alike and answer.reachable == solved.reachable and _close(answer.quality, solved.quality)

        for share in _shares(solver, rows, hard=hard):
            # Where two chains are equally good, the last bits of a share may decide between them, to and fro.
            if not same(share) and not (same(share * (1 - _TIE)) and same(share * (1 + _TIE))):
                raise _contradiction(bundle, f"a {'hard' if hard else 'soft'} budget of {share:g}")


def _shares(solver: BudgetSolver, rows: Sequence[BudgetRow], *, hard: bool) -> list[float]:
    chains = solver.calibrated(hard=hard)
    changes = sorted({row.fraction for row in rows} | {share for chain in chains for share in chain.shares})
    shares = sorted([*changes, *((low + high) / 2 for low, high in pairwise(changes))])
    step = math.ceil(len(shares) * len(chains) / _MOST_SOLVED) if shares else 1
    return shares[::step]


def _agrees(
    bundle: Bundle, knobs: Mapping[str, KnobValue], work: float, solved: Mapping[str, KnobValue], share: float
) -> bool:
    """Whether the graph gets the same values, for the same work."""
    same = all(canonical(knobs[knob.name], knob) == canonical(solved[knob.name], knob) for knob in bundle.knobs)
    return same and _close(work, share)


def _close(one: float | None, other: float | None) -> bool:
    return one is other or (one is not None and other is not None and abs(one - other) <= _SAME)


def _contradiction(bundle: Bundle, what: str) -> BundleError:
    return BundleError(
        f"bundle {bundle.name!r}: budget_table has another answer to {what} than the curve, expected the same; "
        "calibrate it anew or export the model again"
    )
