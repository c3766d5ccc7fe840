"""Test inputs shared by the ops in which a token runs the first k of N learners."""

from __future__ import annotations

import numpy as np

from adaptrt.ops.record import Array, Case

# Drawn "random", "none", "all" or "beyond": k outside 0..N, which must be clamped.
LEARNER_CASES: tuple[Case, ...] = (
    Case("random", {"T": 37, "N": 4, "D": 24, "h": 16, "E": 20}),
    Case("no_token", {"T": 0, "N": 4, "D": 8, "h": 8, "E": 8}),
    Case("one_token", {"T": 1, "N": 4, "D": 8, "h": 8, "E": 8}),
    Case("one_learner", {"T": 19, "N": 1, "D": 8, "h": 12, "E": 6}),
    Case("nothing_runs", {"T": 33, "N": 4, "D": 8, "h": 8, "E": 8}, "none"),
    Case("all_run", {"T": 33, "N": 4, "D": 8, "h": 8, "E": 8}, "all"),
    Case("k_outside_its_range", {"T": 40, "N": 3, "D": 8, "h": 8, "E": 8}, "beyond"),
    Case("many_tokens", {"T": 4099, "N": 4, "D": 16, "h": 16, "E": 16}),
    Case("many_learners", {"T": 65, "N": 9, "D": 12, "h": 4, "E": 12}),
)


def draw_learners_run(case: Case, generator: np.random.Generator) -> Array:
    """Draw ``k[T]`` (int32) as the case says."""
    tokens, learners = case.axes["T"], case.axes["N"]
    if case.draw == "none":
        return np.zeros(tokens, np.int32)
    if case.draw == "all":
        return np.full(tokens, learners, np.int32)
    margin = 3 if case.draw == "beyond" else 0
    return generator.integers(-margin, learners + margin, tokens, endpoint=True, dtype=np.int32)


def draw_weights(case: Case, generator: np.random.Generator, dtype: str, *, hidden_bias: bool) -> dict[str, Array]:
    """Draw learner weights scaled so that outputs have a standard deviation of about one."""
    n, d, h, e = (case.axes[axis] for axis in "NDhE")
    weights = {"w1": generator.standard_normal((n, d, h)) / np.sqrt(max(d, 1))}
    if hidden_bias:
        weights["b1"] = generator.standard_normal((n, h)) * 0.5
    weights["w2"] = generator.standard_normal((n, h, e)) / np.sqrt(max(n * h, 1))
    weights["b2"] = generator.standard_normal(e) * 0.5
    return {name: array.astype(dtype) for name, array in weights.items()}
