"""Ways of choosing the share of work call by call, the controller among them."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Protocol

from adaptrt.runtime.control.controller import LatencyController
from adaptrt.runtime.control.response_curve import ResponseCurve

_GAIN = 0.5  # of the proportional controller, in widths of the curve per relative error
_AIM = 0.9  # share of the target that it steers for


class Rival(Protocol):
    """Told the time before and after every call, like ``LatencyController``."""

    def choose(self, now: float) -> float:
        """The share of work to ask for."""
        ...

    def observe(self, now: float, fraction: float, done: float, measured: float) -> None:
        """What the call took."""
        ...


class Uncontrolled:
    """Runs everything, always."""

    def __init__(self, target: float, curve: ResponseCurve, percentile: float, noise: float) -> None:  # noqa: ARG002
        self._fraction = curve.full

    def choose(self, now: float) -> float:  # noqa: ARG002
        """Everything."""
        return self._fraction

    def observe(self, now: float, fraction: float, done: float, measured: float) -> None:
        """Learns nothing."""


class FixedPoint(Uncontrolled):
    """Runs the best point whose profiled percentile fits, always."""

    def __init__(self, target: float, curve: ResponseCurve, percentile: float, noise: float) -> None:
        super().__init__(target, curve, percentile, noise)
        self._fraction = curve.fraction_for(target / NormalDist(1.0, noise).inv_cdf(percentile))


class Proportional(Uncontrolled):
    """Moves the share by the relative error of the last call."""

    def __init__(self, target: float, curve: ResponseCurve, percentile: float, noise: float) -> None:
        super().__init__(target, curve, percentile, noise)
        self._target, self._curve = target, curve

    def observe(self, now: float, fraction: float, done: float, measured: float) -> None:  # noqa: ARG002
        """Up if there was room, down if there was none."""
        error = (_AIM * self._target - measured) / self._target
        width = self._curve.full - self._curve.cheapest
        self._fraction = min(max(fraction + _GAIN * width * error, self._curve.cheapest), self._curve.full)


class Controlled:
    """The runtime's own controller."""

    def __init__(self, target: float, curve: ResponseCurve, percentile: float, noise: float) -> None:
        self._controller = LatencyController(target, curve, percentile=percentile, noise=noise)

    def choose(self, now: float) -> float:
        """The controller's choice."""
        self._choice = self._controller.choose(now)
        return self._choice.fraction

    def observe(self, now: float, fraction: float, done: float, measured: float) -> None:  # noqa: ARG002
        """Told to the controller."""
        self._controller.observe(now, self._choice, done, measured)


RIVALS: dict[str, Callable[[float, ResponseCurve, float, float], Rival]] = {
    "no control": Uncontrolled,
    "fixed point": FixedPoint,
    "proportional": Proportional,
    "controller": Controlled,
}
