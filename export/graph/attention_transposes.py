"""Take two reshapes out of attention as torch writes it, which fail where there are no keys.

``scaled_dot_product_attention`` transposes its keys by way of three axes: ``Reshape`` to ``[-1, keys, width]``,
``Transpose``, ``Reshape`` back. A size of 0 in such a shape is copied from the tensor that goes in, so that a sample
none of whose rows were taken fails. One ``Transpose`` of four axes says the same.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from adaptrt.export.graph.unread import keep_needed

_SWAPPED = [0, 2, 1]


def merge_attention_transposes(model: onnx.ModelProto) -> int:
    """Replace each such chain by one transposition; how many there were.

    Args:
        model: As traced, with shapes of its values; changed in place.
    """
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.value_info, *graph.input, *graph.output)
    }
    count = 0
    for last in graph.node:
        middle = producers.get(last.input[0]) if last.op_type == "Reshape" else None
        first = producers.get(middle.input[0]) if middle is not None and middle.op_type == "Transpose" else None
        if middle is None or first is None or first.op_type != "Reshape" or _permutation(middle) != _SWAPPED:
            continue
        into, back = _sizes(first, producers), _sizes(last, producers)
        if len(into) != 3 or len(back) != 3 or into[:0:-1] != back[1:] or ranks.get(first.input[0]) != 4:
            continue
        if not np.array_equal(constants.get(into[0], np.zeros(0)), [-1]):
            continue
        last.op_type, last.input[:] = "Transpose", [first.input[0]]
        del last.attribute[:]
        last.attribute.append(helper.make_attribute("perm", [0, 1, 3, 2]))
        count += 1
    if count:
        keep_needed(graph, graph.node)
    return count


def _permutation(node: onnx.NodeProto) -> list[int]:
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), [])


def _sizes(reshape: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> list[str]:
    """What the shape of a reshape is joined from."""
    joined = producers.get(reshape.input[1])
    return list(joined.input) if joined is not None and joined.op_type == "Concat" else []
