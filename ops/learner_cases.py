"""Test inputs shared by the ops in which a token runs the first k of N learners."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adaptrt.ops.record import Array, Case, Field

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


def draw_weights(case: Case, generator: np.random.Generator, dtype: str, fields: Sequence[Field]) -> dict[str, Array]:
    """Draw learner weights scaled so that outputs have a standard deviation of about one.

    Args:
        case: Its axes give the sizes.
        generator: Drawn from field by field.
        dtype: Of the weights.
        fields: Matrices ``[N, in, out]`` and biases, in the op's order.
    """
    weights = {}
    for field in fields:
        sizes = [case.axes[axis] for axis in field.axes]
        if len(sizes) == 3:
            # A token's output is the sum over the hidden units of all learners.
            summed = sizes[1] * (sizes[0] if field.axes[1] == "h" else 1)
            scale = 1 / np.sqrt(max(summed, 1))
        else:
            scale = 0.5
        weights[field.name] = (generator.standard_normal(sizes) * scale).astype(dtype)
    return weights


def draw_learner_inputs(
    case: Case, generator: np.random.Generator, dtype: str, fields: Sequence[Field]
) -> dict[str, Array]:
    """Draw ``x``, ``k`` and the weights, in the order of the op's inputs ``fields``."""
    x = generator.standard_normal((case.axes["T"], case.axes["D"])).astype(dtype)
    k = draw_learners_run(case, generator)
    return {"x": x, "k": k, **draw_weights(case, generator, dtype, fields[2:])}
