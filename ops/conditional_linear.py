"""ConditionalLinear: each token runs the first k of N low-rank linear learners.

The form that Adaptive Computation Modules (arXiv 2312.10193) take in attention projections, where
the published code uses the identity as activation: no hidden bias is needed then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adaptrt.ops.learner_cases import LEARNER_CASES, draw_learner_inputs
from adaptrt.ops.learner_parts import Product, exact_product, sum_of_learners
from adaptrt.ops.learner_prefix import learner_prefix_body, linear_text
from adaptrt.ops.record import Array, Case, Field, OpRecord, Tolerance

if TYPE_CHECKING:
    import onnx

_FLOATS = ("float32", "float16")
_INPUTS = (
    Field("x", _FLOATS, ("T", "D")),
    Field("k", ("int32",), ("T",)),
    Field("w1", _FLOATS, ("N", "D", "h")),
    Field("w2", _FLOATS, ("N", "h", "E")),
    Field("b2", _FLOATS, ("E",)),
)


def reference(x: Array, k: Array, w1: Array, w2: Array, b2: Array, product: Product = exact_product) -> Array:
    """Compute ``y_t = b2 + sum over n < k_t of x_t @ w1_n @ w2_n`` in float64.

    Args:
        x: Tokens, ``[T, D]``; T may be 0.
        k: Learners each token runs, int32 ``[T]``, clamped to 0..N.
        w1: ``[N, D, h]``.
        w2: ``[N, h, E]``.
        b2: ``[E]``.
        product: How rows and weights are multiplied.

    Returns:
        ``y[T, E]`` in the dtype of ``x``.

    Raises:
        ValueError: A shape or dtype is not the record's.
    """
    CONDITIONAL_LINEAR.check_inputs(x=x, k=k, w1=w1, w2=w2, b2=b2)
    return sum_of_learners(x, k, w2, b2, lambda rows, n: product(rows, w1[n]), product)


def body(learners: int) -> onnx.FunctionProto:
    """Give the portable body for ``learners`` = N learners."""
    return learner_prefix_body("ConditionalLinear", "x, k, w1, w2, b2", linear_text("hidden", "w1"), learners)


def make_inputs(case: Case, generator: np.random.Generator, dtype: str = "float32") -> dict[str, Array]:
    """Draw the inputs of one case, by name and in the op's order."""
    return draw_learner_inputs(case, generator, dtype, _INPUTS)


CONDITIONAL_LINEAR = OpRecord(
    name="ConditionalLinear",
    summary="y_t = b2 + sum_{n < k_t} x_t w1_n w2_n",
    axes={
        "T": "tokens of the whole batch",
        "N": "learners",
        "D": "input width",
        "h": "rank of one learner",
        "E": "output width",
    },
    inputs=_INPUTS,
    outputs=(Field("y", _FLOATS, ("T", "E")),),
    reference=reference,
    body=body,
    make_inputs=make_inputs,
    cases=LEARNER_CASES,
    tolerances={"float32": Tolerance(1e-5, 1e-5), "float16": Tolerance(1e-2, 1e-2)},
    static_axes={"N": "learners"},
)
