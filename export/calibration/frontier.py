"""Which prices to measure, so that they spread the work, and which of the measured points nothing beats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise

import numpy as np

_BENDS = 8.0
"""How many times e-fold a bent range of prices shrinks towards its lower end: halfway along lies 1.8% of it."""


def spread_prices(
    fraction: Callable[[float], float], minimum: float, maximum: float, points: int, *, bent: bool = False
) -> list[float]:
    """Choose prices whose shares of work are spread evenly, whatever the scale of the gates.

    The interval with the largest gap in the share of work is halved, again and again.

    Args:
        fraction: Mean share of work at a price; called ``points`` times, for every price that is returned.
        minimum: Price at which everything runs.
        maximum: Price at which least runs.
        points: Number of prices, at least 2.
        bent: Whether halving an interval means half of its logarithm, more or less, for prices whose range
            ends far above where most of the work is decided.

    Returns:
        Prices representable in float32, ascending; both limits among them.
    """

    def price_at(position: float) -> float:
        if position in (minimum, maximum) or not bent:
            return position
        way = math.expm1(_BENDS * (position - minimum) / (maximum - minimum)) / math.expm1(_BENDS)
        return float(np.float32(minimum + way * (maximum - minimum)))

    known = {minimum: fraction(minimum), maximum: fraction(maximum)}
    finest = (maximum - minimum) / (8 * points)
    while len(known) < points:
        places = sorted(known)
        gaps = []
        for low, high in pairwise(places):
            middle, gap = float(np.float32((low + high) / 2)), known[low] - known[high]
            if gap > 0 and price_at(low) < price_at(middle) < price_at(high):
                # Where the work jumps, halving goes on for ever: the rest of the curve comes first.
                gaps.append((high - low > finest, gap, middle))
        if not gaps:
            break  # the work does not depend on the price in any interval left
        middle = max(gaps)[2]
        known[middle] = fraction(price_at(middle))
    return [price_at(place) for place in sorted(known)]


def mark_frontier(costs: Sequence[float], qualities: Sequence[float]) -> list[bool]:
    """Mark the points that no other beats, by less cost at no lower quality or more quality at no higher cost.

    Exact, in ``O(n log n)``. Equal points do not beat each other.
    """
    pairs = list(zip(costs, qualities, strict=True))
    marks = [False] * len(pairs)
    best_cheaper = -math.inf
    order = sorted(range(len(pairs)), key=lambda index: pairs[index][0])
    for _, group in groupby(order, key=lambda index: pairs[index][0]):
        members = list(group)
        best = max(pairs[index][1] for index in members)
        if best > best_cheaper:
            for index in members:
                marks[index] = pairs[index][1] == best
            best_cheaper = best
    return marks
