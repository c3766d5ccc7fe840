"""Attach the portable bodies of ``adaptrt`` ops to a graph, as model-local functions."""

from __future__ import annotations

import onnx
from onnx import helper

from adaptrt.export.errors import ExportError
from adaptrt.ops import DOMAIN, OPSET_VERSION, RECORDS

_PLUGIN_ATTRIBUTES = {"plugin_namespace": DOMAIN, "plugin_version": "1"}


def adaptive_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes of the ``adaptrt`` domain, in graph order."""
    return [node for node in model.graph.node if node.domain == DOMAIN]


def attach_bodies(model: onnx.ModelProto) -> dict[str, int]:
    """Give every ``adaptrt`` node a body and the attributes by which TensorRT finds a plugin.

    With ``plugin_namespace`` and ``plugin_version`` NVIDIA's parser takes the plugin where one is
    registered and the body where not; other engines ignore them.

    Args:
        model: Changed in place.

    Returns:
        Number of learners per op name in the graph.

    Raises:
        ExportError: A node's op has no record, its weights are no initializer, or two nodes of one op
            need different bodies: one op name has one body per file, because TensorRT's parser takes
            the first body of a name for all of them without a warning.
    """
    shapes = {initializer.name: list(initializer.dims) for initializer in model.graph.initializer}
    learners: dict[str, int] = {}
    for node in adaptive_nodes(model):
        record = RECORDS.get(node.op_type)
        if record is None:
            raise ExportError(f"op {node.op_type} has no record, expected one of {', '.join(RECORDS)}; add it to ops/")
        names = dict(zip([spec.name for spec in record.inputs], node.input, strict=True))
        if names["w1"] not in shapes:
            raise ExportError(
                f"weights {names['w1']} of {node.op_type} are computed in the graph, expected an initializer; "
                "export the model in evaluation mode"
            )
        count = shapes[names["w1"]][0]
        if learners.setdefault(node.op_type, count) != count:
            raise ExportError(
                f"got {node.op_type} with {learners[node.op_type]} and with {count} learners in one model, expected "
                "the same number in all; one op name has one body per file"
            )
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(key, value) for key, value in _PLUGIN_ATTRIBUTES.items())
    del model.functions[:]
    model.functions.extend(RECORDS[op].body(count) for op, count in learners.items())
    if learners and DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, OPSET_VERSION))
    onnx.checker.check_model(model)
    return learners
