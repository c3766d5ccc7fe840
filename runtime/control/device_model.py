"""What the device makes of its profile: an affine model that follows drift, steps over outliers and catches steps.

A Kalman filter over ``response = a + b * profiled``, which is recursive least squares with forgetting whose
forgetting has a direction: a device that heats up or shares its cores slows everything by the same factor,
so uncertainty grows along (a, b) and hardly across it. Plain forgetting would forget the slope whenever
the choice stands still, and then mistake the effect of its own next choice for drift.
"""

from __future__ import annotations

import enum
import math
from statistics import median

_DRIFT = 0.005  # standard deviation of the common factor's change, per call
_SHAPE = 0.001  # of a's and b's own changes, per call, as shares of the profile's scale
_PRIOR = (0.03, 0.15)  # standard deviations of a and b before the first call, likewise
_AFTER_STEP = 0.15  # that the common factor is uncertain by after a step
_OUTLIER = 4.0  # standard deviations from where on an observation changes nothing by itself
_HUBER = 2.0  # from where on it counts less
_STEP_RUN = 3  # outliers in a row, to one side and alike, that are a step
_CHANCE = 1e-3  # a run of single outliers is no step unless it is rarer than this
_ALIKE = 1.5  # largest ratio among those
_LONGEST_RUN = 8  # outliers to one side that are a step however much they differ
_LARGEST_LEAN = 12.0  # standard deviations; chance alone gets there once in tens of thousands of calls
_NOISE_MEMORY = 0.97
_NOISE_LIMITS = (0.005, 0.3)
_SMALLEST_SLOPE = 0.02


class Finding(enum.Enum):
    """What an observation was taken for."""

    ORDINARY = enum.auto()
    OUTLIER = enum.auto()
    STEP = enum.auto()


class DeviceModel:
    """The affine model; not safe to share between threads.

    Args:
        scale: A typical response; all uncertainties are shares of it.
        noise: Relative standard deviation of single calls to begin with.
    """

    def __init__(self, scale: float, noise: float = 0.05) -> None:
        self._scale = scale
        self._a, self._b = 0.0, 1.0
        self._aa, self._ab, self._bb = _PRIOR[0] ** 2, 0.0, _PRIOR[1] ** 2
        self._variance = noise**2
        self._suspects: list[float] = []
        self._lean = 0.0  # standard deviations that the latest ordinary calls to one side add up to

    @property
    def noise(self) -> float:
        """Relative standard deviation of single calls."""
        return math.sqrt(self._variance)

    def predict(self, profiled: float) -> float:
        """Expected response where the profile says ``profiled``."""
        return max(self._a * self._scale + self._b * profiled, 1e-3 * profiled)

    def profiled_for(self, response: float) -> float:
        """The profiled response where ``response`` is expected."""
        return (response - self._a * self._scale) / self._b

    def observe(self, profiled: float, measured: float, odd: float = 0.0) -> Finding:
        """Take in one call.

        Args:
            profiled: What the profile says of the work that was done.
            measured: What it took; finite and above 0.
            odd: Share of single calls that are outliers now: the more there are, the longer a run of them has to
                be until it cannot be chance.

        Returns:
            What it is taken for: an outlier may turn out to have been the beginning of a step.
        """
        x, predicted = profiled / self._scale, self.predict(profiled)
        y, expected = measured / self._scale, predicted / self._scale
        a, b = self._a, self._b
        aa = self._aa + (_DRIFT * a) ** 2 + _SHAPE**2
        ab = self._ab + _DRIFT**2 * a * b
        bb = self._bb + (_DRIFT * b) ** 2 + _SHAPE**2
        noise = self._variance * expected**2
        spread = aa + 2 * x * ab + x * x * bb + noise
        error = y - expected
        distance = abs(error) / math.sqrt(spread)
        if distance > _OUTLIER:
            self._aa, self._ab, self._bb = aa, ab, bb
            return self._suspect(measured / predicted, odd)
        self._suspects.clear()
        changed = self._leans(math.copysign(distance, error))
        if distance > _HUBER:
            spread += noise * (distance / _HUBER - 1)
        gain_a, gain_b = (aa + x * ab) / spread, (ab + x * bb) / spread
        self._a = min(max(a + gain_a * error, -0.5 * self._b), 10.0)
        self._b = max(b + gain_b * error, _SMALLEST_SLOPE)
        self._aa = aa - gain_a * (aa + x * ab)
        self._ab = ab - gain_a * (ab + x * bb)
        self._bb = bb - gain_b * (ab + x * bb)
        relative = min(abs(error) / expected, 3 * self.noise)
        low, high = _NOISE_LIMITS
        variance = _NOISE_MEMORY * self._variance + (1 - _NOISE_MEMORY) * relative**2
        self._variance = min(max(variance, low**2), high**2)
        return Finding.STEP if changed else Finding.ORDINARY

    def _leans(self, deviation: float) -> bool:
        """Whether calls lie to one side for so long that the device has changed, by less than outliers show."""
        same = self._lean * deviation > 0
        self._lean = self._lean + deviation if same else deviation
        if abs(self._lean) < _LARGEST_LEAN:
            return False
        self._lean = 0.0
        return True

    def _suspect(self, ratio: float, odd: float) -> Finding:
        """Count an outlier; enough of them in a row are a step of the whole device."""
        if self._suspects and (ratio > 1) != (self._suspects[-1] > 1):
            self._suspects.clear()
        self._suspects.append(ratio)
        run = _STEP_RUN
        if odd > 0:
            run = min(max(run, math.ceil(math.log(_CHANCE) / math.log(min(odd, 0.5)))), _LONGEST_RUN)
        latest = self._suspects[-run:]
        alike = len(latest) == run and max(latest) < _ALIKE * min(latest)
        if not alike and len(self._suspects) < _LONGEST_RUN:
            return Finding.OUTLIER
        factor = median(latest)
        self._a *= factor
        self._b = max(self._b * factor, _SMALLEST_SLOPE)
        a, b = self._a, self._b
        self._aa = self._aa * factor**2 + (_AFTER_STEP * a) ** 2
        self._ab = self._ab * factor**2 + _AFTER_STEP**2 * a * b
        self._bb = self._bb * factor**2 + (_AFTER_STEP * b) ** 2
        self._suspects.clear()
        return Finding.STEP
