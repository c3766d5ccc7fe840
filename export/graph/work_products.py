"""Multiply-accumulates of single operators, from the shapes in an exported program.

Counted are products only, as ``adaptrt.models.macs`` says. Every other operator must be one that is known to have
none: a core operator of ATen that is no product, or one of a few beside them. What is neither is refused: an operator
that nobody knows may be all of the work.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import sympy
import torch
from torch import fx

aten = torch.ops.aten

UNSPLIT = (
    aten.linear.default,
    aten.matmul.default,
    aten.mv.default,
    aten.dot.default,
    aten.einsum.default,
    aten.scaled_dot_product_attention.default,
)
"""Operators that are counted as the user wrote them, before torch takes them apart: ONNX has them whole as well."""

_OF_SIZES = frozenset({"_operator", "builtins", "math", "torch", "torch.fx.experimental.sym_node"})
_NOT_COUNTABLE = frozenset(
    {"_cdist_forward", "_pdist_forward", "_fft_c2r", "_fft_r2c", "_fft_c2c", "convolution_backward"}
)
_HARMLESS = frozenset(
    {
        *("_assert_async", "_assert_scalar", "_assert_tensor_metadata", "_index_put_impl", "_masked_softmax", "_stack"),
        *("adaptive_max_pool2d", "adaptive_max_pool3d", "angle", "as_strided_scatter", "bitwise_left_shift"),
        *("bitwise_right_shift", "bucketize", "copysign", "cummax", "cummin", "cumprod", "diagonal_scatter", "erfc"),
        *("erfinv", "exp2", "fmax", "fmin", "frexp", "gcd", "grid_sampler_3d", "hypot", "index_reduce", "isin"),
        *("kthvalue", "lcm", "ldexp", "lift", "lift_fresh", "lift_fresh_copy", "linalg_vector_norm", "logcumsumexp"),
        *("median", "mode", "nanmedian", "nextafter", "searchsorted", "signbit", "sym_constrain_range"),
        *("sym_constrain_range_for_size", "tril_indices", "triu_indices", "unfold"),
    }
)
"""Operators without products that are no core operators of ATen, and that torch does not take apart into those."""


_WHOLE = frozenset(
    {
        *("__and__", "__or__", "__xor__", "clamp_min", "clamp_max", "floor_divide", "detach_", "adaptive_avg_pool1d"),
        *("adaptive_avg_pool2d", "alpha_dropout", "argsort", "avg_pool1d", "avg_pool2d"),
        *("batch_norm", "broadcast_to", "chunk", "clamp", "concat", "contiguous", "detach", "dropout", "expand_as"),
        *(
            "feature_dropout",
            "flatten",
            "gelu",
            "group_norm",
            "hardsigmoid",
            "hardswish",
            "instance_norm",
            "layer_norm",
        ),
        *("leaky_relu", "log_sigmoid", "log_softmax", "logsumexp", "max_pool1d", "max_pool2d", "mish", "movedim"),
        *("narrow", "new_ones", "new_zeros", "ones", "ones_like", "pad", "prelu", "reshape", "relu_", "relu6"),
        *("rms_norm", "rsub", "selu", "silu", "softmax", "softplus", "split", "split_with_sizes", "square", "stack"),
        *("sum_to_size", "swapaxes", "t", "to", "transpose", "type_as", "unbind", "unflatten", "upsample_bilinear2d"),
        *(
            "upsample_nearest2d",
            "view_as",
            "zeros",
            "zeros_like",
            "std",
            "one_hot",
            "sigmoid_",
            "tensor_split",
            "true_divide",
        ),
    }
)
"""Operators without products that torch would take apart; known whole, the program need not be taken apart at all."""


class UncountedProductError(Exception):
    """An operator whose multiply-accumulates are not known; says what was expected instead."""


def sizes(node: fx.Node) -> list[sympy.Expr]:
    """Shape of what a node gives, in the program's symbols."""
    return [_expression(size) for size in node.meta["val"].shape]


def product_macs(node: fx.Node) -> sympy.Expr | None:
    """Multiply-accumulates of a node of ATen; None where it has none.

    Raises:
        UncountedProductError: It may have some that cannot be counted.
    """
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        if callable(target) and getattr(target, "__module__", "") in _OF_SIZES:
            return None  # arithmetic of sizes
        raise UncountedProductError("operators of torch; write it with those")
    name = target._schema.name.removeprefix("aten::")
    if target.namespace == "aten" and name in _COUNTS:
        return _COUNTS[name](node)
    packet = getattr(aten, name, None) if target.namespace == "aten" else None
    overloads = [] if packet is None else [getattr(packet, overload) for overload in packet.overloads()]
    known = any(torch.Tag.core in each.tags for each in overloads) and name not in _NOT_COUNTABLE
    if target.namespace == "aten" and (known or name in _HARMLESS | _WHOLE or name.startswith(("sym_", "_sym"))):
        return None
    raise UncountedProductError(
        "matmul, linear, convolution, einsum of two operands or scaled_dot_product_attention for its products; write "
        "it with these"
    )


def is_known(node: fx.Node) -> bool:
    """Whether a node is counted as it is: its products are, or it has none."""
    if node.op != "call_function":
        return True
    try:
        product_macs(node)
    except UncountedProductError:
        return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "onnx_symbolic"
    return True


def _expression(size: Any) -> sympy.Expr:
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size)


def _tensor(node: fx.Node, place: int, name: str = "") -> fx.Node:
    tensor = node.args[place] if place < len(node.args) else node.kwargs[name]
    assert isinstance(tensor, fx.Node)
    return tensor


def _matrix(first: int) -> Callable[[fx.Node], sympy.Expr]:
    """A product of two matrices, or of batches of them, whose operands start at argument ``first``."""

    def count(node: fx.Node) -> sympy.Expr:
        return prod(sizes(_tensor(node, first))) * sizes(_tensor(node, first + 1))[-1]

    return count


def _matmul(node: fx.Node) -> sympy.Expr:
    return prod(sizes(node), start=sympy.Integer(1)) * sizes(_tensor(node, 0))[-1]


def _linear(node: fx.Node) -> sympy.Expr:
    return prod(sizes(_tensor(node, 0))) * prod(sizes(_tensor(node, 1))[:-1], start=sympy.Integer(1))


def _convolution(node: fx.Node) -> sympy.Expr:
    """Of every place of what comes out, or of what goes in where it is transposed; zeros around it included."""
    transposed = bool(node.args[6])
    weight = sizes(_tensor(node, 1))
    return prod(sizes(_tensor(node, 0) if transposed else node)) * prod(weight[1:])


def _plain_convolution(node: fx.Node) -> sympy.Expr:
    return prod(sizes(node)) * prod(sizes(_tensor(node, 1))[1:])


def _transposed_convolution(node: fx.Node) -> sympy.Expr:
    return prod(sizes(_tensor(node, 0))) * prod(sizes(_tensor(node, 1))[1:])


def _attention(node: fx.Node) -> sympy.Expr:
    query, key, value = (sizes(_tensor(node, place, name)) for place, name in enumerate(("query", "key", "value")))
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _einsum(node: fx.Node) -> sympy.Expr:
    """The product of all axes: what a single sum over them costs."""
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    assert isinstance(operands, list | tuple)
    parts = equation.split("->")[0].split(",")
    if len(operands) != 2 or "." in equation:
        raise UncountedProductError("einsum of two operands with a letter for each axis; write it so")
    axes: dict[str, sympy.Expr] = {}
    for letters, operand in zip(parts, operands, strict=True):
        assert isinstance(operand, fx.Node)
        axes.update(zip(letters, sizes(operand), strict=True))
    return prod(axes.values())


_COUNTS: dict[str, Callable[[fx.Node], sympy.Expr]] = {
    "mm": _matrix(0),
    "bmm": _matrix(0),
    "addmm": _matrix(1),
    "baddbmm": _matrix(1),
    "mv": _matmul,
    "dot": _matmul,
    "matmul": _matmul,
    "linear": _linear,
    "convolution": _convolution,
    **{f"conv{rank}d": _plain_convolution for rank in (1, 2, 3)},
    **{f"conv_transpose{rank}d": _transposed_convolution for rank in (1, 2)},
    "conv_transpose3d": _transposed_convolution,
    "scaled_dot_product_attention": _attention,
    "einsum": _einsum,
}
