"""What a call takes over the share of work it does, as a profile measured it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from adaptrt.runtime.errors import BudgetError

_WILDEST = 1e6
"""Times the dearest point's response, or its share of work: no call comes out so."""


@dataclass(frozen=True)
class ResponseCurve:
    """Piecewise linear, never falling; beyond its ends it goes on as its first and last pieces do, but not below 0.

    Attributes:
        fractions: Shares of the dense model's work, ascending.
        responses: Milliseconds, or millijoules, of a call at each, above 0; made non-falling.

    Raises:
        BudgetError: They are not as described, or fewer than one.
    """

    fractions: tuple[float, ...]
    responses: tuple[float, ...]
    _slopes: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fractions, responses = self.fractions, self.responses
        if not fractions or len(fractions) != len(responses):
            raise BudgetError(
                f"got {len(fractions)} shares of work with {len(responses)} measurements, expected as many"
            )
        if not all(math.isfinite(f) and f > 0 for f in (*fractions, *responses)):
            raise BudgetError(
                "got a profile with measurements that are not above 0, expected finite ones; profile again"
            )
        if any(after <= before for before, after in pairwise(fractions)):
            raise BudgetError(
                "got a profile whose shares of work do not ascend, expected ascending ones; profile again"
            )
        object.__setattr__(self, "responses", tuple(_non_falling(responses)))
        steps = zip(pairwise(fractions), pairwise(self.responses), strict=True)
        object.__setattr__(self, "_slopes", tuple((d - c) / (b - a) for (a, b), (c, d) in steps) or (0.0,))

    @property
    def cheapest(self) -> float:
        """The smallest share of work."""
        return self.fractions[0]

    @property
    def full(self) -> float:
        """The largest share of work."""
        return self.fractions[-1]

    def at(self, fraction: float) -> float:
        """The response at a share of work."""
        i = min(max(bisect_right(self.fractions, fraction) - 1, 0), len(self._slopes) - 1)
        return max(self.responses[i] + self._slopes[i] * (fraction - self.fractions[i]), 0.0)

    def can_be(self, fraction: float, response: float) -> bool:
        """Whether a call can have come out so: NaN, what is not above 0, and numbers of other orders cannot.

        The squares of such are no numbers any more.
        """
        usual = self.responses[-1]
        near = usual / _WILDEST < response < usual * _WILDEST
        return near and self.full / _WILDEST < fraction < self.full * _WILDEST

    def fraction_for(self, response: float) -> float:
        """The largest share of work whose response is at most this, at least 0; beyond the ends as ``at`` goes on."""
        i = min(max(bisect_right(self.responses, response) - 1, 0), len(self._slopes) - 1)
        slope = self._slopes[i]
        if slope == 0:  # level at an end: whatever fits there fits beyond
            return 0.0 if response < self.responses[i] else math.inf
        return max(self.fractions[i] + (response - self.responses[i]) / slope, 0.0)


def _non_falling(values: Sequence[float]) -> list[float]:
    """The closest non-falling sequence in least squares (pool adjacent violators)."""
    pools: list[list[float]] = []
    for value in values:
        pools.append([value, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    return [mean for mean, count in pools for _ in range(int(count))]
