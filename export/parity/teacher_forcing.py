"""Graphs whose decisions are inputs: they do what they are told and say what they would have chosen.

One decision that falls the other way in a tie changes the hidden states after it and with them many
later decisions. So two implementations are compared decision by decision on the same hidden states:
the reference's decisions are fed, and each gate's and selector's own is read out.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.bodies import adaptive_nodes
from adaptrt.ops import RECORDS
from adaptrt.runtime.bundle.schema import DecisionSpec


def force_decisions(model: onnx.ModelProto, decisions: Sequence[DecisionSpec]) -> onnx.ModelProto:
    """Copy a stage's graph with inputs that force its decisions and outputs that tell its own.

    For learners with the output ``runs``: input ``forced_<runs>`` and output ``chosen_<runs>``, both int32
    ``[tokens]``. For selection number s: input ``forced_score_<s>`` float32 ``[batch, tokens]``, 1 for tokens
    that stay and 0 for others; outputs ``chosen_<index>`` and ``chosen_<count>`` as the selector's
    own. ``macs_fraction`` of the copy counts what was forced.

    Args:
        model: With bodies attached.
        decisions: Which outputs tell what was decided, in order.

    Raises:
        ExportError: A decision is not found in the graph.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    consumed = _steering(copy)
    # A tensor that is two outputs has one name of its own, and Identity nodes give it the others.
    copied = {node.output[0]: node.input[0] for node in copy.graph.node if node.op_type == "Identity"}
    for decision in decisions:
        name = decision.outputs["runs" if decision.kind == "learners" else "index"]
        tensor = name
        while tensor in copied:
            tensor = copied[tensor]
        if decision.kind == "learners":
            if tensor not in consumed:
                raise ExportError(f"no node takes {name}, expected the learners' op to; export the model again")
            _force_learners(copy, name, tensor)
        else:
            # Looked up anew: forcing a selection puts copies of all nodes in their place.
            selections = [
                node for node in copy.graph.node if node.op_type == "SelectTokens" and node.output[1] == tensor
            ]
            if len(selections) != 1:
                raise ExportError(f"{len(selections)} selections give {name}, expected 1; export the model again")
            _force_selection(copy, selections[0], decision)
    return copy


def _steering(graph: onnx.ModelProto) -> set[str]:
    """Tensors that adaptive nodes take, or that are only compared and converted before they do.

    A route is one of several numbers, each of which steers a node of its own.
    """
    made_by = {name: node for node in graph.graph.node for name in node.output}
    left = [name for node in adaptive_nodes(graph) for name in node.input]
    steering: set[str] = set()
    while left:
        name = left.pop()
        if name not in steering:
            steering.add(name)
            node = made_by.get(name)
            if node is not None and node.op_type in ("Equal", "Cast"):
                left += node.input
    return steering


def _force_learners(copy: onnx.ModelProto, name: str, tensor: str) -> None:
    for node in copy.graph.node:
        for index, fed in enumerate(node.input):
            if fed == tensor and name not in node.output:
                node.input[index] = f"forced_{name}"
    copy.graph.node.append(helper.make_node("Identity", [name], [f"chosen_{name}"]))
    for values, prefix in ((copy.graph.input, "forced"), (copy.graph.output, "chosen")):
        values.append(helper.make_tensor_value_info(f"{prefix}_{name}", onnx.TensorProto.INT32, [f"tokens_{name}"]))


def _force_selection(copy: onnx.ModelProto, node: onnx.NodeProto, decision: DecisionSpec) -> None:
    number, index, count = decision.number, decision.outputs["index"], decision.outputs["count"]
    names = [spec.name for spec in RECORDS[node.op_type].inputs]
    chosen = onnx.NodeProto()
    chosen.CopyFrom(node)
    chosen.name = f"{node.name}_own"
    chosen.output[:] = [f"own_y_{number}", f"chosen_{index}", f"chosen_{count}"]
    score, threshold = names.index("score"), names.index("threshold")
    half = f"half_{number}"
    copy.graph.initializer.append(helper.make_tensor(half, onnx.TensorProto.FLOAT, [], [0.5]))
    size = f"threshold_size_{number}"
    middle = helper.make_node("Expand", [half, size], [f"forced_threshold_{number}"])
    shape = helper.make_node("Shape", [node.input[threshold]], [size])
    node.input[score], node.input[threshold] = f"forced_score_{number}", f"forced_threshold_{number}"
    place = list(copy.graph.node).index(node)
    nodes = [*copy.graph.node[:place], shape, middle, *copy.graph.node[place:], chosen]
    nodes = [_copied(each) for each in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    batch, tokens = "batch", f"tokens_{number}"
    copy.graph.input.append(
        helper.make_tensor_value_info(f"forced_score_{number}", onnx.TensorProto.FLOAT, [batch, tokens])
    )
    for name, dims in ((f"chosen_{index}", [batch, f"kept_{number}"]), (f"chosen_{count}", [batch])):
        copy.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.INT32, dims))


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
