"""ConditionalSwiGLU, ConditionalGeGLU and their kin: each token runs the first k of N small gated MLPs.

The gated form of ConditionalMLP. Source of the layer: GLU Variants Improve Transformer, arXiv 2002.05202, equation 6;
of the sum over learners: arXiv 2312.10193, section 3.1. Llama and Qwen gate by SiLU, Gemma by the GELU with a
hyperbolic tangent. Biases are always there, zeros where a network has none: inputs that may be missing would
need a second body under one name.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from adaptrt.ops.activations import ACTIVATIONS, Activation
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

_FIRST_LAYERS = (
    Field("w1", FLOATS, ("N", "D", "h")),
    Field("b1", FLOATS, ("N", "h")),
    Field("v1", FLOATS, ("N", "D", "h")),
    Field("c1", FLOATS, ("N", "h")),
)
_INPUTS = (X, K, *_FIRST_LAYERS, W2, B2)
_BIAS_IN_BODY = "v1_bias"  # bodies of learners call c1 what counts the tokens of the first one


def reference(
    activation: Activation,
    x: Array,
    k: Array,
    w1: Array,
    b1: Array,
    v1: Array,
    c1: Array,
    w2: Array,
    b2: Array,
    product: Product = exact_product,
    stored: Stored = stored_exactly,
) -> Array:
    """Compute ``y_t = b2 + sum over n < k_t of (act(x_t @ w1_n + b1_n) * (x_t @ v1_n + c1_n)) @ w2_n`` in float64.

    Args:
        activation: ``act``, of the gate.
        x: Tokens, ``[T, D]``; T may be 0.
        k: Learners each token runs, int32 ``[T]``, clamped to 0..N.
        w1: Of the gate, ``[N, D, h]``.
        b1: Of the gate, ``[N, h]``.
        v1: Of what is gated, ``[N, D, h]``.
        c1: Of what is gated, ``[N, h]``.
        w2: ``[N, h, E]``.
        b2: ``[E]``.
        product: How rows and weights are multiplied.
        stored: How hidden layers are kept between the products.

    Returns:
        ``y[T, E]`` in the dtype of ``x``.

    Raises:
        ValueError: A shape or dtype is not the record's.
    """
    CONDITIONAL_GLUS[0].check_inputs(x=x, k=k, w1=w1, b1=b1, v1=v1, c1=c1, w2=w2, b2=b2)

    def linear(rows: Array, weight: Array, bias: Array) -> Array:
        return product(rows, weight) + bias.astype(np.float64)

    def hidden(rows: Array, n: int) -> Array:
        gated: Array = activation.reference(linear(rows, w1[n], b1[n])) * linear(rows, v1[n], c1[n])
        return gated

    return sum_of_learners(x, k, w2, b2, hidden, product, stored)


def body(activation: Activation, learners: int) -> onnx.FunctionProto:
    """Give the portable body for ``learners`` = N learners."""
    gate = activation.body.format(z="biased{n}", y="gate{n}", n="{n}")
    hidden = "\n".join(
        [
            linear_text("biased", "w1", "b1"),
            gate,
            linear_text("gated", "v1", _BIAS_IN_BODY, "gated_product"),
            "  hidden{n} = Mul (gate{n}, gated{n})",
        ]
    )
    inputs = ", ".join(_BIAS_IN_BODY if field.name == "c1" else field.name for field in _INPUTS)
    return learner_prefix_body(activation.glu, inputs, hidden, learners, constants=activation.constants)


def make_inputs(case: Case, generator: np.random.Generator, dtype: str = "float32") -> dict[str, Array]:
    """Draw the inputs of one case, by name and in the op's order."""
    return draw_learner_inputs(case, generator, dtype, _INPUTS)


def conditional_glu(activation: Activation) -> OpRecord:
    """Give the record of the op that is gated by one activation.

    Raises:
        ValueError: The activation's row names no gated op.
    """
    if not activation.glu:
        raise ValueError(f"got activation {activation.name}, expected one whose row names a gated op; name it there")
    return OpRecord(
        name=activation.glu,
        summary=f"y_t = b2 + sum_{{n < k_t}} (g_n * (x_t v1_n + c1_n)) w2_n, "
        f"g_n = {activation.formula.format(z='z_n')}, z_n = x_t w1_n + b1_n",
        axes=AXES,
        inputs=_INPUTS,
        outputs=(Y,),
        reference=partial(reference, activation),
        body=partial(body, activation),
        make_inputs=make_inputs,
        cases=LEARNER_CASES,
        tolerances=TOLERANCES,
        static_axes={"N": "learners"},
        parts=learner_parts(activation.glu, "conditional_glu_up", _FIRST_LAYERS, activation.name),
    )


CONDITIONAL_GLUS: tuple[OpRecord, ...] = tuple(conditional_glu(row) for row in ACTIVATIONS.values() if row.glu)
"""The ops of all activations that gate."""
