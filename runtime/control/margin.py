"""How far above its expectation a call may come out: the quantile that a percentile target needs.

The quantile of recent ratios of measured to expected, at a level that is moved by what happened: every miss
raises it, every hit lowers it a little, so that in the long run the share of misses is the wanted one
whatever the noise looks like (adaptive conformal inference, Gibbs and Candes, arXiv 2106.00170, equation 2).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from statistics import NormalDist

_KEPT = 120
_PRIOR_CALLS = 24
_STEP = 0.012
_LEVELS = (0.5, 0.998)
_AIM = 0.85  # of the misses that are allowed: "at most" is promised, not "on average"


class QuantileMargin:
    """A factor, at least 1, between what is expected of a call and what may come.

    Args:
        percentile: Share of calls that are to stay under their target, 0.5 to 0.999.
        noise: Relative standard deviation to assume before there are measurements.
    """

    def __init__(self, percentile: float, noise: float = 0.05) -> None:
        self._percentile = percentile
        self._level = percentile
        self._noise = noise
        self.restart()

    def restart(self) -> None:
        """Forget the ratios, not the level: the next calls will scatter in another way."""
        normal = NormalDist(1.0, max(self._noise, 1e-3))
        prior = [normal.inv_cdf((i + 0.5) / _PRIOR_CALLS) for i in range(_PRIOR_CALLS)]
        self._order: deque[float] = deque(prior[i * 7 % _PRIOR_CALLS] for i in range(_PRIOR_CALLS))
        self._sorted = sorted(prior)

    @property
    def factor(self) -> float:
        """The quantile, between order statistics, counted so that few of them err to the careful side."""
        ratios = self._sorted
        place = self._level * (len(ratios) + 1) - 1
        low = min(max(int(place), 0), len(ratios) - 1)
        high = min(low + 1, len(ratios) - 1)
        return max(ratios[low] + (ratios[high] - ratios[low]) * min(max(place - low, 0.0), 1.0), 1.0)

    def observe(self, ratio: float) -> None:
        """Take in measured over expected of one call."""
        self._order.append(ratio)
        insort(self._sorted, ratio)
        if len(self._order) > _KEPT:
            del self._sorted[bisect_left(self._sorted, self._order.popleft())]

    def correct(self, missed: bool) -> None:
        """Move the level by whether a call that could be steered missed its target."""
        level = self._level + _STEP * (missed - _AIM * (1 - self._percentile))
        self._level = min(max(level, _LEVELS[0]), _LEVELS[1])
