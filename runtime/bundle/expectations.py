"""Saying what is wrong with a bundle's content: the sentences that all of its validation is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

MAX_TEXT = 1_000
AGAIN = "export the model again"


class Invalid(Exception):  # noqa: N818 - becomes a BundleError as soon as the file is known
    """What is wrong with a bundle's content and what to do, without saying which bundle."""


def expect(fine: bool, got: str, expected: str) -> None:
    """Raise ``Invalid`` with both texts unless all is well."""
    if not fine:
        raise Invalid(f"{got}, expected {expected}; {AGAIN}")


def short(value: str) -> str:
    """A text from a bundle as a message can show it."""
    return repr(value if len(value) <= 80 else f"{value[:80]}…")


def expect_text(where: str, value: str) -> None:
    """Names are shown to people: no control characters, no novels."""
    fine = 0 < len(value) <= MAX_TEXT and value.isprintable()
    expect(fine, f"{where}: {short(value)}", f"1 to {MAX_TEXT} printable characters")


def expect_unique(where: str, names: Sequence[str]) -> None:
    """No name twice."""
    for first, second in pairwise(sorted(names)):
        expect(first != second, f"{where}: {short(first)} twice", "each name once")


def expect_finite(where: str, values: Iterable[float | None]) -> None:
    """None stands for a number that was not measured."""
    for value in values:
        expect(value is None or math.isfinite(value), f"{where}: {value}", "a finite number")
