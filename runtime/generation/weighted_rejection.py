"""Constrained sampling that checks few tokens: adaptive weighted rejection (arXiv 2504.05410).

A token is drawn from the model's distribution without replacement until one is allowed. That is a draw from the
distribution restricted to the allowed tokens, exactly. One further check gives the weight, an unbiased estimate of how
much probability the allowed tokens hold, by which sequences are compared with each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from adaptrt import AdaptrtError
from adaptrt.runtime.errors import one_line


class ConstraintError(AdaptrtError):
    """A constraint allowed no token, or failed while it was asked."""


class Draw(NamedTuple):
    """A token that the constraint allows.

    Attributes:
        token: Its number.
        log_weight: Logarithm of an unbiased estimate of the allowed tokens' probability.
        checks: How many tokens the constraint was asked about.
    """

    token: int
    log_weight: float
    checks: int


def draw_allowed(
    logp: npt.NDArray[np.float64],
    allowed: Callable[[int], bool],
    random: np.random.Generator,
    *,
    max_checks: int | None = None,
) -> Draw:
    """Draw one of the allowed tokens, each with its share of their probability.

    The order is that of ``logp + Gumbel noise``, which draws without replacement (arXiv 1903.06059, section 2.3). With
    R rejected before token y, and z the next in the order, the weight is p(y) + (1 - p(R) - p(y)) [z is allowed]: given
    R and y, z is a draw from what is left, so the expectation is the allowed tokens' probability, and the weight is
    never 0.

    Args:
        logp: ``[V]`` log probabilities; ``-inf`` is never asked about.
        allowed: Asked about a token once at most.
        random: Source of the noise; ``V`` numbers are drawn.
        max_checks: Give up after so many; None asks about all.

    Raises:
        ConstraintError: No token that was asked about is allowed, or the constraint failed.
    """
    noise = random.gumbel(size=logp.shape)
    order = np.argsort(-(logp + noise), kind="stable")
    order = order[np.isfinite(logp[order])]
    rejected: list[int] = []
    limit = len(order) if max_checks is None else min(max_checks, len(order))
    for place in range(limit):
        token = int(order[place])
        if _ask(allowed, token):
            break
        rejected.append(token)
    else:
        raise ConstraintError(
            f"got no allowed token among {limit} of {len(order)}, expected one; loosen the constraint"
            + (", or raise the number of checks" if limit < len(order) else "")
        )
    chosen = math.exp(logp[token])
    rest = math.fsum([1.0, -chosen, *(-math.exp(logp[other]) for other in rejected)])
    checks, weight = place + 1, chosen
    if checks < len(order) and rest > 0:
        checks += 1
        weight += rest * _ask(allowed, int(order[place + 1]))
    return Draw(token, math.log(weight), checks)


def _ask(allowed: Callable[[int], bool], token: int) -> bool:
    try:
        return bool(allowed(token))
    except Exception as error:  # whatever a caller's function raises
        raise ConstraintError(
            f"got {type(error).__name__} ({one_line(error)}) from the constraint at token {token}, "
            "expected true or false"
        ) from error
