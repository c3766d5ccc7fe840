"""Ops as the parts that their records name, for plugins of one kernel each.

TensorRT's Python plugins that are compiled ahead of time put one kernel into the engine, and the engine then runs
without any library. An op that takes several kernels, as those of learners do, becomes as many nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.bodies import PLUGIN_ATTRIBUTES
from adaptrt.export.targets.strip import left_to_plugins
from adaptrt.export.targets.tensor_types import element_types
from adaptrt.ops import DOMAIN, INT8_RECORDS, RECORDS, Field, PartAttribute

OPS_IN_PARTS = tuple(
    record.name for record in RECORDS.values() if record.parts and record.parts[-1].outputs == record.outputs
)
"""Ops whose parts give just what the op gives. SelectTokens is none: its kernel gives as many tokens as it gets."""
_RECORDS = {**{name: RECORDS[name] for name in OPS_IN_PARTS}, **INT8_RECORDS}


def with_parts(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph with each op of ``OPS_IN_PARTS``, int8 forms too, as the nodes of its parts, all others inlined.

    ConditionalMLP becomes ``Order(k[T]; learners) -> order[T], running[N]``: the tokens by k, descending and stable,
    and how many have k > n. ``Up(x, order, running, w1, b1) -> hidden[T, N * h]``.
    ``Down(hidden, order, running, w2, b2) -> y[T, E]``. The gated ops have an Up that reads v1 and c1, too.

    Raises:
        ExportError: An attribute of a part is a size that no weight of the node gives.
    """
    typed = left_to_plugins(model, _RECORDS, bodies=False)
    types = element_types(typed)
    weights = {weight.name: tuple(weight.dims) for weight in typed.graph.initializer}
    nodes = []
    for node in typed.graph.node:
        if node.domain != DOMAIN or node.op_type not in _RECORDS:
            nodes.append(node)
            continue
        parts, between = _parts(node, types, weights)
        nodes += parts
        typed.graph.value_info.extend(between)
    del typed.graph.node[:]
    typed.graph.node.extend(nodes)
    onnx.checker.check_model(typed)
    return typed


def _parts(
    node: onnx.NodeProto, types: Mapping[str, int], weights: Mapping[str, tuple[int, ...]]
) -> tuple[list[onnx.NodeProto], list[onnx.ValueInfoProto]]:
    """Give a node's parts, and the tensors between them.

    Args:
        node: Of an op that comes in parts.
        types: Element types by tensor name.
        weights: Shapes of initializers.
    """
    record, first = _RECORDS[node.op_type], node.output[0]
    names = _by_field(record.inputs, node.input)
    sizes: dict[str, int] = {}
    for field in record.inputs:
        if names[field.name] in weights:
            sizes |= zip(field.axes, weights[names[field.name]], strict=True)
    numbers = next(types[names[field.name]] for field in record.inputs if len(field.dtypes) > 1)
    between = [field for part in record.parts[:-1] for field in part.outputs]
    names |= {field.name: f"{first}_{field.name}" for field in between} | _by_field(record.outputs, node.output)
    nodes = []
    for part in record.parts:
        inputs, outputs = ([names[field.name] for field in fields] for fields in (part.inputs, part.outputs))
        kernel_node = helper.make_node(
            part.name, inputs, outputs, name=f"{node.name or first}_{part.name}", domain=DOMAIN
        )
        attributes = PLUGIN_ATTRIBUTES | {one.name: _attribute(node, one, sizes) for one in part.attributes}
        kernel_node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        nodes.append(kernel_node)
    values = []
    for field in between:
        shape = [_dimension(axis, sizes, first) for axis in field.axes]
        kind = numbers if len(field.dtypes) > 1 else helper.np_dtype_to_tensor_dtype(np.dtype(field.dtypes[0]))
        values.append(helper.make_tensor_value_info(names[field.name], kind, shape))
    return nodes, values


def _by_field(fields: Iterable[Field], names: Iterable[str]) -> dict[str, str]:
    return {field.name: name for field, name in zip(fields, names, strict=True)}


def _attribute(node: onnx.NodeProto, attribute: PartAttribute, sizes: Mapping[str, int]) -> Any:
    """The op's own attribute of that name, or else the size that it gives the kernel.

    Raises:
        ExportError: The size is not known.
    """
    given = {
        **_RECORDS[node.op_type].attributes,
        **{one.name: helper.get_attribute_value(one) for one in node.attribute},
    }
    if attribute.name in given:
        return given[attribute.name]
    if attribute.size not in sizes:
        raise ExportError(f"got {node.op_type} whose weights are computed, expected an initializer; export again")
    return sizes[attribute.size]


def _dimension(axis: str, sizes: Mapping[str, int], prefix: str) -> int | str:
    """The size of an axis, of one such as "N*h" the product; a name where it is not known."""
    factors = axis.split("*")
    return prod(sizes[name] for name in factors) if sizes.keys() >= set(factors) else f"{prefix}_{axis}"
