"""Reading single nodes of a graph."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx

from adaptrt.ops.record import Array


def needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: Collection[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that something reads, in order, and all names that are read."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if any(name in wanted for name in node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1], wanted


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
