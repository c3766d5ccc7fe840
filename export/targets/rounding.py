"""What a float16 graph computes, in float32 with every result rounded: the form in which a CPU can judge it.

ONNX Runtime has few float16 kernels for CPUs. It runs the others in float32 between casts of its own, and drops those
between two such nodes, so that a chain of float16 nodes is not rounded in between and looks better than it is on a
GPU. Casts that stand in the graph stay. Here every node computes in float32 and its result goes through float16, as
on a GPU, whose products accumulate in float32.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from adaptrt.export.targets.tensor_types import FLOAT, FLOAT16, element_types, infer_types


def rounded(half: onnx.ModelProto) -> onnx.ModelProto:
    """Copy an inlined float16 graph as a float32 graph with a rounding after each float16 node.

    Raises:
        ExportError: Types of the graph contradict each other.
    """
    typed = infer_types(half)
    types = element_types(typed)
    copy = onnx.ModelProto()
    copy.CopyFrom(typed)
    nodes: list[onnx.NodeProto] = []
    for node in typed.graph.node:
        exact = onnx.NodeProto()
        exact.CopyFrom(node)
        _widen(exact)
        nodes.append(exact)
        for index, name in enumerate(node.output):
            if types.get(name) != FLOAT16:
                continue
            exact.output[index] = f"{name}_exact"
            nodes += [
                helper.make_node("Cast", [exact.output[index]], [f"{name}_rounded"], to=FLOAT16),
                helper.make_node("Cast", [f"{name}_rounded"], [name], to=FLOAT),
            ]
    weights = [_widened(weight) for weight in typed.graph.initializer]
    for field in (copy.graph.node, copy.graph.value_info, copy.graph.initializer):
        del field[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(weights)
    return infer_types(copy)


def _widen(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i == FLOAT16:
            attribute.i = FLOAT
        elif attribute.name == "value" and attribute.t.data_type == FLOAT16:
            attribute.t.CopyFrom(_widened(attribute.t))


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if tensor.data_type != FLOAT16:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
