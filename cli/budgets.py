"""Budgets as they are written on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptrt.cli.errors import CommandError

if TYPE_CHECKING:
    from adaptrt.runtime import Budget


def parse_budget(text: str, *, hard: bool = False) -> Budget:
    """A budget as any kind of the table is written; of several suffixes that fit the longest counts.

    Args:
        text: As written, such as ``50%``, ``8ms`` or ``full``.
        hard: Whether it holds for every input, not only on average.

    Raises:
        CommandError: It is hard and not of work.
        BudgetError: It is written like no kind, or its number is NaN, infinite or negative.
    """
    from dataclasses import replace

    from adaptrt.runtime.control import budget_text
    from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS, NOTHING
    from adaptrt.runtime.table import either

    budget = budget_text.parse_budget(text)
    kind = BUDGET_KINDS[budget.kind]
    if not hard:
        return budget
    if not kind.hard:
        shown = kind.name if kind.meter is NOTHING else text.strip()
        kinds = either(kind.short for kind in BUDGET_KINDS.values() if kind.hard)
        raise CommandError(f"got --hard with budget {shown}, expected {kinds}; leave --hard out")
    return replace(budget, hard=True)


def budget_metavar() -> str:
    """What a command's usage calls its budget: ``SHARE|MACS|...``."""
    from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS

    return "|".join(kind.metavar for kind in BUDGET_KINDS.values())


def budget_forms() -> str:
    """How budgets are written, with an example of each kind."""
    from adaptrt.runtime.control import budget_text

    return budget_text.budget_forms()
