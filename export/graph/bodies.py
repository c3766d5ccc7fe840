"""Attach the portable bodies of ``adaptrt`` ops to a graph, as model-local functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import helper

from adaptrt.export.errors import ExportError
from adaptrt.ops import DOMAIN, OPSET_VERSION, RECORDS, OpRecord

PLUGIN_ATTRIBUTES = {"plugin_namespace": DOMAIN, "plugin_version": "1"}
_LEARNERS = "learners"


def adaptive_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes of the ``adaptrt`` domain, in graph order."""
    return [node for node in model.graph.node if node.domain == DOMAIN]


def attach_bodies(model: onnx.ModelProto) -> dict[str, int]:
    """Give every ``adaptrt`` node a body and the attributes by which TensorRT finds a plugin.

    With ``plugin_namespace`` and ``plugin_version`` NVIDIA's parser takes the plugin where one is
    registered and the body where not; other engines ignore them. Attributes of the op itself, such as
    ``mode``, stay.

    Args:
        model: Changed in place.

    Returns:
        Number of learners per op name in the graph; 1 for an op that has none.

    Raises:
        ExportError: A node's op has no record, it has too few inputs or an attribute its op does not
            know, its weights are no initializer, or two nodes of one op need different bodies: one op
            name has one body per file, because TensorRT's parser takes the first body of a name for all
            of them without a warning.
    """
    constants = {initializer.name: list(initializer.dims) for initializer in model.graph.initializer}
    bodies: dict[str, dict[str, Any]] = {}
    for node in adaptive_nodes(model):
        record = RECORDS.get(node.op_type)
        if record is None:
            raise ExportError(f"op {node.op_type} has no record, expected one of {', '.join(RECORDS)}; add it to ops/")
        given = _attributes(record, node)
        wanted = {**_static_sizes(record, node, constants), **given}
        first = bodies.setdefault(record.name, wanted)
        for key, value in wanted.items():
            if first[key] != value:
                raise ExportError(
                    f"got {record.name} with {first[key]} and with {value} {key} in one model, expected "
                    f"the same {key} in all; one op name has one body per file"
                )
        del node.attribute[:]
        attributes = {**given, **PLUGIN_ATTRIBUTES}
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    del model.functions[:]
    try:
        model.functions.extend([RECORDS[op].body(**wanted) for op, wanted in bodies.items()])
    except ValueError as error:
        raise ExportError(f"no body for a node of the model: {error}") from error
    if bodies and DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, OPSET_VERSION))
    onnx.checker.check_model(model)
    return {op: int(wanted.get(_LEARNERS, 1)) for op, wanted in bodies.items()}


def _attributes(record: OpRecord, node: onnx.NodeProto) -> dict[str, Any]:
    """The op's own attributes, with the record's defaults where the node has none."""
    values: dict[str, Any] = dict(record.attributes)
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.name in record.attributes:
            values[attribute.name] = value.decode() if isinstance(value, bytes) else value
        elif attribute.name not in PLUGIN_ATTRIBUTES:
            known = ", ".join(record.attributes) or "none"
            raise ExportError(
                f"{record.name} has attribute {attribute.name!r}, expected {known}; remove it or add it to ops/"
            )
    return values


def _static_sizes(record: OpRecord, node: onnx.NodeProto, constants: Mapping[str, list[int]]) -> dict[str, int]:
    """Sizes of the axes that the body is unrolled over, from the first constant input that has each."""
    if len(node.input) != len(record.inputs) or not all(node.input):
        names = ", ".join(spec.name for spec in record.inputs)
        raise ExportError(f"{record.name} has inputs {list(node.input)}, expected all of {names}")
    sizes: dict[str, int] = {}
    for axis, keyword in record.static_axes.items():
        spec, name = next(
            (spec, name) for spec, name in zip(record.inputs, node.input, strict=True) if axis in spec.axes
        )
        if name not in constants:
            raise ExportError(
                f"weights {name} of {record.name} are computed in the graph, expected an initializer; "
                "export the model in evaluation mode"
            )
        sizes[keyword] = constants[name][spec.axes.index(axis)]
    return sizes
