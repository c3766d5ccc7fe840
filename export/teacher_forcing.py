"""A graph whose decisions are inputs: it runs the learners it is told to and says what it would have chosen.

One decision that falls the other way in a tie changes the hidden states after it and with them many
later decisions. So two implementations are compared decision by decision on the same hidden states:
the reference's k is fed, and each gate's own k is read out.
"""

from __future__ import annotations

import onnx
from onnx import helper

from adaptrt.export.bodies import adaptive_nodes
from adaptrt.ops import RECORDS


def decision_names(model: onnx.ModelProto) -> list[str]:
    """Names of the tensors ``k`` that gates give to adaptive nodes, in graph order, each once."""
    names: list[str] = []
    for node in adaptive_nodes(model):
        position = [spec.name for spec in RECORDS[node.op_type].inputs].index("k")
        if node.input[position] not in names:
            names.append(node.input[position])
    return names


def force_decisions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph with an input ``forced_<i>`` (int32 ``[tokens]``) and an output ``chosen_<i>`` per gate.

    ``macs_fraction`` of the copy counts the forced decisions.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = decision_names(copy)
    forced = {name: f"forced_{index}" for index, name in enumerate(names)}
    for node in copy.graph.node:
        for index, name in enumerate(node.input):
            if name in forced:
                node.input[index] = forced[name]
    for index, name in enumerate(names):
        tokens = [f"tokens_{index}"]
        copy.graph.input.append(helper.make_tensor_value_info(f"forced_{index}", onnx.TensorProto.INT32, tokens))
        copy.graph.node.append(helper.make_node("Identity", [name], [f"chosen_{index}"]))
        copy.graph.output.append(helper.make_tensor_value_info(f"chosen_{index}", onnx.TensorProto.INT32, tokens))
    return copy
