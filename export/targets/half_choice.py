"""Which nodes of a stage compute in float16, and which stay in float32 because they decide or would lose too much.

Read from the graph alone: what reaches the logits or the next stage only through integers and booleans (numbers of
learners, kept tokens, masks), or only a number per sample (confidence, work counted, streaks), decides or counts, and
stays. So do softmax, norms, sums, exponentials and logarithms, the classifier, and nodes with a constant that float16
cannot hold, as a mask of -1e9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from adaptrt.export.targets.tensor_types import FLOAT, element_types, ranks
from adaptrt.ops import DOMAIN, RECORDS

MOVES = frozenset(
    {
        *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Slice", "Gather", "GatherND"),
        *("GatherElements", "Expand", "Split"),
    }
)
"""Ops that copy their first input's values: they keep its type."""
TYPED_BY_ATTRIBUTE = frozenset({"Cast", "ConstantOfShape"})
_SENSITIVE = frozenset(
    {
        *("Softmax", "LogSoftmax", "LayerNormalization", "GroupNormalization", "InstanceNormalization"),
        *("BatchNormalization", "LpNormalization", "RMSNormalization", "ReduceMean", "ReduceSum", "ReduceL1"),
        *("ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSumSquare", "CumSum"),
        *("GlobalAveragePool", "Exp", "Log", "Pow", "Sqrt", "Reciprocal"),
    }
)
_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
_HALF = np.finfo(np.float16)


@dataclass(frozen=True)
class HalfForm:
    """A node computing in float16: which of its float32 inputs and outputs become float16."""

    inputs: frozenset[int]
    outputs: frozenset[int]


def half_forms(typed: onnx.ModelProto) -> dict[int, HalfForm]:
    """The nodes that compute in float16, by their place in the graph.

    Args:
        typed: From ``infer_types``, adaptive ops as nodes.
    """
    graph, types = typed.graph, element_types(typed)
    opset = next(entry.version for entry in typed.opset_import if entry.domain in ("", "ai.onnx"))
    producers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    computing = _carries_data(typed, types, producers) - _classifier(typed, types, producers)
    unfit = {weight.name for weight in graph.initializer if not _fits(weight)}
    forms = {}
    for place in computing:
        node = graph.node[place]
        if node.op_type in _SENSITIVE or any(name in unfit for name in node.input):
            continue
        form = _form(node, types, opset)
        if form is not None:
            forms[place] = form
    return forms


def _carries_data(typed: onnx.ModelProto, types: dict[str, int], producers: dict[str, int]) -> set[int]:
    """Places of the nodes from which floats lead, through floats only, to logits or to what stages hand on."""
    known = ranks(typed)
    ends = [value.name for value in typed.graph.output if types[value.name] == FLOAT and known.get(value.name) != 1]

    def data_inputs(node: onnx.NodeProto) -> list[str]:
        deciding = _float32_inputs(node)
        return [name for index, name in enumerate(node.input) if types.get(name) == FLOAT and index not in deciding]

    return _upstream(typed, producers, ends, data_inputs)


def _classifier(typed: onnx.ModelProto, types: dict[str, int], producers: dict[str, int]) -> set[int]:
    """Places of the last product before each output ``[batch, n]`` and what follows it: confidences come of it."""
    known = ranks(typed)
    ends = [value.name for value in typed.graph.output if types[value.name] == FLOAT and known.get(value.name) == 2]

    def up_to_a_product(node: onnx.NodeProto) -> list[str]:
        return [] if node.op_type in _PRODUCTS else [name for name in node.input if types.get(name) == FLOAT]

    return _upstream(typed, producers, ends, up_to_a_product)


def _upstream(
    typed: onnx.ModelProto, producers: dict[str, int], ends: list[str], followed: Callable[[onnx.NodeProto], list[str]]
) -> set[int]:
    """Places of the nodes that lead to some tensors, by those inputs of each node that are to be followed."""
    pending = list(ends)
    places: set[int] = set()
    while pending:
        place = producers.get(pending.pop())
        if place is None or place in places:
            continue
        places.add(place)
        pending += followed(typed.graph.node[place])
    return places


def _float32_inputs(node: onnx.NodeProto) -> set[int]:
    """Inputs that an adaptive op takes in float32 only: scores, thresholds, weights of a mean."""
    record = RECORDS.get(node.op_type) if node.domain == DOMAIN else None
    if record is None:
        return set()
    return {index for index, spec in enumerate(record.inputs) if spec.dtypes == ("float32",)}


def _form(node: onnx.NodeProto, types: dict[str, int], opset: int) -> HalfForm | None:
    """How a node computes in float16; None where it cannot."""
    if node.domain == DOMAIN:
        record = RECORDS.get(node.op_type)
        if record is None:
            return None
        taken = {index for index, spec in enumerate(record.inputs) if "float16" in spec.dtypes}
        given = {index for index, spec in enumerate(record.outputs) if "float16" in spec.dtypes}
        return HalfForm(frozenset(taken), frozenset(given))
    if node.op_type in TYPED_BY_ATTRIBUTE:
        return HalfForm(frozenset(), frozenset({0}))
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    halves = {each.type_param_str for each in schema.type_constraints if "tensor(float16)" in each.allowed_type_strs}

    def variable(parameters: list[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
        return parameters[min(index, len(parameters) - 1)].type_str

    taken = {
        index
        for index, name in enumerate(node.input)
        if types.get(name) == FLOAT and variable(list(schema.inputs), index) in halves
    }
    used = {variable(list(schema.inputs), index) for index in taken}
    given = {
        index
        for index, name in enumerate(node.output)
        if types.get(name) == FLOAT and variable(list(schema.outputs), index) in used
    }
    return HalfForm(frozenset(taken), frozenset(given)) if given else None


def _fits(weight: onnx.TensorProto) -> bool:
    """Whether float16 holds a constant: nothing overflows, and a single number does not become 0."""
    if weight.data_type != FLOAT:
        return True
    values = numpy_helper.to_array(weight)
    finite = np.abs(values[np.isfinite(values)])
    if finite.size and finite.max() > float(_HALF.max):
        return False
    return not (values.size == 1 and finite.size and 0 < finite.max() < float(_HALF.smallest_subnormal))
