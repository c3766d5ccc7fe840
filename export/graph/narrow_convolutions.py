"""Write convolutions to a few channels as the transposed ones that give the same.

ONNX Runtime computes convolutions on CPUs for 8 or 16 output channels at a time, zeros where there are fewer: a head
that gives a map of one channel costs as much as a layer of sixteen. A transposed convolution is one product of
matrices, of as many rows as there are, and a sum of shifted maps. With stride 1 and a result of the input's
size both have the same multiply-accumulates and, up to the order of sums, the same values.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from adaptrt.export.graph.unread import keep_needed

FEW = 4
"""Output channels up to which the transposed form was measured to be faster; with kernels of one place only 1 is."""
_LEAST_INPUTS = 16
"""Input channels from which on: with few of them there is little to gain."""


def transpose_narrow_convolutions(model: onnx.ModelProto) -> int:
    """Replace each such convolution; how many there were.

    Args:
        model: As traced; changed in place.
    """
    graph = model.graph
    weights = {each.name: each for each in graph.initializer}
    count = 0
    for node in graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is None or not _is_narrow(node, list(weight.dims)):
            continue
        turned = f"{weight.name}_turned"
        if turned not in weights:
            array = numpy_helper.to_array(weight)
            flipped = np.flip(array, tuple(range(2, array.ndim))).swapaxes(0, 1)
            weights[turned] = numpy_helper.from_array(np.ascontiguousarray(flipped), turned)
            graph.initializer.append(weights[turned])
        kernel = weight.dims[2:]
        pads = _attribute(node, "pads") or [0] * (2 * len(kernel))
        cut = [size - 1 - pad for size, pad in zip([*kernel, *kernel], pads, strict=True)]
        node.op_type, node.input[1] = "ConvTranspose", turned
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("pads", cut))
        count += 1
    if count:
        keep_needed(graph, graph.node)
    return count


def _is_narrow(node: onnx.NodeProto, dims: list[int]) -> bool:
    """Whether it has few outputs, one stride, and a result as large as its input."""
    outputs, inputs, *kernel = dims
    pads = _attribute(node, "pads") or [0] * (2 * len(kernel))
    if inputs < _LEAST_INPUTS or outputs > (FEW if np.prod(kernel) > 1 else 1):
        return False
    automatic = next((each.s for each in node.attribute if each.name == "auto_pad"), b"NOTSET")
    if automatic != b"NOTSET":
        return False
    if any(set(_attribute(node, name)) - {1} for name in ("strides", "dilations")) or _group(node) != 1:
        return False
    begins, ends = pads[: len(kernel)], pads[len(kernel) :]
    same = all(begin + end == size - 1 for begin, end, size in zip(begins, ends, kernel, strict=True))
    return same and min(pads) >= 0


def _attribute(node: onnx.NodeProto, name: str) -> list[int]:
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == name), [])


def _group(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
