"""Element types and shapes of a graph's tensors, which every pass keeps correct."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from adaptrt.export.errors import ExportError

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def infer_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph with the type of every tensor in it, derived anew from inputs, weights and bodies.

    Raises:
        ExportError: Types contradict each other.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    try:
        return onnx.shape_inference.infer_shapes(copy, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise ExportError(
            f"types of the graph do not fit: {' '.join(str(error).split())}; report this model"
        ) from error


def element_types(typed: onnx.ModelProto) -> dict[str, int]:
    """Element type (``onnx.TensorProto.DataType``) by tensor name, of a graph from ``infer_types``."""
    graph = typed.graph
    types = {weight.name: weight.data_type for weight in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def ranks(typed: onnx.ModelProto) -> dict[str, int]:
    """Number of dimensions by tensor name, where it is known."""
    graph = typed.graph
    dimensions = {weight.name: len(weight.dims) for weight in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            dimensions[value.name] = len(value.type.tensor_type.shape.dim)
    return dimensions


def require_flat(nodes: Iterable[onnx.NodeProto]) -> None:
    """Refuse nodes with a graph inside.

    Raises:
        ExportError: There is one.
    """
    for node in nodes:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ExportError(
                f"got a {node.op_type} node, expected a graph without control flow; export the model again"
            )


def per_sample_tensors(stage: onnx.ModelProto) -> set[str]:
    """Names of the tensors ``[batch, width]`` of a stage's graph: what heads read, one row for each sample."""
    batch = next((_dims(value)[0] for value in stage.graph.input if len(_dims(value)) > 1), None)
    values = (*stage.graph.input, *stage.graph.value_info)
    named = {value.name: _dims(value) for value in values}
    return {name for name, dims in named.items() if isinstance(batch, str) and len(dims) == 2 and dims[0] == batch}


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
