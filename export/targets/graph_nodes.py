"""Reading single nodes of a graph."""

from __future__ import annotations

import onnx

from adaptrt.ops.record import Array


def picks_rows(node: onnx.NodeProto, constants: list[Array | None]) -> bool:
    """Whether it only copies rows of a matrix, so that it may as well copy their bytes."""
    if not constants or constants[0] is not None:
        return False
    if node.op_type == "Gather":
        return integer(node, "axis", 0) == 0
    if node.op_type == "Slice" and len(constants) > 3:
        axes = constants[3]
        return axes is not None and axes.tolist() == [0]
    return False


def integer(node: onnx.NodeProto, name: str, default: int) -> int:
    """An attribute of whole numbers."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def number(node: onnx.NodeProto, name: str) -> float:
    """An attribute of fractions, 1 by default."""
    return next((attribute.f for attribute in node.attribute if attribute.name == name), 1.0)
