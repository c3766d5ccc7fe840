"""ConditionalMLP: each token runs the first k of N small MLPs.

Source: Adaptive Computation Modules, arXiv 2312.10193, section 3.1: h(z, k) = sum over n <= k of
s_n(z), with s_n = Linear, activation, Linear. One output bias serves all learners.
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from adaptrt.ops.learner_cases import LEARNER_CASES, draw_learners_run, draw_weights
from adaptrt.ops.learner_prefix import learner_prefix_body
from adaptrt.ops.record import Array, Case, Field, OpRecord, Tolerance

_FLOATS = ("float32", "float16", "bfloat16")
_erf = np.vectorize(math.erf, otypes=[np.float64])

_HIDDEN = """  w1_{n} = Gather <axis = 0> (w1, index{n})
  b1_{n} = Gather <axis = 0> (b1, index{n})
  product{n} = MatMul (x{n}, w1_{n})
  biased{n} = Add (product{n}, b1_{n})
  hidden{n} = Gelu (biased{n})"""


def reference(x: Array, k: Array, w1: Array, b1: Array, w2: Array, b2: Array) -> Array:
    """Compute ``y_t = b2 + sum over n < k_t of gelu(x_t @ w1_n + b1_n) @ w2_n`` in float64.

    Args:
        x: Tokens, ``[T, D]``; T may be 0.
        k: Learners each token runs, int32 ``[T]``, clamped to 0..N.
        w1: ``[N, D, h]``.
        b1: ``[N, h]``.
        w2: ``[N, h, E]``.
        b2: ``[E]``.

    Returns:
        ``y[T, E]`` in the dtype of ``x``. GELU is the exact (erf) one.

    Raises:
        ValueError: A shape or dtype is not the record's.
    """
    CONDITIONAL_MLP.check_inputs(x=x, k=k, w1=w1, b1=b1, w2=w2, b2=b2)
    y = np.repeat(b2[None].astype(np.float64), len(x), axis=0)
    for n in range(len(w1)):
        rows = k > n
        if rows.any():
            z = x[rows].astype(np.float64) @ w1[n].astype(np.float64) + b1[n]
            y[rows] += (0.5 * z * (1 + _erf(z / math.sqrt(2)))) @ w2[n].astype(np.float64)
    return y.astype(x.dtype)


def body(learners: int) -> onnx.FunctionProto:
    """Give the portable body for ``learners`` = N learners."""
    return learner_prefix_body("ConditionalMLP", "x, k, w1, b1, w2, b2", _HIDDEN, learners)


def make_inputs(case: Case, generator: np.random.Generator, dtype: str = "float32") -> dict[str, Array]:
    """Draw the inputs of one case, by name and in the op's order."""
    x = generator.standard_normal((case.axes["T"], case.axes["D"])).astype(dtype)
    k = draw_learners_run(case, generator)
    return {"x": x, "k": k, **draw_weights(case, generator, dtype, hidden_bias=True)}


CONDITIONAL_MLP = OpRecord(
    name="ConditionalMLP",
    summary="y_t = b2 + sum_{n < k_t} gelu(x_t w1_n + b1_n) w2_n",
    axes={
        "T": "tokens of the whole batch",
        "N": "learners",
        "D": "input width",
        "h": "hidden width of one learner",
        "E": "output width",
    },
    inputs=(
        Field("x", _FLOATS, ("T", "D")),
        Field("k", ("int32",), ("T",)),
        Field("w1", _FLOATS, ("N", "D", "h")),
        Field("b1", _FLOATS, ("N", "h")),
        Field("w2", _FLOATS, ("N", "h", "E")),
        Field("b2", _FLOATS, ("E",)),
    ),
    outputs=(Field("y", _FLOATS, ("T", "E")),),
    reference=reference,
    body=body,
    make_inputs=make_inputs,
    cases=LEARNER_CASES,
    tolerances={"float32": Tolerance(1e-5, 1e-5), "float16": Tolerance(1e-2, 1e-2), "bfloat16": Tolerance(3e-2, 3e-2)},
    static_axes={"N": "learners"},
)
