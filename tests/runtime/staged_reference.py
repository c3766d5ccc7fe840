"""What the fixtures ``exits`` and ``tokens`` compute, in numpy and float64, one sample at a time.

Their weights and the inputs of the tests are multiples of 1/8, so that every sum is exact in float32 and
no result depends on the order of summation, nor a sample's on its batch-mates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
TOKENS = 6


@dataclass(frozen=True)
class Expected:
    """One sample: what each stage says of it, and the decisions taken in all stages (tokens only)."""

    logits: list[Array]
    confidence: list[float]
    macs_fraction: list[float]
    learners: list[Array]
    kept: list[Array]

    def exit(self, thresholds: Array) -> int:
        """The stage where it leaves."""
        sure = [c > np.float32(t) for c, t in zip(self.confidence, thresholds, strict=False)]
        return sure.index(True) if any(sure) else len(self.logits) - 1


def eighths(seed: int, *shape: int, scale: float = 1.0) -> Array:
    """Random multiples of 1/8, float32."""
    drawn = np.random.RandomState(seed).standard_normal(shape) * scale
    return (np.round(drawn * 8) / 8).astype(np.float32)


def exits_weights() -> dict[str, Array]:
    """The weights of ``exits``."""
    sizes = {"w0": (6, 5), "v0": (5,), "head0": (5, 3), "w1": (5, 5), "head1": (5, 3), "w2": (5, 5)}
    sizes |= {"v2": (5,), "wh": (2, 5), "head2": (5, 3)}
    return {name: eighths(seed, *shape, scale=0.5) for seed, (name, shape) in enumerate(sizes.items())}


def tokens_weights() -> dict[str, Array]:
    """The weights of ``tokens``."""
    sizes = {"v0": (4,), "head0": (4, 3), "v1": (4,), "head1": (4, 3)}
    return {name: eighths(seed + 20, *shape, scale=0.5) for seed, (name, shape) in enumerate(sizes.items())}


def exits_sample(x: Array, hint: Array, scale: Array, price: float = 0.0) -> Expected:
    """``exits`` for x [6], hint [2], scale [1]."""
    w = {name: value.astype(np.float64) for name, value in exits_weights().items()}
    price = float(np.float32(price))
    hidden = np.maximum(x.astype(np.float64) @ w["w0"], 0)
    run0 = hidden.sum() > 4 * price
    hidden = hidden + run0 * w["v0"]
    states, work = [hidden], [0.2 + 0.1 * run0]
    hidden = np.maximum(hidden @ w["w1"] * scale[0], 0)
    states, work = [*states, hidden], [*work, work[-1] + 0.3]
    hidden = np.maximum(hidden @ w["w2"], 0) + hint.astype(np.float64) @ w["wh"]
    run2 = hidden.sum() > 4 * price
    states, work = [*states, hidden + run2 * w["v2"]], [*work, work[-1] + 0.25 + 0.1 * run2]
    logits = [state @ w[f"head{stage}"] for stage, state in enumerate(states)]
    return Expected(logits, [float(softmax(row).max()) for row in logits], work, [], [])


def tokens_sample(
    x: Array, price: float = 0.0, token_price: float = -99.0, capacity: tuple[int, int] = (-1, -1)
) -> Expected:
    """``tokens`` for x [6, 4]; decisions over the six positions, as the runtime tells them."""
    w = {name: value.astype(np.float64) for name, value in tokens_weights().items()}
    hidden, there, work = x.astype(np.float64), np.arange(TOKENS), 0.1
    logits, confidence, macs, learners, kept = [], [], [], [], []
    for stage in range(2):
        score = hidden.sum(axis=1)
        k = (score > np.float32(price)).astype(int) + (score > np.float32(price) + 1)
        if capacity[stage] >= 0:
            k = np.minimum(k, capacity[stage])
        learners.append(spread(k, there, -1, np.int32))
        hidden = hidden + k[:, None] * w[f"v{stage}"]
        chosen = (score > np.float32(token_price) * (stage + 1)) | (there == 0)
        hidden, there = hidden[chosen], there[chosen]
        kept.append(spread(np.ones(len(there)), there, False, bool))
        work += 0.02 * k.sum() + 0.05 * len(there)
        logits.append(hidden.sum(axis=0) @ w[f"head{stage}"])
        top = max(logits[-1].max(), 0)
        confidence.append(float(np.float32(top) / np.float32(top + 4)))
        macs.append(work)
    return Expected(logits, confidence, macs, learners, kept)


def spread(values: Array, positions: Array, missing: Any, dtype: Any) -> Array:
    """Values at their positions among the six tokens."""
    found = np.full(TOKENS, missing, dtype)
    found[positions] = values
    return found


def softmax(logits: Array) -> Array:
    """Of one row."""
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()
