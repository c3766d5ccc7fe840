"""Merge nodes of a graph that compute the same, as they come where graphs of blocks are put together."""

from __future__ import annotations

import onnx

from adaptrt.export.graph.unread import keep_needed

_SMALL = 1024  # bytes of constants that are compared


def merge_nodes(model: onnx.ModelProto) -> None:
    """Give every named size one node that reads it, every small constant and every result one name.

    Of reshapes of reshapes the last one stays.

    Args:
        model: With shapes of its values, in which equal names of dimensions are equal sizes; its operators give the
            same for the same inputs. Changed in place. It has no subgraphs.
    """
    graph = model.graph
    shapes = {v.name: v.type.tensor_type.shape.dim for v in (*graph.value_info, *graph.input, *graph.output)}
    fixed = {value.name for value in graph.output}
    renamed = _merge_constants(graph)
    known: dict[tuple[object, ...], onnx.NodeProto] = {}
    producers: dict[str, onnx.NodeProto] = {}
    nodes = []
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        before = producers.get(node.input[0]) if node.op_type == "Reshape" else None
        if before is not None and before.op_type == "Reshape":
            node.input[0] = before.input[0]
        if _keeps_shape(node, shapes) and node.output[0] not in fixed:
            renamed[node.output[0]] = node.input[0]
            continue
        key = _key(node, shapes)
        same = known.setdefault(key, node)
        if same is not node and fixed.isdisjoint(node.output):
            renamed.update(zip(node.output, same.output, strict=True))
            continue
        nodes.append(node)
        producers.update((output, node) for output in node.output)
    read = keep_needed(graph, nodes)
    for gone in [value for value in graph.value_info if value.name not in read]:
        graph.value_info.remove(gone)


def _merge_constants(graph: onnx.GraphProto) -> dict[str, str]:
    """New names of small constants that are there twice."""
    renamed: dict[str, str] = {}
    known: dict[bytes, str] = {}
    for constant in graph.initializer:
        if len(constant.raw_data) > _SMALL:
            continue
        content = onnx.TensorProto()
        content.CopyFrom(constant)
        content.name = ""
        first = known.setdefault(content.SerializeToString(deterministic=True), constant.name)
        if first != constant.name:
            renamed[constant.name] = first
    return renamed


def _keeps_shape(node: onnx.NodeProto, shapes: dict[str, object]) -> bool:
    """Whether a node reshapes to the shape that there is: all sizes are known, or have the same names."""
    if node.op_type != "Reshape":
        return False
    before, after = (_sizes(shapes.get(name, ())) for name in (node.input[0], node.output[0]))
    # One size without a name is what the others leave.
    return len(before) == len(after) > 0 and sum(size is None for size in before) <= 1 and before == after


def _sizes(dims: object) -> list[str | int | None]:
    return [dim.dim_param or dim.dim_value or None for dim in dims]  # type: ignore[attr-defined]


def _key(node: onnx.NodeProto, shapes: dict[str, object]) -> tuple[object, ...]:
    """Equal for nodes that give the same."""
    if node.op_type == "Shape" and not node.domain:
        given = {attribute.name: attribute.i for attribute in node.attribute}
        dims = _sizes(shapes.get(node.input[0], ()))
        read = dims[given.get("start", 0) : given.get("end", len(dims))]
        if read and all(isinstance(size, str) for size in read):
            return "Shape", *read
    attributes = tuple(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
    return node.domain, node.op_type, *node.input, attributes
