"""Exit thresholds from calibration samples: by shares (MSDNet's rule), and at a price.

Throughout, a sample leaves at the first stage whose confidence is strictly above the stage's threshold,
and the last stage takes the rest. A NaN confidence is above nothing. Thresholds are float32, as are the
confidences they are compared with: what is computed here is what the runtime decides.

Thresholds lie in the range of the confidences that were seen, whatever that range is: a confidence may be a
probability, a count of agreeing heads or a log-sum-exp. What lets nobody leave, seen or not, is infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptrt.export.calibration.frontier import spread_prices
from adaptrt.export.errors import CalibrationError

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

NEXT_TO_NOTHING = float(np.finfo(np.float32).tiny)
"""A price just above 0, at which samples leave that gain nothing by going on; at 0 none leaves."""

_HALVINGS = 40
_GRID = 129
_STEEPEST = 9.0  # logarithm of the largest p of the grid: one sample in 8,000 leaves before the last exit


def exits_taken(confidence: Array, thresholds: Array) -> npt.NDArray[np.int64]:
    """Stage at whose head each sample leaves, ``[n]``.

    Args:
        confidence: Of every stage and sample, ``[stages, n]``; the last stage's is not read.
        thresholds: ``[stages - 1]``.
    """
    leaves = np.ones(confidence.shape, dtype=bool)
    leaves[:-1] = confidence[:-1].astype(np.float32) > np.asarray(thresholds, np.float32)[:, None]
    return np.asarray(leaves.argmax(axis=0), np.int64)


def threshold_range(confidence: Array) -> tuple[Floats, Floats]:
    """Between which thresholds a stage divides the samples: ``[stages - 1]`` each.

    Args:
        confidence: Of every stage and sample, ``[stages, n]``; the last stage's is not read, nor are NaN and infinity.

    Returns:
        The largest float32 below the smallest confidence, so that all are above it, and the largest confidence,
        so that none is; 0 twice for a stage without finite ones.
    """
    limits = np.zeros((2, len(confidence) - 1), np.float32)
    for stage, row in enumerate(confidence[:-1].astype(np.float32)):
        if (finite := row[np.isfinite(row)]).size:
            limits[:, stage] = np.nextafter(finite.min(), np.float32(-np.inf)), finite.max()
    return limits[0], limits[1]


@dataclass(frozen=True)
class ExitChoice:
    """Thresholds, and what they cost and give on the samples they were fitted to.

    Attributes:
        thresholds: ``[stages - 1]``.
        cost: Mean share of the dense model's work.
        quality: Share of samples that are right.
        parameter: What they were made from: p of the shares, or the price.
    """

    thresholds: Floats
    cost: float
    quality: float
    parameter: float


class ShareRule:
    """The budgeted-batch rule of MSDNet (Huang et al., ICLR 2018, arXiv 1703.09844, section 3).

    For a p from 0 up, exit k is to take a share of all samples proportional to p^k. Walking through the
    exits in order, each takes its part of the samples that have not left: its share over the sum of its
    own and all later ones. Its threshold is the confidence of the first sample, from the surest down,
    that is too many; strictly surer ones leave. Where several samples share that confidence all of them
    stay, so that a part is never exceeded, and later exits make up for it; the last one takes the rest.

    Args:
        confidence: ``[stages, n]``, at least two stages.
        quality: The metric of each stage's answer, ``[stages, n]``; higher is better.
        cost: Share of the dense model's work up to each stage, ``[stages, n]``.

    Raises:
        CalibrationError: Shapes differ, or there are no samples or less than two stages.
    """

    def __init__(self, confidence: Array, quality: Array, cost: Array) -> None:
        _require_fit(confidence, quality, cost)
        self._confidence, self._quality = confidence.astype(np.float32), quality
        self._cost = cost.astype(np.float64)
        self._least, self._most = threshold_range(confidence)
        # Surest first, NaN last: the order among those that are left never changes.
        self._order = [np.argsort(-row, kind="stable") for row in self._confidence[:-1]]

    def shares(self, p: float) -> npt.NDArray[np.float64]:
        """Share of the samples meant for each exit, ``[stages]``: all for the first at 0, for the last at infinity."""
        stages = len(self._confidence)
        if p == 0 or np.isinf(p):
            return np.asarray(np.eye(stages)[0 if p == 0 else -1])
        logarithms = np.log(p) * np.arange(stages)
        weights = np.exp(logarithms - logarithms.max())
        return np.asarray(weights / weights.sum())

    def thresholds(self, p: float) -> Floats:
        """Thresholds for a p, ``[stages - 1]``."""
        shares, left = self.shares(p), np.ones(self._confidence.shape[1], dtype=bool)
        found = np.empty(len(shares) - 1, np.float32)
        for stage in range(len(found)):
            confidence, ahead = self._confidence[stage], shares[stage:].sum()
            ranked = confidence[self._order[stage][left[self._order[stage]]]]
            part = shares[stage] / ahead if ahead > 0 else 1.0
            wanted = int(part * len(ranked) + 1e-9)
            ranked = ranked[~np.isnan(ranked)]
            if wanted == 0 and left.any():
                found[stage] = self._most[stage]
            else:
                found[stage] = self._least[stage] if wanted >= len(ranked) else ranked[wanted]
            found[stage] = np.clip(found[stage], self._least[stage], self._most[stage])
            left &= ~(confidence > found[stage])
        return found

    def at(self, p: float) -> ExitChoice:
        """Thresholds for a p with their cost and quality."""
        thresholds = self.thresholds(p)
        exits = exits_taken(self._confidence, thresholds)[None]
        cost = float(np.take_along_axis(self._cost, exits, 0).mean())
        quality = float(np.take_along_axis(self._quality, exits, 0).mean(dtype=np.float64))
        return ExitChoice(thresholds, cost, quality, p)

    @cached_property
    def grid(self) -> list[ExitChoice]:
        """Choices for p from 0 (all leave at the first exit) to infinity (none before the last), ascending."""
        return [self.at(self._p(place)) for place in range(_GRID + 2)]

    def solve(self, target_cost: float) -> ExitChoice:
        """The choice with the largest cost that does not exceed a target, in shares of the dense work.

        Raises:
            CalibrationError: Leaving at the first exit costs more already.
        """
        affordable = [place for place, choice in enumerate(self.grid) if choice.cost <= target_cost]
        if not affordable:
            raise CalibrationError(
                f"got a target of {target_cost:.4g} of the dense work, expected at least "
                f"{self.grid[0].cost:.4g}, what the first exit costs; choose a larger one"
            )
        place = max(affordable, key=lambda place: (self.grid[place].cost, -place))
        best, low, high = self.grid[place], float(place), float(min(place + 1, _GRID + 1))
        for _ in range(_HALVINGS):
            if best.cost == target_cost or high - low < 1e-9:
                break
            tried = self.at(self._p((low + high) / 2))
            if tried.cost <= target_cost:
                low = (low + high) / 2
                best = max(best, tried, key=lambda choice: choice.cost)
            else:
                high = (low + high) / 2
        return best

    def chain(self, points: int) -> list[ExitChoice]:
        """Choices spread evenly in cost, from the first exit alone to the last alone; equal ones once."""
        targets = np.linspace(self.grid[0].cost, self.grid[-1].cost, points)
        found = [self.grid[0], *(self.solve(float(target)) for target in targets[1:-1]), self.grid[-1]]
        distinct = {choice.thresholds.tobytes(): choice for choice in found}
        return sorted(distinct.values(), key=lambda choice: choice.cost)

    @staticmethod
    def _p(place: float) -> float:
        """The p at a place of the grid; its logarithm is linear between the two ends."""
        if place <= 0 or place >= _GRID + 1:
            return 0.0 if place <= 0 else float("inf")
        return float(np.exp(_STEEPEST * (2 * (place - 1) / (_GRID - 1) - 1)))


class PriceRule:
    """Thresholds at a price: a sample goes on where the loss is expected to fall by more than that costs.

    An optimal-stopping rule by backward induction. Stopping at stage i costs ``loss_i + price * cost_i``.
    Going on costs what the rule of the later stages makes of it, so the gain of going on is that of
    stopping at the best later exit, not of the next one alone. It is regressed on the confidence, not
    increasing (isotonic), and a sample leaves where it is at most zero. That threshold needs no
    regression: the isotonic fit is positive up to where the running sum of gains, in the order of
    confidence, is largest.

    Args:
        confidence: ``[stages, n]``, at least two stages.
        loss: Cross-entropy of the true label at each stage, in nats, ``[stages, n]``.
        cost: Share of the dense model's work up to each stage, ``[stages, n]``.

    Raises:
        CalibrationError: Shapes differ, or there are no samples or less than two stages.
    """

    def __init__(self, confidence: Array, loss: Array, cost: Array) -> None:
        _require_fit(confidence, loss, cost)
        self._confidence = confidence.astype(np.float32)
        self._loss, self._cost = loss.astype(np.float64), cost.astype(np.float64)
        self._least, self._most = threshold_range(confidence)
        self._ranks = [_Ranks(row) for row in self._confidence[:-1]]

    @property
    def highest(self) -> Floats:
        """The largest confidences seen, ``[stages - 1]``: as thresholds they let no sample leave."""
        return self._most.copy()

    def thresholds(self, price: float) -> Floats:
        """Thresholds at a price in nats per share of the dense work, ``[stages - 1]``.

        At 0 nobody of the samples leaves early, at ``maximum`` and above everybody leaves at the first exit.
        """
        if price <= 0:
            return self._most.copy()
        if price >= self.maximum:
            return self._least.copy()
        return self._induced(price)

    def chain(self, prices: Sequence[float]) -> Floats:
        """Thresholds at ascending prices, ``[prices, stages - 1]``, none rising with the price."""
        if list(prices) != sorted(prices):
            raise ValueError(f"got prices {list(prices)}, expected ascending ones")
        return never_rising(np.stack([self.thresholds(price) for price in prices]))

    def spread(self, points: int) -> list[float]:
        """Prices from ``NEXT_TO_NOTHING`` to ``maximum``, ascending, whose mean work is spread evenly."""

        def fraction(price: float) -> float:
            exits = exits_taken(self._confidence, self.thresholds(price))
            return float(np.take_along_axis(self._cost, exits[None], 0).mean())

        return spread_prices(fraction, NEXT_TO_NOTHING, self.maximum, points, bent=True)

    @cached_property
    def maximum(self) -> float:
        """Price from which on everybody leaves at the first exit; representable in float32, above 0."""
        gain, spent = self._loss[0] - self._loss[1:], np.maximum(self._cost[1:] - self._cost[0], 1e-9)
        high = max(float((gain / spent).max()), 0.0) * (1 + 1e-6) + 1e-6
        low = _smallest(lambda price: bool(self._induced(price)[0] == self._least[0]), high)
        return float(np.nextafter(np.float32(low), np.float32(np.inf)))

    def _induced(self, price: float) -> Floats:
        stop = self._loss + price * self._cost
        ahead = stop[-1]
        found = np.empty(len(stop) - 1, np.float32)
        for stage in range(len(stop) - 2, -1, -1):
            found[stage] = self._ranks[stage].threshold(stop[stage] - ahead, self._least[stage], self._most[stage])
            ahead = np.where(self._confidence[stage] > found[stage], stop[stage], ahead)
        return found


def never_rising(thresholds: Floats) -> Floats:
    """Thresholds at ascending prices, ``[prices, stages - 1]``, lowered so that none rises with the price."""
    return np.minimum.accumulate(thresholds, axis=0)


class _Ranks:
    """Confidences of one stage in ascending order, those that are equal together; NaN left out."""

    def __init__(self, confidence: Floats) -> None:
        order = np.argsort(confidence, kind="stable")
        self._order = order[: len(order) - int(np.isnan(confidence).sum())]
        ranked = confidence[self._order]
        self._ends = np.flatnonzero(np.append(ranked[1:] > ranked[:-1], np.ones(min(len(ranked), 1), bool)))
        self._values = ranked[self._ends]

    def threshold(self, gain: npt.NDArray[np.float64], least: np.float32, most: np.float32) -> np.float32:
        """Where the isotonic fit of the gain of going on stops being positive; on a tie samples leave."""
        sums = np.append(0.0, np.cumsum(gain[self._order])[self._ends])
        best = int(sums.argmax())
        if best == 0:
            return least
        if best == len(self._ends):
            return most  # as sure as any seen, and still worth going on
        return np.float32(np.clip(self._values[best - 1], least, most))


def _smallest(fulfilled: Callable[[float], bool], high: float) -> float:
    """The smallest number from 0 to ``high``, which fulfils a condition, at which it starts to hold."""
    low = 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if fulfilled(middle):
            high = middle
        else:
            low = middle
    return high


def _require_fit(confidence: Array, *others: Array) -> None:
    shapes = [list(array.shape) for array in (confidence, *others)]
    if confidence.ndim != 2 or len(confidence) < 2 or not confidence.shape[1] or shapes.count(shapes[0]) < len(shapes):
        raise CalibrationError(
            f"got confidences and their measurements of shapes {shapes}, expected [stages, samples] for each, "
            "at least 2 stages and 1 sample; record the stages of a bundle with exits"
        )
