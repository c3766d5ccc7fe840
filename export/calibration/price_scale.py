"""The common price scale: what each family's own price is worth in nats per share of the dense work.

Families of adaptive modules score their gains in units of their own. What makes them comparable is what
their work buys: along a sweep of one family's price, the others off, cost falls and loss rises, and at
the common price ``x`` the family should stand where ``loss + x * cost`` is least. These points are the
corners of the lower convex hull of (cost, loss); a corner is best at prices between the slopes of the
hull's edges on its two sides.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from adaptrt.export.calibration.frontier import spread_prices
from adaptrt.export.calibration.stage_records import Array, Outcome, StagedModel, record_stages
from adaptrt.export.errors import CalibrationError
from adaptrt.runtime.bundle.schema import KnobValue

if TYPE_CHECKING:
    from adaptrt.models.data.split import Split

SWEEP_POINTS = 33
KNOTS = 16

_COST_STEPS = 1000
"""Costs are told apart by this part of all that the family can save."""
_SMALLEST_STEP = 1e-6
_RELATIVE_STEP = 1e-3
"""Where slopes are not positive, or equal, knots are apart by this share of the smallest positive slope."""


@dataclass(frozen=True)
class FittedScale:
    """A piecewise-linear map from the common price to one family's own; beyond the last knot its value holds.

    Attributes:
        prices: Common prices at the knots, in nats per share of the dense work: float32 values, strictly
            ascending from 0.
        values: The family's price at each: float32 values, not falling, from its minimum to its maximum.
    """

    prices: list[float]
    values: list[float]

    @property
    def maximum(self) -> float:
        """Common price from which on the family stands at its maximum."""
        return self.prices[-1]

    def __call__(self, price: float) -> float:
        """The family's own price at a common price."""
        return float(np.interp(price, self.prices, self.values))


@dataclass(frozen=True)
class FamilySweep:
    """One family's price swept alone, on calibration data.

    Attributes:
        raw: Prices in the family's own unit, ascending, ``[p]``.
        cost: Mean share of the dense model's work at each, ``[p]``.
        loss: Mean cross-entropy of the label in nats at each, ``[p]``.
    """

    raw: list[float]
    cost: list[float]
    loss: list[float]

    def scale(self, *, knots: int = KNOTS) -> FittedScale:
        """The map that this sweep gives; see ``fit_price_scale``."""
        return fit_price_scale(self.raw, self.cost, self.loss, knots=knots)


def sweep_family(
    model: StagedModel,
    split: Split,
    knob: str,
    *,
    off: Mapping[str, KnobValue] | None = None,
    points: int = SWEEP_POINTS,
    known: dict[str, Outcome] | None = None,
) -> FamilySweep:
    """Sweep one family's price over a split, nobody leaving early.

    Args:
        model: A bundle whose knob is in the family's own unit.
        split: Calibration data.
        knob: Name of the family's price, ``"price"`` or ``"token_price"``.
        off: Values that turn the other families off, such as ``{"token_price": 0.0}``.
        points: Passes over the split, at least 2; the prices spread the work evenly.
        known: Passes of sweeps before it over the same split, by their knobs, which are not made again; this one's
            are added. All sweeps of a bundle begin where everything runs.

    Raises:
        CalibrationError: There is no such knob, or the data does not fit.
    """
    found = [own for own in model.bundle.knobs if own.name == knob]
    if not found:
        names = ", ".join(own.name for own in model.bundle.knobs) or "none"
        raise CalibrationError(f"got a sweep of knob {knob!r}, expected one of the bundle's knobs ({names}); name one")
    measured: dict[float, tuple[float, float]] = {}
    known = {} if known is None else known

    def fraction(price: float) -> float:
        knobs = {**(off or {}), knob: price}
        name = json.dumps(knobs, sort_keys=True)
        if name not in known:
            known[name] = record_stages(model, split, knobs).outcome()
        measured[price] = (known[name].cost, known[name].loss)
        return known[name].cost

    # A negative token price would follow the other price; at 0 every token stays.
    minimum = max(found[0].minimum, 0.0) if knob == "token_price" else found[0].minimum
    prices = spread_prices(fraction, minimum, found[0].maximum, points)
    return FamilySweep(prices, [measured[price][0] for price in prices], [measured[price][1] for price in prices])


def fit_price_scale(
    raw: Array | Sequence[float], cost: Array | Sequence[float], loss: Array | Sequence[float], *, knots: int = KNOTS
) -> FittedScale:
    """Map the common price to a family's own.

    A corner of the hull stands at the mean of its two edges' slopes. Where less work is better, or as
    good, slopes are not positive: their corners get prices just above 0, strictly ascending, so that the
    map starts at the family's minimum, where everything runs, all the same.

    Args:
        raw: Prices in the family's own unit, strictly ascending, from its minimum to its maximum, ``[p]``.
        cost: Mean share of the dense model's work at each, ``[p]``; noise may make it rise in places.
        loss: Mean loss in nats at each, ``[p]``.
        knots: Knots of the map at most, at least 3; corners are thinned out evenly in cost.

    Raises:
        CalibrationError: Arrays of different or too small sizes, raw prices that do not ascend, or
            numbers that are not finite.
    """
    own, spent, lost = (np.asarray(given, np.float64) for given in (raw, cost, loss))
    _require_sweep(own, spent, lost, knots)
    # The largest work at this price or a higher one: noise must not make a dear price look cheap.
    spent = np.maximum.accumulate(spent[::-1])[::-1]
    unit = max((spent[0] - spent[-1]) / _COST_STEPS, _SMALLEST_STEP)
    spent = np.rint(spent / unit) * unit  # savings smaller than that would have any slope
    corners = _thinned(_lower_hull(spent, lost), spent, knots - 1)
    slopes = [max(_slope(dear, cheap, spent, lost), 0.0) for dear, cheap in pairwise(corners)]
    step = max(_RELATIVE_STEP * min((slope for slope in slopes if slope > 0), default=0.0), _SMALLEST_STEP)
    # The first corner is best from the price 0 on, and that is the family's minimum.
    found = [(0.0, _single(own[0]))]
    for index, corner in enumerate(corners[1:]):
        sides = slopes[index : index + 2]
        price = max(sum(sides) / len(sides), found[-1][0] + step)
        found.append((_above(price, found[-1][0]), _single(own[corner])))
    if found[-1][1] < _single(own[-1]):  # nothing is left to save before the maximum: it follows at once
        found.append((_above(found[-1][0] + step, found[-1][0]), _single(own[-1])))
    return FittedScale([price for price, _ in found], [value for _, value in found])


def _lower_hull(cost: Array, loss: Array) -> list[int]:
    """Corners of the lower convex hull as indices, from the largest cost to the smallest.

    The first sample is always one. Of samples of equal cost the one of least loss counts, the first of these.
    """
    best: dict[float, int] = {}
    for index, (own_cost, own_loss) in enumerate(zip(cost, loss, strict=True)):
        if index == 0 or own_cost not in best or (best[own_cost] != 0 and own_loss < loss[best[own_cost]]):
            best[own_cost] = index
    hull: list[int] = []
    for index in sorted(best.values()):  # costs never rise with the index
        while len(hull) >= 2 and _slope(hull[-2], hull[-1], cost, loss) >= _slope(hull[-1], index, cost, loss):
            hull.pop()
        hull.append(index)
    return hull


def _slope(dear: int, cheap: int, cost: Array, loss: Array) -> float:
    """Loss gained per work saved between two samples."""
    return float((loss[cheap] - loss[dear]) / (cost[dear] - cost[cheap]))


def _thinned(corners: list[int], cost: Array, count: int) -> list[int]:
    """At most ``count`` corners, both ends among them, spread evenly in cost."""
    if len(corners) <= count:
        return corners
    costs = np.array([cost[corner] for corner in corners])
    wanted = np.linspace(costs[0], costs[-1], count)
    nearest = {int(np.abs(costs - cost_wanted).argmin()) for cost_wanted in wanted}
    return [corners[index] for index in sorted(nearest | {0, len(corners) - 1})]


def _single(value: float) -> float:
    return float(np.float32(value))


def _above(price: float, last: float) -> float:
    """The price in float32, the next one up where it would not be above the last."""
    rounded = np.float32(price)
    if float(rounded) <= last:
        rounded = np.nextafter(np.float32(last), np.float32(math.inf))
    return float(rounded)


def _require_sweep(raw: Array, cost: Array, loss: Array, knots: int) -> None:
    shapes = [list(array.shape) for array in (raw, cost, loss)]
    if raw.ndim != 1 or len(raw) < 2 or knots < 3 or shapes.count(shapes[0]) < 3:
        raise CalibrationError(
            f"got a sweep of shapes {shapes} and {knots} knots, expected three times [points], at least 2 points "
            "and 3 knots; sweep the price from its minimum to its maximum"
        )
    if not all(np.isfinite(array).all() for array in (raw, cost, loss)) or (np.diff(raw) <= 0).any():
        raise CalibrationError(
            "got a sweep with prices that do not ascend, or numbers that are not finite, expected finite ones; "
            "measure it again"
        )
