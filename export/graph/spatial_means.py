"""Write means over all places of a map as the pooling that convolutional engines know.

ONNX Runtime keeps the maps between convolutions on CPUs in a layout of its own, blocks of 8 or 16 channels, and puts
them back into the order of the format for every operator that has no form for it. ``ReduceMean`` has none,
``GlobalAveragePool`` has: a classifier over the mean of all places reads the map where it lies.
"""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from adaptrt.export.graph.unread import keep_needed

_PLACES = {2, 3}
_IN_BLOCKS = frozenset({"Relu", "Sigmoid", "Tanh", "HardSigmoid", "Clip", "Add", "BatchNormalization", "MaxPool"})
"""Operators that ONNX Runtime runs on blocks of channels where their input lies so."""


def pool_spatial_means(model: onnx.ModelProto) -> int:
    """Replace each mean over the last two of four axes of what a convolution gave; how many there were.

    Args:
        model: As traced, its values' shapes in ``value_info``; changed in place.
    """
    graph = model.graph
    shapes = {
        value.name: value.type.tensor_type.shape.dim for value in (*graph.value_info, *graph.output, *graph.input)
    }
    constants = {each.name: each for each in graph.initializer}
    convolved = _convolved(graph)
    nodes, count = [], 0
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        source = node.input[0]
        axes = [int(axis) % 4 for axis in numpy_helper.to_array(constants[node.input[1]]).ravel()]
        if set(axes) != _PLACES or len(axes) != 2 or len(shapes.get(source, ())) != 4 or source not in convolved:
            continue
        kept = next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1)
        result = node.output[0]
        pooled = result if kept else f"{result}_pooled"
        nodes[-1] = helper.make_node("GlobalAveragePool", [source], [pooled], node.name)
        if not kept:
            nodes.append(helper.make_node("Flatten", [pooled], [result], f"{node.name}_flat", axis=1))
        count += 1
    if count:
        keep_needed(graph, nodes)
    return count


def _convolved(graph: onnx.GraphProto) -> set[str]:
    """Values that convolutions give, activations and sums of them included: those that lie in blocks of channels."""
    found: set[str] = set()
    for node in graph.node:
        if node.op_type == "Conv" or (node.op_type in _IN_BLOCKS and node.input[0] in found):
            found.update(node.output)
    return found
