"""Work of each sample, computed inside the graph from the sizes that it has."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import sympy
import torch
from torch import Tensor

from adaptrt.export.errors import ExportError


def evaluate(expression: sympy.Expr, sizes: Mapping[str, Tensor]) -> Tensor | float:
    """A polynomial of sizes, with rounded quotients of them, as float32.

    Args:
        expression: In symbols named after axes.
        sizes: float32 of each, ``[B]`` where samples differ, else ``[]``.

    Raises:
        ExportError: It is made of something else.
    """
    if expression.is_Symbol:
        return sizes[expression.name]
    if expression.is_number:
        return float(expression)
    parts = [evaluate(part, sizes) for part in expression.args]
    if isinstance(expression, sympy.Add):
        return reduce(lambda one, other: one + other, parts)
    if isinstance(expression, sympy.Mul):
        # The sizes first: they are small, and their product exact for longer.
        return reduce(lambda one, other: one * other, sorted(parts, key=lambda part: isinstance(part, float)))
    if isinstance(expression, sympy.Pow) and expression.args[1].is_Integer and expression.args[1] > 0:
        return reduce(lambda one, other: one * other, [parts[0]] * int(expression.args[1]))
    kind = type(expression).__name__
    if kind in ("FloorDiv", "CleanDiv", "floor"):
        quotient = parts[0] if kind == "floor" else parts[0] / parts[1]
        return torch.floor(quotient) if isinstance(quotient, Tensor) else float(quotient // 1)
    if kind in ("Max", "Min"):
        chosen = torch.maximum if kind == "Max" else torch.minimum
        return reduce(lambda one, other: chosen(torch.as_tensor(one), torch.as_tensor(other)), parts)
    raise ExportError(
        f"got a size that is {expression} of the inputs' sizes, expected sums, products and quotients; give "
        "tensors sizes made of those"
    )


def evaluate_whole(expression: sympy.Expr, sizes: Mapping[str, int]) -> int:
    """The same of whole numbers, exactly."""
    return int(expression.xreplace({sympy.Symbol(name): sympy.Integer(size) for name, size in sizes.items()}))
