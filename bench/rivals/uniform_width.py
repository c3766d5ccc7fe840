"""The elastic rival: every token runs the first k learners of every layer, as a plain static graph without gates.

It has the bundle's own weights and is what a slimmable network is at one width. All stages are in one graph, nobody
leaves early, no token is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from adaptrt.bench.errors import BenchError
from adaptrt.export.targets.inline import inlined
from adaptrt.ops import DOMAIN, RECORDS
from adaptrt.runtime.bundle.bundle_file import Bundle
from adaptrt.runtime.bundle.schema import MACS_OUTPUT

Array = npt.NDArray[np.float32]

_UNIFORM = "adaptrt.uniform"
"""Domain of the functions that stand for learners until they are inlined."""
_SELECT = "SelectTokens"
_LEARNERS = {name for name, record in RECORDS.items() if any(field.name == "w2" for field in record.inputs)}


def learners_of(stages: Sequence[onnx.ModelProto]) -> int:
    """How many learners every layer has.

    Raises:
        BenchError: There are none, not as many in all, or other adaptive ops that have no static form here.
    """
    nodes = [node for stage in stages for node in stage.graph.node if node.domain == DOMAIN]
    strange = sorted({node.op_type for node in nodes} - _LEARNERS - {_SELECT})
    if strange:
        raise BenchError(f"got op {strange[0]}, expected learners and selections alone, which have a static form")
    counts: set[int] = set()
    for stage in stages:
        shapes = {weight.name: weight.dims for weight in stage.graph.initializer}
        counts |= {
            int(shapes[_weight(node, "w2")][0])
            for node in stage.graph.node
            if node.domain == DOMAIN and node.op_type in _LEARNERS
        }
    if len(counts) != 1 or counts == {1}:
        raise BenchError("got no learners, or layers with different numbers of them, expected the same in all")
    return counts.pop()


def with_uniform_width(bundle: Bundle, stages: Sequence[onnx.ModelProto], learners: int) -> onnx.ModelProto:
    """One static graph in which every token runs the first ``learners`` of every layer.

    Args:
        bundle: Whose stages these are.
        stages: From ``read_stages``.
        learners: 1 to all.

    Raises:
        BenchError: As ``learners_of``.
    """
    if not 1 <= learners <= learners_of(stages):
        raise BenchError(f"got {learners} learners, expected 1 to {learners_of(stages)}")
    flats = [inlined(_static(stage, learners)) for stage in stages]
    merged = onnx.ModelProto()
    merged.CopyFrom(flats[0])
    for field in (merged.graph.node, merged.graph.initializer, merged.graph.value_info, merged.graph.input):
        del field[:]
    known = {spec.name for spec in bundle.inputs}
    inputs: dict[str, onnx.ValueInfoProto] = {}
    for number, (flat, stage) in enumerate(zip(flats, bundle.stages, strict=True)):
        names = {value.name: value.name for value in flat.graph.input if value.name in known}
        inputs |= {value.name: value for value in flat.graph.input if value.name in known}
        for carry in stage.carry:
            names[carry.name] = carry.source if carry.source in known else f"stage{number - 1}/{carry.source}"
        _append(merged.graph, flat.graph, names, f"stage{number}/")
    last = f"stage{len(flats) - 1}/"
    del merged.graph.output[:]
    kept = [value for value in flats[-1].graph.output if value.name in {spec.name for spec in bundle.outputs}]
    for value in kept:
        if value.name == MACS_OUTPUT:
            continue
        merged.graph.node.append(helper.make_node("Identity", [last + value.name], [value.name]))
        merged.graph.output.append(value)
    _drop_dead(merged.graph)
    read = {name for node in merged.graph.node for name in node.input}
    merged.graph.input.extend(value for name, value in inputs.items() if name in read)
    onnx.checker.check_model(merged)
    return merged


def _weight(node: onnx.NodeProto, name: str) -> str:
    fields = [field.name for field in RECORDS[node.op_type].inputs]
    return str(node.input[fields.index(name)])


def _static(stage: onnx.ModelProto, learners: int) -> onnx.ModelProto:
    """A stage's graph with its adaptive nodes in their static form."""
    made = onnx.ModelProto()
    made.CopyFrom(stage)
    weights = {weight.name: weight for weight in made.graph.initializer}
    nodes = list(made.graph.node)
    del made.graph.node[:]
    functions: dict[str, onnx.FunctionProto] = {}
    # Where only the size of scores is asked for that of the tokens does, and nobody has to compute scores.
    scored = {node.input[1]: node.input[0] for node in nodes if node.domain == DOMAIN and node.op_type == _SELECT}
    for place, node in enumerate(nodes):
        if node.domain != DOMAIN:
            if node.op_type == "Shape" and node.input[0] in scored:
                node.input[0] = scored[node.input[0]]
                if not any(attribute.name == "end" for attribute in node.attribute):
                    node.attribute.append(helper.make_attribute("end", 2))
            made.graph.node.append(node)
        elif node.op_type == _SELECT:
            made.graph.node.extend(_all_tokens(node, place))
        else:
            record = RECORDS[node.op_type]
            names = [field.name for field in record.inputs]
            taken = []
            for name, given in zip(names, node.input, strict=True):
                if name in ("x", "k", "b2"):
                    taken.append(given)
                    continue
                part = _joined(numpy_helper.to_array(weights[given]), learners, before_output=name != "w2")
                made.graph.initializer.append(numpy_helper.from_array(part, f"{given}_first{place}"))
                taken.append(f"{given}_first{place}")
            del taken[names.index("k")]
            made.graph.node.append(helper.make_node(node.op_type, taken, node.output, domain=_UNIFORM))
            functions.setdefault(node.op_type, _function(node.op_type))
    made.functions.extend(functions.values())
    made.opset_import.append(helper.make_opsetid(_UNIFORM, 1))
    return made


def _joined(weight: Array, learners: int, *, before_output: bool) -> Array:
    """The weights of k learners as those of one: ``[N, D, h]`` to ``[1, D, kh]``, ``[N, h, E]`` to ``[1, kh, E]``."""
    some = weight[:learners]
    if weight.ndim == 2:  # biases
        return np.ascontiguousarray(some.reshape(1, -1))
    if before_output:
        return np.ascontiguousarray(some.transpose(1, 0, 2).reshape(1, weight.shape[1], -1))
    return np.ascontiguousarray(some.reshape(1, -1, weight.shape[2]))


def _function(op: str) -> onnx.FunctionProto:
    """What one learner computes of all rows: of the op's body what leads from its rows to its sum."""
    body = RECORDS[op].body(1)
    made = onnx.FunctionProto()
    made.CopyFrom(body)
    made.domain = _UNIFORM
    wanted, kept = {"sum1"}, []
    for node in reversed(body.node):
        if any(name in wanted for name in node.output) and "x1" not in node.output:
            wanted.update(node.input)
            kept.append(node)
    del made.node[:], made.output[:], made.input[:]
    made.input.extend(name for name in body.input if name != "k")
    made.output.append("sum1")
    made.node.append(helper.make_node("Identity", ["x"], ["x1"]))
    made.node.extend(reversed(kept))
    return made


def _all_tokens(node: onnx.NodeProto, place: int) -> list[onnx.NodeProto]:
    """What a selection gives where it keeps all tokens, padding among them."""
    x, valid = node.input[0], node.input[2]
    rows, index, count = node.output
    own = f"all_tokens{place}"

    def constant(name: str, value: npt.NDArray[Any]) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [f"{own}_{name}"], value=numpy_helper.from_array(value))

    nodes = [
        helper.make_node("Identity", [x], [rows]),
        constant("axis", np.array([1])),
        helper.make_node("Cast", [valid], [f"{own}_valid"], to=onnx.TensorProto.INT32),
        helper.make_node("ReduceSum", [f"{own}_valid", f"{own}_axis"], [count], keepdims=0),
        helper.make_node("CumSum", [f"{own}_ones", f"{own}_axis1"], [index], exclusive=1),
    ]
    ones = [
        constant("axis1", np.array(1)),
        helper.make_node("Shape", [x], [f"{own}_shape"], end=2),
        constant("one", np.array(1, np.int32)),
        helper.make_node("Expand", [f"{own}_one", f"{own}_shape"], [f"{own}_ones"]),
    ]
    return [*ones, *nodes] if index else [*ones, *nodes[:-1]]


def _append(target: onnx.GraphProto, source: onnx.GraphProto, names: Mapping[str, str], prefix: str) -> None:
    """Add a graph's nodes and weights under names of their own."""

    def renamed(name: str) -> str:
        return names.get(name, prefix + name) if name else ""

    for node in source.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = prefix + (node.name or node.output[0])
        del copy.input[:], copy.output[:]
        copy.input.extend(map(renamed, node.input))
        copy.output.extend(map(renamed, node.output))
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise BenchError(f"got a graph with a branch at {node.name!r}, expected none")
        target.node.append(copy)
    for weight in source.initializer:
        copied = onnx.TensorProto()
        copied.CopyFrom(weight)
        copied.name = renamed(weight.name)
        target.initializer.append(copied)


def _drop_dead(graph: onnx.GraphProto) -> None:
    """Remove what no output needs."""
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in wanted for name in node.output):
            wanted.update(node.input)
            kept.append(node)
    weights = [weight for weight in graph.initializer if weight.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)
