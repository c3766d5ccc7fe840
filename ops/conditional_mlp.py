"""ConditionalMLP: each token runs the first k of N small MLPs; one op for each activation.

Source: Adaptive Computation Modules, arXiv 2312.10193, section 3.1: h(z, k) = sum over n <= k of
s_n(z), with s_n = Linear, activation, Linear. One output bias serves all learners.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from adaptrt.ops.activations import ACTIVATIONS, GELU, Activation
from adaptrt.ops.learner_cases import LEARNER_CASES, draw_learner_inputs
from adaptrt.ops.learner_parts import (
    AXES,
    B2,
    FLOATS,
    TOLERANCES,
    W2,
    K,
    Product,
    Stored,
    X,
    Y,
    exact_product,
    learner_parts,
    stored_exactly,
    sum_of_learners,
)
from adaptrt.ops.learner_prefix import learner_prefix_body, linear_text
from adaptrt.ops.record import Array, Case, Field, OpRecord

if TYPE_CHECKING:
    import onnx

_FIRST_LAYER = (Field("w1", FLOATS, ("N", "D", "h")), Field("b1", FLOATS, ("N", "h")))
_INPUTS = (X, K, *_FIRST_LAYER, W2, B2)


def reference(
    activation: Activation,
    x: Array,
    k: Array,
    w1: Array,
    b1: Array,
    w2: Array,
    b2: Array,
    product: Product = exact_product,
    stored: Stored = stored_exactly,
) -> Array:
    """Compute ``y_t = b2 + sum over n < k_t of act(x_t @ w1_n + b1_n) @ w2_n`` in float64.

    Args:
        activation: ``act``.
        x: Tokens, ``[T, D]``; T may be 0.
        k: Learners each token runs, int32 ``[T]``, clamped to 0..N.
        w1: ``[N, D, h]``.
        b1: ``[N, h]``.
        w2: ``[N, h, E]``.
        b2: ``[E]``.
        product: How rows and weights are multiplied.
        stored: How hidden layers are kept between the products.

    Returns:
        ``y[T, E]`` in the dtype of ``x``.

    Raises:
        ValueError: A shape or dtype is not the record's.
    """
    CONDITIONAL_MLP.check_inputs(x=x, k=k, w1=w1, b1=b1, w2=w2, b2=b2)

    def hidden(rows: Array, n: int) -> Array:
        return activation.reference(product(rows, w1[n]) + b1[n].astype(np.float64))

    return sum_of_learners(x, k, w2, b2, hidden, product, stored)


def body(activation: Activation, learners: int) -> onnx.FunctionProto:
    """Give the portable body for ``learners`` = N learners."""
    active = activation.body.format(z="biased{n}", y="hidden{n}", n="{n}")
    hidden = linear_text("biased", "w1", "b1") + "\n" + active
    inputs = ", ".join(field.name for field in _INPUTS)
    return learner_prefix_body(activation.mlp, inputs, hidden, learners, constants=activation.constants)


def make_inputs(case: Case, generator: np.random.Generator, dtype: str = "float32") -> dict[str, Array]:
    """Draw the inputs of one case, by name and in the op's order."""
    return draw_learner_inputs(case, generator, dtype, _INPUTS)


def conditional_mlp(activation: Activation) -> OpRecord:
    """Give the record of the op with one activation."""
    return OpRecord(
        name=activation.mlp,
        summary=f"y_t = b2 + sum_{{n < k_t}} a_n w2_n, a_n = {activation.formula.format(z='z_n')}, "
        "z_n = x_t w1_n + b1_n",
        axes=AXES,
        inputs=_INPUTS,
        outputs=(Y,),
        reference=partial(reference, activation),
        body=partial(body, activation),
        make_inputs=make_inputs,
        cases=LEARNER_CASES,
        tolerances=TOLERANCES,
        static_axes={"N": "learners"},
        parts=learner_parts(activation.mlp, "conditional_mlp_up", _FIRST_LAYER, activation.name),
    )


CONDITIONAL_MLPS: tuple[OpRecord, ...] = tuple(conditional_mlp(row) for row in ACTIVATIONS.values())
"""The ops of all activations."""

CONDITIONAL_MLP = next(record for record in CONDITIONAL_MLPS if record.name == GELU.mlp)
"""The op with the exact GELU."""
