"""Budgets as they are written on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptrt.cli.errors import CommandError

if TYPE_CHECKING:
    from adaptrt.runtime import Budget

_SUFFIXES = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_LARGEST_SHARE = 10.0
"""A plain number above this is meant as multiply-accumulates whose suffix was forgotten."""


def parse_budget(text: str, *, hard: bool = False) -> Budget:
    """``0.5`` or ``50%`` is a share of the dense work, ``90M`` multiply-accumulates, ``full`` everything.

    ``8ms`` is a latency, ``40mJ`` an energy per call, ``10W`` an average power.

    Args:
        text: As written.
        hard: Whether it holds for every input, not only on average.

    Raises:
        CommandError: It is none of these, or hard and not of work.
        BudgetError: The number is NaN, infinite or negative.
    """
    from adaptrt.runtime import Budget

    text = text.strip()
    if text.lower() == "full":
        if hard:
            raise CommandError("got --hard with budget full, expected a share or MACs; leave --hard out")
        return Budget.full()
    for suffix, make in (("ms", Budget.latency), ("mJ", Budget.energy), ("W", Budget.power)):
        if text.endswith(suffix):
            if hard:
                raise CommandError(f"got --hard with budget {text}, expected a share or MACs; leave --hard out")
            return make(_number(text, text[: -len(suffix)]))
    if text[-1:] in _SUFFIXES:
        return Budget.macs(_number(text, text[:-1]) * _SUFFIXES[text[-1]], hard)
    if text.endswith("%"):
        return Budget.fraction(_number(text, text[:-1]) / 100, hard)
    budget = Budget.fraction(_number(text, text), hard)
    if budget.value > _LARGEST_SHARE:
        raise _unreadable(text)
    return budget


def _number(text: str, number: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise _unreadable(text) from None


def _unreadable(text: str) -> CommandError:
    return CommandError(
        f"got budget {text!r}, expected a share of the dense work such as 0.5 or 50%, MACs such as 90M "
        "(k, M, G or T), a latency such as 8ms, an energy such as 40mJ, a power such as 10W, or full; write it "
        "like one of these"
    )
