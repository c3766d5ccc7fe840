"""What a caller may spend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal

from adaptrt.runtime.errors import BudgetError

_UNITS = {"fraction": "a share of the dense model's work", "macs": "multiply-accumulates per sample"}


@dataclass(frozen=True)
class Budget:
    """How much work one sample may cost; make one with ``fraction``, ``macs`` or ``full``.

    A soft budget holds for the mean over inputs like the calibration data, while single samples take
    more or less; ``Result.macs_fraction`` says what each one took. A hard budget holds for each sample:
    all take the same.

    Attributes:
        kind: what ``value`` counts; with ``"full"`` it counts nothing.
        value: 0 or more; 0.0 with ``"full"``.
        hard: whether it holds for each sample; False with ``"full"``.
    """

    kind: Literal["fraction", "macs", "full"]
    value: float = 0.0
    hard: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.hard, bool):
            raise BudgetError(f"got hard={self.hard!r}; expected True (each sample) or False (on average)")
        if self.kind == "full":
            object.__setattr__(self, "value", 0.0)
            object.__setattr__(self, "hard", False)
            return
        if self.kind not in _UNITS:
            raise BudgetError(f"got a budget of kind {self.kind!r}; expected fraction, macs or full")
        object.__setattr__(self, "value", _amount(self.kind, self.value))

    @staticmethod
    def fraction(share: float, hard: bool = False) -> Budget:
        """A share of the dense model's multiply-accumulates: 0.5 is half of them.

        With everything running the share is a little over 1, because the gates count too; a larger
        budget is fine and runs everything.

        Args:
            share: 0 or more.
            hard: for each sample, not on average; needs a bundle that is calibrated for it.

        Raises:
            BudgetError: ``share`` is no number, NaN, infinite or negative.
        """
        return Budget("fraction", share, hard)

    @staticmethod
    def macs(count: float, hard: bool = False) -> Budget:
        """Multiply-accumulates per sample, at the input shape that the bundle was calibrated with.

        Args:
            count: 0 or more.
            hard: as with ``fraction``.

        Raises:
            BudgetError: ``count`` is no number, NaN, infinite or negative.
        """
        return Budget("macs", count, hard)

    @staticmethod
    def full() -> Budget:
        """Everything runs."""
        return Budget("full")

    def __str__(self) -> str:
        """For messages, such as ``0.5 of the dense work`` or ``2e+09 MACs for each sample``."""
        if self.kind == "full":
            return "full"
        if self.kind == "fraction":
            return f"{self.value:.4g} of the dense work{' for each sample' if self.hard else ''}"
        return f"{self.value:.4g} MACs {'for each' if self.hard else 'per'} sample"


def _amount(kind: str, value: object) -> float:
    problem = f"got a budget of {value!r}; expected {_UNITS[kind]}, a finite number of at least 0"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BudgetError(f"{problem}, such as Budget.{kind}({'0.5' if kind == 'fraction' else '2e9'})")
    try:
        amount = float(value)
    except OverflowError:
        raise BudgetError(problem) from None
    if not math.isfinite(amount) or amount < 0:
        raise BudgetError(problem)
    return amount + 0.0  # -0.0 becomes 0.0
