"""Hard budgets: exact numbers of learner runs and tokens, the same for every input, from least to most.

How many learner runs each gate gets is taken from what the gates ran on average at soft prices: there
the price has distributed them over the layers. Giving every gate the same share of its learners
is tried beside it, at the same work, and the better of the two chains is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from adaptrt.export.calibration.evaluations import Evaluations
from adaptrt.export.calibration.frontier import spread_prices
from adaptrt.export.calibration.stage_records import BATCH, Array, Knobs, Outcome, StagedModel, run_calls, split_feeds
from adaptrt.export.calibration.worker_process import Call
from adaptrt.export.errors import CalibrationError
from adaptrt.runtime.bundle.schema import PRICE_KNOB, TOKEN_PRICE_KNOB, Knob

if TYPE_CHECKING:
    from adaptrt.models.data.split import Split

CAPACITY_KNOB, KEEP_KNOB = "capacity", "keep"
SAMPLES = 256
"""Samples that mean numbers of learners and tokens are taken from."""

Counts = npt.NDArray[np.int64]
Means = npt.NDArray[np.float64]

_EQUAL_WORK = 1e-6
"""Largest difference in ``macs_fraction`` between samples of equal work, which is of rounding only."""
_LEAST_KEPT = 0.3
"""Smallest share of its tokens that a selection keeps where nothing tells what is worth keeping."""


@dataclass(frozen=True)
class HardPoint:
    """One point of a hard chain, measured on calibration data.

    Attributes:
        knobs: What is fed; nobody leaves early.
        outcome: What it costs, the same for every sample, and gives.
    """

    knobs: Knobs
    outcome: Outcome


@dataclass(frozen=True)
class SoftLine:
    """Where mean numbers of learners and tokens are taken from: knobs that one price moves, exits off.

    Attributes:
        knobs: What to feed at a price.
        minimum: Price at which everything runs.
        maximum: Price at which least runs.
        bent: As for ``spread_prices``.
    """

    knobs: Callable[[float], Knobs]
    minimum: float
    maximum: float
    bent: bool = False


def hard_chain(evaluations: Evaluations, line: SoftLine | None, *, points: int) -> list[HardPoint]:
    """A chain of hard points from the least work to the most, spread evenly; along it no number falls.

    Args:
        evaluations: Of a bundle with a knob ``capacity`` (int32 [gates]), ``keep`` (int32 [selections])
            or both. At most ``2 * points`` passes are made, ``points`` where there is no ``capacity``;
            besides, ``SAMPLES`` samples are run at every point.
        line: Distributes the numbers. None where no price moves them: every selection then keeps an
            equal share of the tokens it gets.
        points: Points of the chain at most, at least 2.

    Raises:
        CalibrationError: Samples differ in work though the numbers are exact, or more of everything
            costs less.
    """
    numbers = _Numbers(evaluations.model, evaluations.data.calibration)
    capacities, keeps = numbers.even(points) if line is None else numbers.along(line, points)
    calibrated = _measured(evaluations, [numbers.knobs(*pair) for pair in zip(capacities, keeps, strict=True)])
    best = calibrated
    if numbers.gates > 1 and capacities[0] is not None:
        costs = [point.outcome.cost for point in calibrated]
        shares = [numbers.even_capacities(cost, keep) for cost, keep in zip(costs, keeps, strict=True)]
        even = _measured(evaluations, [numbers.knobs(*pair) for pair in zip(shares, keeps, strict=True)])
        best = max(calibrated, even, key=_merit)
    distinct = best[:1] + [point for before, point in pairwise(best) if point.knobs != before.knobs]
    if distinct[-1].outcome.cost < distinct[0].outcome.cost:
        raise CalibrationError(
            f"got {distinct[0].outcome.cost:.4g} of the dense work with the least of everything and "
            f"{distinct[-1].outcome.cost:.4g} with the most, expected more; capacity counts learner runs and keep "
            "the tokens that stay: export the model again"
        )
    return distinct


class _Numbers:
    """Numbers of learner runs and tokens of a bundle: what there is, what a price makes of it, what that costs."""

    def __init__(self, model: StagedModel, split: Split) -> None:
        self._model = model
        places = np.linspace(0, len(split) - 1, min(SAMPLES, len(split))).round().astype(np.int64)
        self._inputs = split_feeds(model.bundle.inputs, split.part(places))
        knobs = {knob.name: knob for knob in model.bundle.knobs}
        self._capacity, self._keep = knobs.get(CAPACITY_KNOB), knobs.get(KEEP_KNOB)
        self._base: Knobs = {PRICE_KNOB: knobs[PRICE_KNOB].minimum} if PRICE_KNOB in knobs else {}
        if TOKEN_PRICE_KNOB in knobs:
            self._base[TOKEN_PRICE_KNOB] = 0.0
        self.gates = _size(self._capacity)

    def knobs(self, capacity: Counts | None, keep: Counts | None) -> Knobs:
        """What to feed for these numbers; all else runs in full."""
        named = {CAPACITY_KNOB: capacity, KEEP_KNOB: keep}
        return self._base | {name: [float(n) for n in counts] for name, counts in named.items() if counts is not None}

    def along(self, line: SoftLine, points: int) -> tuple[list[Counts | None], list[Counts | None]]:
        """Rounded mean learner runs per gate and tokens kept per selection, from the highest price down."""
        found: dict[float, tuple[Means, Means]] = {}

        def fraction(price: float) -> float:
            found[price] = self._mean(line.knobs(price))
            capacities, keeps = self._whole([found[price]])
            return self._cost(capacities[0], keeps[0])

        prices = spread_prices(fraction, line.minimum, line.maximum, points, bent=line.bent)
        return self._whole([found[price] for price in reversed(prices)])

    def _whole(self, means: Sequence[tuple[Means, Means]]) -> tuple[list[Counts | None], list[Counts | None]]:
        """Means along a chain, cheapest first, as whole numbers that never fall and that there are."""
        runs, kept = zip(*means, strict=True)
        keeps: list[Counts | None] = [None] * len(means)
        if self._keep is not None:
            keeps = [*_rising(np.stack(kept), self._keep, least=1)]
        capacities: list[Counts | None] = [None] * len(means)
        if self._capacity is not None:
            risen = _rising(np.stack(runs), self._capacity, least=0)
            capacities = [np.minimum(own, self._all(keep)) for own, keep in zip(risen, keeps, strict=True)]
        return capacities, keeps

    def even(self, points: int) -> tuple[list[Counts | None], list[Counts | None]]:
        """Tokens kept if every selection keeps the same share of what it gets (EViT), up to all; all learners run."""
        if self._keep is None:
            raise ValueError("got a bundle without keep and no price, expected one of them")
        tokens, selections = int(self._keep.maximum), np.arange(1, _size(self._keep) + 1)
        shares = np.linspace(_LEAST_KEPT, 1.0, points)
        means = np.stack([tokens * share**selections for share in shares])
        return [None] * points, [*_rising(means, self._keep, least=1)]

    def even_capacities(self, cost: float, keep: Counts | None) -> Counts:
        """The same share of its learners for every gate, as many as this share of the dense work pays for."""
        every = self._all(keep)
        low, high = 0, int(every.max())  # low may be too dear already: less there is not
        while low < high:
            middle = (low + high + 1) // 2
            if self._cost(middle * every // every.max(), keep) <= cost + _EQUAL_WORK:
                low = middle
            else:
                high = middle - 1
        return np.asarray(low * every // max(int(every.max()), 1))

    def _all(self, keep: Counts | None) -> Counts:
        """Learner runs of each gate when all run for the tokens that are kept."""
        learners, _ = self._counts(self.knobs(None, keep), self._first(1))
        most = 0 if self._capacity is None else int(self._capacity.maximum)
        return np.asarray(learners[0].clip(min=0).sum(axis=1, dtype=np.int64).clip(max=most))

    def _cost(self, capacity: Counts | None, keep: Counts | None) -> float:
        knobs = self.knobs(capacity, keep)
        return float(self._model.run(self._first(1), knobs=knobs).macs_fraction[0])

    def _mean(self, knobs: Knobs) -> tuple[Means, Means]:
        learners, kept = self._counts(knobs, self._inputs)
        return learners.clip(min=0).sum(axis=2).mean(axis=0), kept.sum(axis=2).mean(axis=0)

    def _first(self, count: int) -> dict[str, Array]:
        return {name: array[:count] for name, array in self._inputs.items()}

    def _counts(self, knobs: Knobs, inputs: Mapping[str, Array]) -> tuple[Array, Array]:
        """Learners run [n, gates, tokens] and tokens kept [n, selections, tokens], nobody leaving early."""
        batches = (
            {name: array[start : start + BATCH] for name, array in inputs.items()}
            for start in range(0, len(next(iter(inputs.values()))), BATCH)
        )
        calls = (Call("run", batch, {"knobs": knobs, "decisions": True}) for batch in batches)
        found = [result.decisions for result in run_calls(self._model, calls)]
        return np.concatenate([one.learners for one in found]), np.concatenate([one.kept for one in found])


def _size(knob: Knob | None) -> int:
    return 0 if knob is None else int(np.prod(knob.shape))


def _rising(means: Means, knob: Knob, *, least: int) -> Counts:
    """Whole numbers along a chain, ``[points, n]``, none of which falls; hidden states make means wobble."""
    whole = np.rint(np.maximum.accumulate(means, axis=0)).astype(np.int64)
    return whole.clip(least, int(knob.maximum))


def _measured(evaluations: Evaluations, chain: Sequence[Knobs]) -> list[HardPoint]:
    found = []
    evaluations.prepare(chain)
    for knobs in chain:
        records = evaluations.calibration(knobs)
        spent = records.macs_fraction[-1]
        if float(spent.max() - spent.min()) > _EQUAL_WORK * max(1.0, float(spent.max())):
            raise CalibrationError(
                f"got {spent.min():.6g} to {spent.max():.6g} of the dense work at {knobs}, expected the same for "
                "every sample; give samples of one length if they differ in it, else export the model again"
            )
        found.append(HardPoint(knobs, records.outcome()))
    return found


def _merit(chain: Sequence[HardPoint]) -> tuple[float, float]:
    """What chains of equal work are compared by: mean quality, then the loss."""
    outcomes = [point.outcome for point in chain]
    return float(np.mean([one.quality for one in outcomes])), -float(np.mean([one.loss for one in outcomes]))
