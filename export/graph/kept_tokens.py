"""Sizes that only the running graph knows: take their stand-ins out of a traced graph.

How many tokens ``SelectTokens`` keeps, and how many segments ``SegmentReduce`` makes, is known when the graph
runs. Tracing needs a size of its own for that, and gets it from a further graph input of one dynamic
dimension, of which nothing but the size is used. Here every use of that size becomes the size of the op's
own output, and the input goes.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import onnx
from onnx import helper

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.unread import names_read
from adaptrt.ops import DOMAIN, RECORDS

_SELECT, _REDUCE = "SelectTokens", "SegmentReduce"
_KEPT_AXIS = 1  # of y, in both ops


def resolve_kept(model: onnx.ModelProto, inputs: Sequence[str]) -> None:
    """Replace the sizes of stand-in inputs by those of the outputs they stand for; remove the inputs.

    A stand-in belongs to the node whose first output was declared with the stand-in's dimension.

    Args:
        model: As traced, with named dynamic dimensions; changed in place.
        inputs: Names of the stand-ins, each ``[size]``.

    Raises:
        ExportError: A stand-in is no input, has a fixed size, is used for more than its size or belongs
            to no node or to several, a ``SelectTokens`` has none, or a size is needed to compute itself.
    """
    graph = model.graph
    resolved: list[str] = []
    for name in inputs:
        owner = _owner(graph, name)
        for node in graph.node:
            if name in names_read(node):
                _replace_size(node, name, owner)
        if name in {value.name for value in graph.output}:
            raise ExportError(f"{name} is an output of the graph, expected that only its size is used")
        graph.input.remove(next(value for value in graph.input if value.name == name))
        resolved.append(owner)
    for node in graph.node:
        if node.domain == DOMAIN and node.op_type == _SELECT and node.output[0] not in resolved:
            raise ExportError(
                f"{_SELECT} {node.name!r} has no stand-in for its size among {list(inputs)}, expected one; give the "
                "one it was traced with"
            )
    _sort(graph)


def _owner(graph: onnx.GraphProto, name: str) -> str:
    """First output of the node that a stand-in belongs to."""
    dimension = _dimension(graph, name)
    owners = []
    for node in graph.node:
        if node.domain != DOMAIN or node.op_type not in (_SELECT, _REDUCE) or not node.output[0]:
            continue
        if _declared(graph, node.output[0], _KEPT_AXIS) != dimension:
            continue
        # A number of segments that was computed from the size is a use of the size.
        if node.op_type == _SELECT or name not in _read_for(graph, _segments(node)):
            owners.append(node)
    if len(owners) != 1:
        raise ExportError(
            f"{name} stands for the size of {len(owners)} outputs, expected 1; give each call that selects or reduces "
            "tokens a stand-in of its own"
        )
    return str(owners[0].output[0])


def _segments(node: onnx.NodeProto) -> str:
    return str(node.input[[spec.name for spec in RECORDS[_REDUCE].inputs].index("segments")])


def _dimension(graph: onnx.GraphProto, name: str) -> str:
    """Name of the only dimension of a stand-in."""
    inputs = [value for value in graph.input if value.name == name]
    if not inputs:
        known = ", ".join(value.name for value in graph.input)
        raise ExportError(f"{name} is no input of the graph, expected one of {known}")
    dims = inputs[0].type.tensor_type.shape.dim
    if len(dims) != 1 or not dims[0].dim_param:
        got = [dim.dim_param or dim.dim_value for dim in dims]
        raise ExportError(
            f"{name} has shape {got}, expected one dynamic dimension; trace with an example size above 1 and a "
            "torch.export.Dim of its own"
        )
    return str(dims[0].dim_param)


def _declared(graph: onnx.GraphProto, name: str, axis: int) -> str | None:
    """Name of a dimension of a value as it was traced."""
    for value in (*graph.value_info, *graph.output):
        if value.name == name and len(value.type.tensor_type.shape.dim) > axis:
            return value.type.tensor_type.shape.dim[axis].dim_param or None
    return None


def _replace_size(node: onnx.NodeProto, name: str, output: str) -> None:
    """Make a node that gives a stand-in's shape give the size of ``output``."""
    given = {attribute.name: attribute.i for attribute in node.attribute}
    start, end = given.get("start", 0), given.get("end", 1)
    if (node.op_type, node.domain, list(node.input)) != ("Shape", "", [name]) or start not in (0, -1) or end < 1:
        raise ExportError(
            f"{name} is read by {node.op_type} {node.name!r}, expected that only its size is used; use kept.shape[0]"
        )
    del node.attribute[:]
    node.attribute.extend([helper.make_attribute("start", _KEPT_AXIS), helper.make_attribute("end", _KEPT_AXIS + 1)])
    node.input[0] = output


def _read_for(graph: onnx.GraphProto, name: str) -> set[str]:
    """All values that are needed to compute one."""
    producers = {output: node for node in graph.node for output in node.output}
    needed: set[str] = set()
    waiting = [name]
    while waiting:
        node = producers.get(waiting.pop())
        for read in names_read(node) if node is not None else ():
            if read not in needed:
                needed.add(read)
                waiting.append(read)
    return needed


def _sort(graph: onnx.GraphProto) -> None:
    """Put nodes behind what they read; those that need not move keep their order."""
    producers = {output: place for place, node in enumerate(graph.node) for output in node.output if output}
    readers: list[list[int]] = [[] for _ in graph.node]
    missing = [0] * len(graph.node)
    for place, node in enumerate(graph.node):
        for source in {producers[name] for name in names_read(node) if name in producers}:
            readers[source].append(place)
            missing[place] += 1
    ready = [place for place, number in enumerate(missing) if not number]
    order: list[int] = []
    while ready:
        place = heapq.heappop(ready)
        order.append(place)
        for reader in readers[place]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(graph.node):
        stuck = next(node.name for place, node in enumerate(graph.node) if missing[place])
        raise ExportError(f"node {stuck!r} needs a number of kept tokens that is not known before it; check the model")
    nodes = [onnx.NodeProto.FromString(graph.node[place].SerializeToString()) for place in order]
    del graph.node[:]
    graph.node.extend(nodes)
