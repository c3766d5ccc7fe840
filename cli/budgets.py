"""Budgets as they are written on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptrt.cli.errors import CommandError

if TYPE_CHECKING:
    from adaptrt.runtime import Budget
    from adaptrt.runtime.control.budget_kinds import BudgetKind, TextForm


def parse_budget(text: str, *, hard: bool = False) -> Budget:
    """A budget as any kind of the table is written; of several suffixes that fit the longest counts.

    Args:
        text: As written, such as ``50%``, ``8ms`` or ``full``.
        hard: Whether it holds for every input, not only on average.

    Raises:
        CommandError: It is written like no kind, or hard and not of work.
        BudgetError: The number is NaN, infinite or negative.
    """
    from adaptrt.runtime import Budget

    text = text.strip()
    kind, form = _recognised(text)
    if hard and not kind.hard:
        shown = text if form else kind.name
        raise CommandError(f"got --hard with budget {shown}, expected {_hard_kinds()}; leave --hard out")
    if form is None:
        return Budget(kind.name)
    written = text.removesuffix(form.suffix)
    try:
        number = float(written)
    except ValueError:
        raise _unreadable(text) from None
    if not written.isascii() or "_" in written:  # Python's numbers, nobody's budgets: 1_0% may be meant as 1.0%
        raise _unreadable(text)
    budget = Budget(kind.name, number * form.multiplier / form.divisor, hard, kind.percentile)
    if form.largest is not None and budget.value > form.largest:
        raise _unreadable(text)
    return budget


def budget_metavar() -> str:
    """What a command's usage calls its budget: ``SHARE|MACS|...``."""
    from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS

    return "|".join(kind.metavar for kind in BUDGET_KINDS.values())


def budget_forms() -> str:
    """How budgets are written, with an example of each kind."""
    from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS

    *others, last = (kind.written for kind in BUDGET_KINDS.values())
    return f"{', '.join(others)}, or {last}"


def _recognised(text: str) -> tuple[BudgetKind, TextForm | None]:
    """The kind that is written so, and which of its forms; None where it is the word."""
    from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS, NOTHING

    forms = [(form, kind) for kind in BUDGET_KINDS.values() for form in kind.forms]
    for kind in BUDGET_KINDS.values():
        if kind.meter is NOTHING and text.lower() == kind.name:
            return kind, None
    for form, kind in sorted(forms, key=lambda pair: -len(pair[0].suffix)):
        if text.endswith(form.suffix):
            return kind, form
    raise _unreadable(text)


def _hard_kinds() -> str:
    from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS
    from adaptrt.runtime.table import either

    return either(kind.short for kind in BUDGET_KINDS.values() if kind.hard)


def _unreadable(text: str) -> CommandError:
    return CommandError(f"got budget {text!r}, expected {budget_forms()}; write it like one of these")
