"""What a caller may spend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS, NOTHING, BudgetKind
from adaptrt.runtime.errors import BudgetError, shown


@dataclass(frozen=True)
class Budget:
    """What may be spent: work per sample, or time, energy or power of this device.

    Make one with ``fraction``, ``macs``, ``full``, ``latency``, ``energy`` or ``power``.

    A soft budget holds for the mean over inputs like the calibration data, while single samples take
    more or less; ``Result.macs_fraction`` says what each one took. A hard budget holds for each sample:
    all take the same.

    Attributes:
        kind: what ``value`` counts, a name of ``BUDGET_KINDS``.
        value: 0 or more, above 0 where it depends on the device; 0.0 where everything runs.
        hard: whether it holds for each sample; False of anything but work.
        percentile: share of calls that are to stay under it, where each call keeps it or misses it; 0.0 otherwise.
    """

    kind: str
    value: float = 0.0
    hard: bool = False
    percentile: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.hard, bool):
            raise BudgetError(f"got hard={self.hard!r}; expected True (each sample) or False (on average)")
        kind = BUDGET_KINDS.get(self.kind) if isinstance(self.kind, str) else None
        if kind is None:
            raise BudgetError(f"got a budget of kind {self.kind!r}; expected {', '.join(BUDGET_KINDS)}")
        if kind.meter is NOTHING:
            object.__setattr__(self, "value", 0.0)
            object.__setattr__(self, "hard", False)
            object.__setattr__(self, "percentile", 0.0)
            return
        object.__setattr__(self, "value", _amount(kind, self.value))
        if kind.meter.physical and self.hard:
            raise BudgetError(
                f"got a hard budget of kind {self.kind!r}; expected hard=False: a device promises nothing"
            )
        object.__setattr__(self, "percentile", _percentile(self.percentile) if kind.percentile else 0.0)

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
    def latency(ms: float, percentile: float = BUDGET_KINDS["latency"].percentile) -> Budget:
        """Milliseconds of a call, held by feedback while the device changes.

        Args:
            ms: above 0.
            percentile: share of the calls that are to stay under it, 0.5 to 0.999.

        Raises:
            BudgetError: ``ms`` is no number, NaN, infinite or not above 0, or ``percentile`` is out of range.
        """
        return Budget("latency", ms, percentile=percentile)

    @staticmethod
    def energy(mj: float, percentile: float = BUDGET_KINDS["energy"].percentile) -> Budget:
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
        kind = BUDGET_KINDS[self.kind]
        template = kind.shown_hard if self.hard else kind.shown
        return template.format(value=self.value, percentile=self.percentile)


def _amount(kind: BudgetKind, value: object) -> float:
    least = "above 0" if kind.meter.physical else "of at least 0"
    problem = f"got a budget of {value!r}; expected {kind.counts}, a finite number {least}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BudgetError(f"{problem}, such as {kind.call}")
    try:
        amount = float(value)
    except OverflowError:
        raise BudgetError(problem) from None
    if not math.isfinite(amount) or amount < 0 or (kind.meter.physical and amount == 0):
        raise BudgetError(problem)
    return amount + 0.0  # -0.0 becomes 0.0


def _percentile(value: object) -> float:
    usable = isinstance(value, Real) and not isinstance(value, bool)
    if not usable or not 0.5 <= value <= 0.999:  # type: ignore[operator]
        raise BudgetError(
            f"got percentile={shown(value)}; expected a share of the calls from 0.5 to 0.999, such as 0.95"
        )
    return float(value)  # type: ignore[arg-type]
