"""Knobs at which an untrained adaptive bundle takes wanted shares of the dense work, found in few runs of it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptrt.export.calibration.exit_thresholds import exits_taken, threshold_range
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.runtime import AdaptiveModel
from adaptrt.runtime.bundle.schema import CONFIDENCE_OUTPUT, MACS_OUTPUT, PRICE_KNOB, THRESHOLDS_KNOB, KnobValue

TOLERANCE = 0.05
"""A budget is met if the work is no further from it, in shares of the dense work."""

EXITS_FROM = 0.35
"""Share of the work down to which calibrated bundles with other families do without early exits."""
_CLOSE = 0.01  # where searches end
_CLOSE_ENOUGH = 0.02  # where all samples are not run once more
_NARROW = 0.06  # between work measured so near by a price is interpolated
_TRIES = 8  # prices tried of one family
_PAIRS = 3  # of several together
_FULL_TRIES = 3  # on all samples
_FEW = 4  # samples that say how much work a price leaves: hundreds of tokens decide in each of them

Array = npt.NDArray[Any]
Knobs = dict[str, KnobValue]


@dataclass(frozen=True)
class Setting:
    """Knobs of one budget.

    Attributes:
        wanted: Share of the dense work that was asked for.
        share: That the inputs take in the mean.
        knobs: Values to feed; those not named stand at their defaults.
        shares: Of each input.
    """

    wanted: float
    share: float
    knobs: Knobs
    shares: tuple[float, ...] = ()

    @property
    def reachable(self) -> bool:
        """Whether the work is the wanted one; otherwise it is as near as can be."""
        return abs(self.share - self.wanted) <= TOLERANCE


class WorkSearch:
    """Finds knobs at which a bundle's inputs take a wanted share of the dense work.

    Families with a price divide the saving evenly: of n of them each is to bring the work down to the n-th root. Beside
    them exits save nothing down to a share of the work, and below it as much as all others together.

    Prices are found on a few of the inputs. All of them then say the share, and where they leave.

    Args:
        model: The bundle.
        inputs: By name, ``[B, ...]``, all as long as each other.
        families: The bundle's, by their names for users.
        exits_from: The share below which exits save, too, beside others. The usual one is where the calibration of
            finished bundles began to use them, as answers of early heads are worth less.
    """

    def __init__(
        self,
        model: AdaptiveModel,
        inputs: Mapping[str, Array],
        families: Sequence[str],
        exits_from: float = EXITS_FROM,
    ) -> None:
        self._model, self._inputs, self._exits_from = model, inputs, exits_from
        self._few = {name: array[:_FEW] for name, array in inputs.items()}
        self._exits = "exits" in families
        knobs = {knob.name: knob for knob in model.bundle.knobs}
        priced = [name for name in ("acm", "routes", "tokens") if name in families]
        names = [PRICE_KNOB, PruningConfig.own_price][: len(priced)]
        self._off: Knobs = dict.fromkeys(names, 0.0)
        self._curves = [
            PriceCurve(functools.partial(self._work_at, name), float(knobs[name].maximum or 1.0)) for name in names
        ]
        self._stages_of_all: list[dict[str, Array]] | None = None

    @functools.cached_property
    def everything(self) -> Setting:
        """All of the stages' work, which with gates and early heads is a little more than the dense model's."""
        share = self._work(self._off)  # of any input, where all are as long
        return Setting(1.0, share, dict(self._off), (share,) * len(next(iter(self._inputs.values()))))

    def find(self, wanted: float) -> Setting:
        """The knobs of a share; where it cannot be met, those that come nearest."""
        best = dataclasses.replace(self.everything, wanted=wanted)
        if wanted >= 1.0:
            return best
        # Below it exits save as much more as the priced families do.
        priced = wanted if not self._exits or wanted >= self._exits_from else (wanted * self._exits_from) ** 0.5
        tried: list[Knobs] = []
        for _ in range(_FULL_TRIES):
            knobs = self._priced(priced)
            if knobs in tried:
                break
            tried.append(knobs)
            setting = self._with_exits(wanted, knobs)
            if abs(setting.share - wanted) < abs(best.share - wanted):
                best = setting
            if not self._curves or abs(best.share - wanted) <= _CLOSE_ENOUGH:
                break
            priced = min(1.0, priced * wanted / setting.share)
        return best

    def _priced(self, wanted: float) -> Knobs:
        """Prices at which a few inputs take a share, all stages run."""
        if not self._curves:
            return {}
        share_of_each = wanted ** (1 / len(self._curves))
        best, nearest = dict(self._off), float("inf")
        for _ in range(_PAIRS):
            knobs: Knobs = {
                name: curve.price_at(share_of_each) for name, curve in zip(self._off, self._curves, strict=True)
            }
            if len(self._curves) == 1 or knobs == best:
                return knobs
            share = self._work(knobs)
            if abs(share - wanted) < nearest:
                best, nearest = knobs, abs(share - wanted)
            if nearest <= _CLOSE:
                break
            share_of_each = min(1.5, share_of_each * (wanted / share) ** (1 / len(self._curves)))
        return best

    def _work_at(self, name: str, price: float) -> float:
        """Work at one price, the other families doing everything."""
        return self._work({**self._off, name: price})

    def _work(self, knobs: Knobs) -> float:
        """Of a few inputs, all stages run."""
        stages = self._model.run_stages(self._few, knobs=knobs)
        return float(stages[-1][MACS_OUTPUT].mean(dtype=np.float64))

    def _stages(self, knobs: Knobs) -> list[dict[str, Array]]:
        """Outputs of every stage for all inputs; without prices they are always the same."""
        if knobs or self._stages_of_all is None:
            self._stages_of_all = self._model.run_stages(self._inputs, knobs=knobs)
        return self._stages_of_all

    def _with_exits(self, wanted: float, knobs: Knobs) -> Setting:
        """Let samples leave, where they can, for what is left to save at these prices."""
        stages = self._stages(knobs)
        costs = np.stack([stage[MACS_OUTPUT] for stage in stages]).astype(np.float64)
        if not self._exits:
            return _setting(wanted, costs[-1], knobs)
        sure = np.stack([stage.get(CONFIDENCE_OUTPUT, np.zeros(costs.shape[1], np.float32)) for stage in stages])
        thresholds = thresholds_at(sure, costs, wanted)
        exits = exits_taken(sure, thresholds)
        knobs = {**knobs, THRESHOLDS_KNOB: [float(number) for number in thresholds]}
        return _setting(wanted, costs[exits, np.arange(costs.shape[1])], knobs)


def _setting(wanted: float, costs: Array, knobs: Knobs) -> Setting:
    return Setting(wanted, float(costs.mean()), knobs, tuple(float(cost) for cost in costs))


class PriceCurve:
    """Work over one price, measured where it is asked for; it never rises.

    Args:
        work_at: The share of the dense work at a price.
        maximum: The highest price.
    """

    def __init__(self, work_at: Callable[[float], float], maximum: float) -> None:
        self._work_at = work_at
        self._maximum = maximum
        self._points: list[tuple[float, float]] = []

    def price_at(self, wanted: float) -> float:
        """The price of a share, found by interpolation and bisection in turn; a limit where it is out of reach."""
        if not self._points:
            self._points = [(price, self._work_at(price)) for price in (0.0, self._maximum)]
        for attempt in range(_TRIES):
            (low, most), (high, least) = self._around(wanted)
            if wanted >= most or wanted <= least:
                return low if wanted >= most else high
            if min(most - wanted, wanted - least) <= _CLOSE / 2:
                return low if most - wanted < wanted - least else high
            narrow = most - least <= _NARROW
            part = (most - wanted) / (most - least) if narrow or attempt % 2 == 0 else 0.5
            price = low + (high - low) * part
            if narrow:
                return price
            self._points.append((price, self._work_at(price)))
            self._points.sort()
        return min(self._points, key=lambda point: abs(point[1] - wanted))[0]

    def _around(self, wanted: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """The measured points between which the share lies; where it is out of reach, the first or the last two."""
        pairs = list(itertools.pairwise(self._points))
        return next((pair for pair in pairs if pair[1][1] <= wanted), pairs[-1])


def thresholds_at(confidence: Array, costs: Array, wanted: float) -> npt.NDArray[np.float32]:
    """Exit thresholds at which the mean cost of samples is nearest to a share, samples spread over all exits.

    Args:
        confidence: ``[stages, n]``; the last stage's is not read. Samples leave in its order, whatever it is.
        costs: Share of the dense work up to each stage, ``[stages, n]``.
        wanted: Mean share of the dense work.

    Returns:
        ``[stages - 1]``.
    """
    stages, samples = confidence.shape
    mean_cost = costs.mean(1)
    counts = np.array([c for c in itertools.product(range(samples + 1), repeat=stages - 1) if sum(c) <= samples])
    counts = np.concatenate([counts, samples - counts.sum(1, keepdims=True)], 1)
    distance = np.abs(counts @ mean_cost / samples - wanted)
    near = counts[distance <= max(float(distance.min()) + 1e-9, _CLOSE)] / samples
    evenness = -(near * np.log(np.maximum(near, 1e-9))).sum(1)
    best = np.rint(near[evenness.argmax()] * samples).astype(int)
    least, most = threshold_range(confidence)
    thresholds = np.empty(stages - 1, np.float32)
    left = np.ones(samples, bool)
    for stage in range(stages - 1):
        ranked = np.sort(confidence[stage][left])[::-1]
        leaving = best[stage]
        if leaving == 0:
            thresholds[stage] = most[stage]
        else:
            thresholds[stage] = ranked[leaving] if leaving < len(ranked) else least[stage]
        left &= ~(confidence[stage] > thresholds[stage])
    return thresholds
