"""Ops of learners in their int8 forms, for plugins: int8 weights and scales are inputs of the node.

What an engine's plugins compute no pairs can tell it to do in bytes; the node itself has to. Scales are those that
pairs have: of activations the fixed ones that were measured, where all tensors of the node have one (W8A8), else
weights alone are int8 (W8A16). Kernels with int8 have numbers in half precision, so the node stands between casts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from adaptrt.export.errors import ExportError
from adaptrt.export.targets.activation_ranges import ActivationRange
from adaptrt.export.targets.inline import inlined
from adaptrt.export.targets.tensor_types import FLOAT, FLOAT16, infer_types
from adaptrt.ops import DOMAIN, INT8_RECORDS, RECORDS, Int8Form, OpRecord
from adaptrt.ops.int8 import ByteScale
from adaptrt.ops.int8_forms import W8A8, W8A16, has_forms, quantized_weights
from adaptrt.ops.record import Array

_MOST = float(np.finfo(np.float16).max)
_HIDDEN = "hidden"
"""How bodies of learners call a hidden layer, the learner's number behind."""


class LearnerTensors(NamedTuple):
    """What a node of learners multiplies: names in the graph of ``exposed``, and how wide the tensors are."""

    x: str
    hidden: tuple[str, ...]
    widths: dict[str, int]


@dataclass(frozen=True)
class Int8Learners:
    """A graph with nodes in int8 forms.

    Attributes:
        model: With the forms' bodies.
        forms: Of each node of learners, by its first output; None: it stayed in float32, as half precision does not
            hold its numbers.
    """

    model: onnx.ModelProto
    forms: dict[str, Int8Form | None]

    def number(self, form: Int8Form | None) -> int:
        """Of nodes in a form."""
        return sum(each is form for each in self.forms.values())


def learner_tensors(model: onnx.ModelProto) -> dict[str, LearnerTensors]:
    """What is to be measured of each node of learners, by its first output.

    Args:
        model: With ops of learners as nodes.

    Raises:
        ExportError: A node's weights are computed in the graph.
    """
    weights = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    found = {}
    for node in _learner_nodes(model):
        sizes = _sizes(node, weights)
        hidden = tuple(f"{node.output[0]}_{_HIDDEN}{number}" for number in range(1, sizes["N"] + 1))
        x = _by_field(node)["x"]
        found[node.output[0]] = LearnerTensors(x, hidden, {x: sizes["D"], **dict.fromkeys(hidden, sizes["h"])})
    return found


def exposed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph with all bodies in the place of their nodes, hidden layers named as ``learner_tensors`` says."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = learner_tensors(model)
    for node in _learner_nodes(copy):
        node.output.extend(tensors[node.output[0]].hidden)
    numbers = {node.op_type: len(node.output) - 1 for node in _learner_nodes(copy)}
    for function in copy.functions:
        if function.domain == DOMAIN and function.name in numbers:
            function.output.extend(f"{_HIDDEN}{number}" for number in range(1, numbers[function.name] + 1))
    del copy.graph.value_info[:]
    return inlined(copy)


def with_int8_learners(
    model: onnx.ModelProto, ranges: Mapping[str, ActivationRange], scales: Mapping[str, ByteScale]
) -> Int8Learners:
    """Copy a graph with its nodes of learners in int8 forms.

    Args:
        model: With ops of learners as nodes, and their bodies.
        ranges: Of the tensors of ``learner_tensors``.
        scales: Of those that keep enough by a fixed one, even about 0.

    Raises:
        ExportError: Weights are computed in the graph, or not finite.
    """
    tensors = learner_tensors(model)
    rewriter = _Rewriter(model)
    for node in model.graph.node:
        own = tensors.get(node.output[0]) if node.domain == DOMAIN else None
        if own is None:
            rewriter.keep(node)
        else:
            rewriter.add(node, own, ranges, scales)
    return Int8Learners(rewriter.finish(), rewriter.forms)


class _Rewriter:
    """Emits nodes in order, those of learners between casts."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._weights = {weight.name: weight for weight in model.graph.initializer}
        self._nodes: list[onnx.NodeProto] = []
        self._bodies: dict[str, onnx.FunctionProto] = {}
        self.forms: dict[str, Int8Form | None] = {}

    def keep(self, node: onnx.NodeProto) -> None:
        """Emit a node as it is."""
        self._nodes.append(node)

    def add(
        self,
        node: onnx.NodeProto,
        tensors: LearnerTensors,
        ranges: Mapping[str, ActivationRange],
        scales: Mapping[str, ByteScale],
    ) -> None:
        """Emit a node of learners in the form that its tensors allow."""
        record, first = RECORDS[node.op_type], node.output[0]
        form = self._form(record, node, tensors, ranges, scales)
        self.forms[first] = form
        if form is None:
            self.keep(node)
            return
        int8 = INT8_RECORDS[f"{record.name}{form.name}"]
        names = {"k": _by_field(node)["k"], "x": f"{first}_x_half"}
        self._cast(tensors.x, names["x"], FLOAT16)
        if form.activations:
            names["x_scale"] = self._constant(f"{first}_x_scale", np.asarray(scales[tensors.x].scale))
            of_hidden = np.array([scales[name].scale for name in tensors.hidden], np.float32)
            names["hidden_scale"] = self._constant(f"{first}_hidden_scale", of_hidden)
        for field, name in zip(record.inputs, node.input, strict=True):
            if field.name not in names:
                names |= self._stored(field.name, name, len(field.axes))
        half = f"{first}_half"
        made = helper.make_node(
            int8.name, [names[field.name] for field in int8.inputs], [half], name=node.name or first, domain=DOMAIN
        )
        made.attribute.extend(node.attribute)
        self._nodes.append(made)
        self._cast(half, first, FLOAT)
        if int8.name not in self._bodies:
            self._bodies[int8.name] = int8.body(learners=len(tensors.hidden))

    def finish(self) -> onnx.ModelProto:
        """The whole graph, with the bodies of what is left in it; types derived anew."""
        made = onnx.ModelProto()
        made.CopyFrom(self._model)
        for part in (made.graph.node, made.graph.value_info, made.graph.initializer, made.functions):
            del part[:]
        made.graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input} | {value.name for value in made.graph.output}
        made.graph.initializer.extend(weight for name, weight in self._weights.items() if name in used)
        left = {node.op_type for node in self._nodes if node.domain == DOMAIN}
        made.functions.extend(each for each in self._model.functions if each.domain != DOMAIN or each.name in left)
        made.functions.extend(self._bodies.values())
        typed = infer_types(made)
        onnx.checker.check_model(typed)
        return typed

    def _form(
        self,
        record: OpRecord,
        node: onnx.NodeProto,
        tensors: LearnerTensors,
        ranges: Mapping[str, ActivationRange],
        scales: Mapping[str, ByteScale],
    ) -> Int8Form | None:
        """W8A8 where all tensors have a scale, W8A16 where half precision holds them, else none."""
        biases = [
            np.abs(numpy_helper.to_array(self._weights[name])).max(initial=0.0)
            for field, name in zip(record.inputs, node.input, strict=True)
            if name in self._weights and len(field.axes) < 3
        ]
        if max([*biases, *(ranges[name].reach for name in tensors.widths)]) > _MOST:
            return None
        return W8A8 if all(name in scales for name in tensors.widths) else W8A16

    def _stored(self, field: str, name: str, rank: int) -> dict[str, str]:
        """Names of a weight as the form has it, by input: int8 and scales of a matrix, half precision of a bias."""
        array = numpy_helper.to_array(self._weights[name])
        if rank < 3:
            return {field: self._constant(f"{name}_half", array.astype(np.float16))}
        values, scale = f"{name}_int8", f"{name}_int8_scale"
        if values not in self._weights:
            try:
                parts = quantized_weights(array)
            except ValueError:
                raise ExportError(
                    f"got weights {name} with NaN or infinite numbers, expected finite ones for int8; "
                    "use --precision fp32"
                ) from None
            for part, stored in zip((values, scale), parts, strict=True):
                self._constant(part, stored)
        return {field: values, f"{field}_scale": scale}

    def _constant(self, name: str, array: Array) -> str:
        self._weights[name] = numpy_helper.from_array(array, name)
        return name

    def _cast(self, source: str, output: str, to: int) -> None:
        self._nodes.append(helper.make_node("Cast", [source], [output], name=f"{output}_cast", to=to))


def _learner_nodes(model: onnx.ModelProto) -> Iterable[onnx.NodeProto]:
    for node in model.graph.node:
        record = RECORDS.get(node.op_type) if node.domain == DOMAIN else None
        if record is not None and has_forms(record):
            yield node


def _by_field(node: onnx.NodeProto) -> dict[str, str]:
    fields = RECORDS[node.op_type].inputs
    return {field.name: name for field, name in zip(fields, node.input, strict=True)}


def _sizes(node: onnx.NodeProto, weights: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Sizes of a node's axes, from its weights.

    Raises:
        ExportError: One is computed in the graph.
    """
    sizes: dict[str, int] = {}
    for field, name in zip(RECORDS[node.op_type].inputs, node.input, strict=True):
        if "T" in field.axes:
            continue
        if name not in weights:
            raise ExportError(
                f"got {node.op_type} whose weights {name} are computed, expected an initializer; export again"
            )
        sizes |= zip(field.axes, weights[name], strict=True)
    return sizes
