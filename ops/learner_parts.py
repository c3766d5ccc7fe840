"""What ops share in which token t runs the first k_t of N learners: kernels, fields, the sum over learners in numpy.

Three parts: the tokens ordered by k, each learner's hidden layer for those that run it, and one product with all
second layers. First and last are the same for every op; the one between them has the op's activation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from adaptrt.ops.record import Array, Field, Part, PartAttribute, Tolerance

FLOATS = ("float32", "float16", "bfloat16")
AXES = {
    "T": "tokens of the whole batch",
    "N": "learners",
    "D": "input width",
    "h": "hidden width of one learner",
    "E": "output width",
}
TOLERANCES = {
    "float32": Tolerance(1e-5, 1e-5),
    "float16": Tolerance(1e-2, 1e-2),
    "bfloat16": Tolerance(3e-2, 3e-2),
}

X = Field("x", FLOATS, ("T", "D"))
K = Field("k", ("int32",), ("T",))
Y = Field("y", FLOATS, ("T", "E"))
W2 = Field("w2", FLOATS, ("N", "h", "E"))
B2 = Field("b2", FLOATS, ("E",))
_ORDER = Field("order", ("int32",), ("T",))
_RUNNING = Field("running", ("int32",), ("N",))
_HIDDEN = Field("hidden", FLOATS, ("T", "N*h"))
_X_SCALE = Field("x_scale", ("float32",), ())
_HIDDEN_SCALE = Field("hidden_scale", ("float32",), ("N",))

ORDER = Part(
    name="ConditionalMLPOrder",
    kernel="conditional_mlp_order",
    inputs=(K,),
    sizes=("T", "N"),
    outputs=(_ORDER, _RUNNING),
    attributes=(PartAttribute("learners", "N"),),
)
DOWN = Part(
    name="ConditionalMLPDown",
    kernel="conditional_mlp_down",
    inputs=(_HIDDEN, _ORDER, _RUNNING, W2, B2),
    sizes=("T", "N", "h", "E"),
    outputs=(Y,),
    weights=("w2",),
    activations=("hidden",),
    scales=(_HIDDEN_SCALE,),
)


def learner_parts(op: str, kernel: str, first_layers: Sequence[Field], activation: str) -> tuple[Part, ...]:
    """Give the parts of an op.

    Args:
        op: Its name; the part between the shared ones is called after it.
        kernel: Of that part.
        first_layers: Matrices ``[N, D, h]`` and biases ``[N, h]`` that it reads, in order.
        activation: Its constant.
    """
    up = Part(
        name=f"{op}Up",
        kernel=kernel,
        inputs=(X, _ORDER, _RUNNING, *first_layers),
        sizes=("T", "N", "D", "h"),
        outputs=(_HIDDEN,),
        weights=tuple(field.name for field in first_layers if len(field.axes) == 3),
        activations=("hidden",),
        scales=(_X_SCALE, _HIDDEN_SCALE),
        constants={"ACTIVATION": activation},
    )
    return ORDER, up, DOWN


Product = Callable[[Array, Array], Array]
"""Gives rows ``[T, D]`` times weights ``[D, E]``, in float64."""


Stored = Callable[[Array, int], Array]
"""Gives learner n's hidden layer ``[rows, h]`` as it is between both products, in float64."""


def exact_product(rows: Array, weight: Array) -> Array:
    """In float64."""
    product: Array = rows.astype(np.float64) @ weight.astype(np.float64)
    return product


def stored_exactly(hidden: Array, n: int) -> Array:  # noqa: ARG001 - of every learner alike
    """In float64."""
    return hidden


def sum_of_learners(
    x: Array,
    k: Array,
    w2: Array,
    b2: Array,
    hidden: Callable[[Array, int], Array],
    product: Product = exact_product,
    stored: Stored = stored_exactly,
) -> Array:
    """Compute ``y_t = b2 + sum over n < k_t of hidden(x_t, n) @ w2_n`` in float64.

    Args:
        x: ``[T, D]``; T may be 0.
        k: int32 ``[T]``, clamped to 0..N.
        w2: ``[N, h, E]``.
        b2: ``[E]``.
        hidden: Gives learner n's hidden layer, ``[rows, h]``, for rows of x in float64.
        product: How rows and weights are multiplied; see ``ops/int8.py`` for another way.
        stored: How hidden layers are kept between the products; see ``ops/int8_forms.py`` for other ways.

    Returns:
        ``y[T, E]`` in the dtype of ``x``.
    """
    y = np.repeat(b2[None].astype(np.float64), len(x), axis=0)
    for n in range(len(w2)):
        rows = k > n
        if rows.any():
            y[rows] += product(stored(hidden(x[rows].astype(np.float64), n), n), w2[n])
    return y.astype(x.dtype)
