"""What a caller may spend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal

from adaptrt.runtime.errors import BudgetError, shown

_UNITS = {
    "fraction": "a share of the dense model's work",
    "macs": "multiply-accumulates per sample",
    "latency": "milliseconds per call",
    "energy": "millijoules per call",
    "power": "watts on average",
}
_EXAMPLES = {"fraction": "0.5", "macs": "2e9", "latency": "8", "energy": "40", "power": "10"}
PHYSICAL = ("latency", "energy", "power")
"""Kinds that depend on the device; their values are above 0."""


@dataclass(frozen=True)
class Budget:
    """What may be spent: work per sample, or time, energy or power of this device.

    Make one with ``fraction``, ``macs``, ``full``, ``latency``, ``energy`` or ``power``.

    A soft budget holds for the mean over inputs like the calibration data, while single samples take
    more or less; ``Result.macs_fraction`` says what each one took. A hard budget holds for each sample:
    all take the same.

    Attributes:
        kind: what ``value`` counts; with ``"full"`` it counts nothing.
        value: 0 or more, above 0 for ``"latency"``, ``"energy"`` and ``"power"``; 0.0 with ``"full"``.
        hard: whether it holds for each sample; False with ``"full"`` and what depends on the device.
        percentile: share of calls that are to stay under a ``"latency"`` or ``"energy"``; 0.0 otherwise.
    """

    kind: Literal["fraction", "macs", "full", "latency", "energy", "power"]
    value: float = 0.0
    hard: bool = False
    percentile: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.hard, bool):
            raise BudgetError(f"got hard={self.hard!r}; expected True (each sample) or False (on average)")
        if self.kind == "full":
            object.__setattr__(self, "value", 0.0)
            object.__setattr__(self, "hard", False)
            object.__setattr__(self, "percentile", 0.0)
            return
        if self.kind not in _UNITS:
            raise BudgetError(f"got a budget of kind {self.kind!r}; expected full, {', '.join(_UNITS)}")
        object.__setattr__(self, "value", _amount(self.kind, self.value))
        if self.kind in PHYSICAL and self.hard:
            raise BudgetError(
                f"got a hard budget of kind {self.kind!r}; expected hard=False: a device promises nothing"
            )
        if self.kind in ("latency", "energy"):
            object.__setattr__(self, "percentile", _percentile(self.percentile))
        else:
            object.__setattr__(self, "percentile", 0.0)

    @staticmethod
    def fraction(share: float, hard: bool = False) -> Budget:
        """A share of the dense model's multiply-accumulates: 0.5 is half of them.

        With everything running the share is a little over 1, because the gates count too; a larger budget is
        fine. It is not used up where more work was measured to be no better; ``full`` runs everything.

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
    def latency(ms: float, percentile: float = 0.95) -> Budget:
        """Milliseconds of a call, held by feedback while the device changes.

        Args:
            ms: above 0.
            percentile: share of the calls that are to stay under it, 0.5 to 0.999.

        Raises:
            BudgetError: ``ms`` is no number, NaN, infinite or not above 0, or ``percentile`` is out of range.
        """
        return Budget("latency", ms, percentile=percentile)

    @staticmethod
    def energy(mj: float, percentile: float = 0.5) -> Budget:
        """Millijoules of a call; needs a power or energy sensor.

        Args:
            mj: above 0.
            percentile: share of the calls that are to stay under it; sensors are slow, so the middle one by default.

        Raises:
            BudgetError: as ``latency``.
        """
        return Budget("energy", mj, percentile=percentile)

    @staticmethod
    def power(watts: float) -> Budget:
        """Watts on average over the calls and the time between them; needs a power or energy sensor.

        Raises:
            BudgetError: ``watts`` is no number, NaN, infinite or not above 0.
        """
        return Budget("power", watts)

    @staticmethod
    def full() -> Budget:
        """Everything runs."""
        return Budget("full")

    def __str__(self) -> str:
        """For messages, such as ``0.5 of the dense work`` or ``2e+09 MACs for each sample``."""
        if self.kind == "full":
            return "full"
        if self.kind == "power":
            return f"{self.value:.4g} W on average"
        if self.kind in PHYSICAL:
            unit = "ms" if self.kind == "latency" else "mJ"
            return f"{self.value:.4g} {unit} for {self.percentile:.4g} of the calls"
        if self.kind == "fraction":
            return f"{self.value:.4g} of the dense work{' for each sample' if self.hard else ''}"
        return f"{self.value:.4g} MACs {'for each' if self.hard else 'per'} sample"


def _amount(kind: str, value: object) -> float:
    least = "above 0" if kind in PHYSICAL else "of at least 0"
    problem = f"got a budget of {value!r}; expected {_UNITS[kind]}, a finite number {least}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BudgetError(f"{problem}, such as Budget.{kind}({_EXAMPLES[kind]})")
    try:
        amount = float(value)
    except OverflowError:
        raise BudgetError(problem) from None
    if not math.isfinite(amount) or amount < 0 or (kind in PHYSICAL and amount == 0):
        raise BudgetError(problem)
    return amount + 0.0  # -0.0 becomes 0.0


def _percentile(value: object) -> float:
    usable = isinstance(value, Real) and not isinstance(value, bool)
    if not usable or not 0.5 <= value <= 0.999:  # type: ignore[operator]
        raise BudgetError(
            f"got percentile={shown(value)}; expected a share of the calls from 0.5 to 0.999, such as 0.95"
        )
    return float(value)  # type: ignore[arg-type]
