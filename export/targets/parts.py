"""ConditionalMLP as its three parts, for plugins of one kernel each.

TensorRT's Python plugins that are compiled ahead of time put one kernel into the engine, and the engine then runs
without any library. An ordering by k, the up-projections and the down-projections are three kernels, so three nodes.
"""

from __future__ import annotations

import onnx
from onnx import helper

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.bodies import PLUGIN_ATTRIBUTES
from adaptrt.export.targets.strip import left_to_plugins
from adaptrt.ops import CONDITIONAL_MLP, DOMAIN

ORDER, UP, DOWN = "ConditionalMLPOrder", "ConditionalMLPUp", "ConditionalMLPDown"


def with_parts(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph with each ConditionalMLP as three nodes, all other ops inlined.

    ``Order(k[T]; learners) -> order[T], running[N]``: the tokens by k, descending and stable, and how many have
    k > n. ``Up(x, order, running, w1, b1) -> hidden[T, N * h]``. ``Down(hidden, order, running, w2, b2) -> y[T, E]``.

    Raises:
        ExportError: The weights of a node are no initializer.
    """
    typed = left_to_plugins(model, [CONDITIONAL_MLP.name], bodies=False)
    weights = {weight.name: weight for weight in typed.graph.initializer}
    nodes = []
    for node in typed.graph.node:
        if (node.domain, node.op_type) != (DOMAIN, CONDITIONAL_MLP.name):
            nodes.append(node)
            continue
        w1 = weights.get(node.input[2])
        if w1 is None:
            raise ExportError(f"got {node.op_type} whose weights are computed, expected an initializer; export again")
        made, values = _parts(node, w1)
        nodes += made
        typed.graph.value_info.extend(values)
    del typed.graph.node[:]
    typed.graph.node.extend(nodes)
    onnx.checker.check_model(typed)
    return typed


def _parts(node: onnx.NodeProto, w1: onnx.TensorProto) -> tuple[list[onnx.NodeProto], list[onnx.ValueInfoProto]]:
    x, k, _, b1, w2, b2 = node.input
    learners, _, hidden_width = w1.dims
    name = node.name or node.output[0]
    order, running, hidden = (f"{node.output[0]}_{part}" for part in ("order", "running", "hidden"))
    tokens = f"{node.output[0]}_tokens"

    def part(op: str, inputs: list[str], outputs: list[str], **attributes: int) -> onnx.NodeProto:
        made = helper.make_node(op, inputs, outputs, name=f"{name}_{op}", domain=DOMAIN)
        given = {**PLUGIN_ATTRIBUTES, **attributes}
        made.attribute.extend(helper.make_attribute(key, value) for key, value in given.items())
        return made

    nodes = [
        part(ORDER, [k], [order, running], learners=learners),
        part(UP, [x, order, running, node.input[2], b1], [hidden]),
        part(DOWN, [hidden, order, running, w2, b2], list(node.output)),
    ]
    values = [
        helper.make_tensor_value_info(order, onnx.TensorProto.INT32, [tokens]),
        helper.make_tensor_value_info(running, onnx.TensorProto.INT32, [learners]),
        helper.make_tensor_value_info(hidden, w1.data_type, [tokens, learners * hidden_width]),
    ]
    return nodes, values
