"""Budgets as they are written in text: on the command line, and in requests to a server."""

from __future__ import annotations

from adaptrt.runtime.control.budget import Budget
from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS, NOTHING, BudgetKind, TextForm
from adaptrt.runtime.errors import BudgetError, shown


def parse_budget(text: str) -> Budget:
    """A budget as any kind of the table is written; of several suffixes that fit the longest counts.

    Args:
        text: as written, such as ``50%``, ``8ms`` or ``full``.

    Raises:
        BudgetError: it is written like no kind, or its number is NaN, infinite or negative.
    """
    text = text.strip()
    kind, form = _recognised(text)
    if form is None:
        return Budget(kind.name)
    written = text.removesuffix(form.suffix)
    try:
        number = float(written)
    except ValueError:
        raise _unreadable(text) from None
    if not written.isascii() or "_" in written:  # Python's numbers, nobody's budgets: 1_0% may be meant as 1.0%
        raise _unreadable(text)
    budget = Budget(kind.name, number * form.multiplier / form.divisor, percentile=kind.percentile)
    if form.largest is not None and budget.value > form.largest:
        raise _unreadable(text)
    return budget


def budget_forms() -> str:
    """How budgets are written, with an example of each kind."""
    *others, last = (kind.written for kind in BUDGET_KINDS.values())
    return f"{', '.join(others)}, or {last}"


def _recognised(text: str) -> tuple[BudgetKind, TextForm | None]:
    """The kind that is written so, and which of its forms; None where it is the word."""
    forms = [(form, kind) for kind in BUDGET_KINDS.values() for form in kind.forms]
    for kind in BUDGET_KINDS.values():
        if kind.meter is NOTHING and text.lower() == kind.name:
            return kind, None
    for form, kind in sorted(forms, key=lambda pair: -len(pair[0].suffix)):
        if text.endswith(form.suffix):
            return kind, form
    raise _unreadable(text)


def _unreadable(text: str) -> BudgetError:
    return BudgetError(f"got budget {shown(text)}, expected {budget_forms()}; write it like one of these")
