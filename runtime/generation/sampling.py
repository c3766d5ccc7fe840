"""How a token is chosen from a row of logits."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from adaptrt.runtime.errors import InputError, OutputError, shown
from adaptrt.runtime.generation.largest_logits import largest_ids


def log_probabilities(
    logits: npt.NDArray[np.floating], *, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0
) -> npt.NDArray[np.float64]:
    """``[V]`` logits to ``[V]`` log probabilities; what was cut off has ``-inf``.

    In the usual order: temperature, then the ``top_k`` largest, then the fewest that hold ``top_p`` of the rest
    (nucleus sampling, arXiv 1904.09751, section 3.1). Which of equal logits are cut off is left open.

    Raises:
        InputError: An option is out of range.
        OutputError: A logit is not a number, or none is finite.
    """
    check_options(temperature, top_k, top_p)
    if temperature == 0:
        raise InputError("got temperature 0, expected one above 0: at 0 there is one token and nothing to draw")
    ids, weights = _candidates(_checked(logits), temperature, top_k, top_p)
    result = np.full(logits.shape, -np.inf)
    with np.errstate(divide="ignore"):  # a weight may be too small for a number: that token is never drawn
        result[ids] = np.log(weights / weights.sum())
    return result


def check_options(temperature: float, top_k: int | None, top_p: float) -> None:
    """See that a text can be written with these.

    Raises:
        InputError: One is out of range.
    """
    if not (isinstance(temperature, (int, float)) and 0 <= temperature < math.inf):
        raise InputError(f"got temperature={shown(temperature)}, expected a number from 0; 0 takes the likeliest token")
    if top_k is not None and not (isinstance(top_k, int) and top_k >= 1):
        raise InputError(f"got top_k={shown(top_k)}, expected a count from 1, or None for all")
    if not (isinstance(top_p, (int, float)) and 0 < top_p <= 1):
        raise InputError(f"got top_p={shown(top_p)}, expected a share above 0 and at most 1")


class Sampler:
    """Chooses tokens one after the other; with the same seed and logits the same ones.

    Args:
        temperature: 0 takes the likeliest token, of equal ones the smallest number.
        top_k: How many of the likeliest to draw from; None for all.
        top_p: Of how much probability.
        seed: None takes another one each time.

    Raises:
        InputError: An option is out of range.
    """

    def __init__(
        self, temperature: float = 0.0, top_k: int | None = None, top_p: float = 1.0, seed: int | None = None
    ) -> None:
        check_options(temperature, top_k, top_p)
        if seed is not None and not (isinstance(seed, int) and seed >= 0):
            raise InputError(f"got seed={shown(seed)}, expected a whole number from 0, or None")
        self._temperature, self._top_k, self._top_p = temperature, top_k, top_p
        self._random = np.random.default_rng(seed)

    def choose(self, logits: npt.NDArray[np.floating]) -> int:
        """A token by ``[V]`` logits; one random number is drawn, none at temperature 0.

        Raises:
            OutputError: A logit is not a number, or none is finite.
        """
        if self._temperature == 0:
            return int(np.argmax(_checked(logits)))
        ids, weights = _candidates(_checked(logits), self._temperature, self._top_k, self._top_p)
        mass = np.cumsum(weights)
        # A share of the last sum, which rounding leaves a little beside the true one: no draw falls behind the end.
        return int(ids[np.searchsorted(mass, self._random.random() * mass[-1], side="right")])


def _candidates(
    logits: npt.NDArray[np.floating], temperature: float, top_k: int | None, top_p: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """``[n]`` ids that may be drawn and ``[n]`` weights, without the milliseconds of sorting a vocabulary."""
    if top_k is not None and top_k < len(logits):
        ids = largest_ids(logits[np.newaxis], top_k)[0]
    else:
        ids = np.arange(len(logits))
    scaled = logits[ids].astype(np.float64)
    # The difference first: a tiny temperature must not overflow.
    weights = np.exp((scaled - scaled.max()) / temperature)
    if top_p < 1:
        total = weights.sum()
        # All that is lighter holds less than 1 - top_p together, so it comes after the last token that is kept.
        heavy = np.flatnonzero(weights >= (1 - top_p) * total / len(weights))
        heavy = heavy[np.argsort(-weights[heavy], kind="stable")]
        before = np.cumsum(weights[heavy]) - weights[heavy]
        heavy = heavy[before < top_p * total]
        ids, weights = ids[heavy], weights[heavy]
    return ids, weights


def _checked(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    largest = logits.max()  # not a number where any is not
    if not math.isfinite(largest):
        raise OutputError(f"got {largest} among the logits of a token, expected numbers; check the model's precision")
    return logits
