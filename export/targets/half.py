"""A strongly typed float16 graph: weights and activations in float16, what decides in float32.

Why not a converter that exists: those of onnxconverter-common and onnxruntime.transformers (one code base) treat all
floats of a node alike, so SelectTokens would keep its tokens in float32 because its scores must stay; they look into
no local function and give its nodes no types; block lists there name nodes one by one, and what a blocked node feeds
goes through float16 and back. NVIDIA's modelopt does better with types, but brings a hundred packages and sends
custom ops to TensorRT to learn their types, which is not there. The choice of nodes is in ``half_choice``.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from adaptrt.export.targets.half_choice import MOVES, TYPED_BY_ATTRIBUTE, HalfForm, half_forms
from adaptrt.export.targets.tensor_types import FLOAT, FLOAT16, element_types, infer_types, require_flat

_SUFFIX: dict[int, str] = {FLOAT: "float32", FLOAT16: "float16"}
_ANY_TYPE = frozenset({"Shape", "Size"})  # they do not read values: no cast is worth its time


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a stage's graph, adaptive ops as nodes with bodies, in float16 as far as it may be.

    Inputs and outputs keep their types, with casts inside.

    Raises:
        ExportError: The graph has control flow, or its types contradict each other.
    """
    require_flat(model.graph.node)
    typed = infer_types(_constants_as_weights(model))
    rewriter = _Rewriter(typed)
    forms = half_forms(typed)
    for place, node in enumerate(typed.graph.node):
        rewriter.add(node, forms.get(place))
    half = rewriter.finish()
    onnx.checker.check_model(half)
    return half


class _Rewriter:
    """Emits nodes in order, with a cast wherever a tensor is needed in the other type."""

    def __init__(self, typed: onnx.ModelProto) -> None:
        self._typed, self._types = typed, element_types(typed)
        self._weights = {weight.name: weight for weight in typed.graph.initializer}
        self._outputs = {value.name for value in typed.graph.output}
        self._names: dict[str, dict[int, str]] = {}  # of each float tensor: its names by type, the native one first
        for value in typed.graph.input:
            if self._types[value.name] == FLOAT:
                self._names[value.name] = {FLOAT: value.name}
        self._nodes: list[onnx.NodeProto] = []

    def add(self, node: onnx.NodeProto, form: HalfForm | None) -> None:
        """Emit one node; ``form`` says what of it is float16."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        form = self._move_form(node, form)
        for index, name in enumerate(node.input):
            if self._types.get(name) != FLOAT:
                continue
            if node.op_type in _ANY_TYPE and name in self._names:
                copy.input[index] = next(iter(self._names[name].values()))
            else:
                copy.input[index] = self._named(name, FLOAT16 if form and index in form.inputs else FLOAT)
        casts = []
        for index, name in enumerate(node.output):
            if self._types.get(name) != FLOAT:
                continue
            if form is None or index not in form.outputs:
                self._names[name] = {FLOAT: name}
            elif name in self._outputs:
                copy.output[index] = f"{name}_{_SUFFIX[FLOAT16]}"
                self._names[name] = {FLOAT16: copy.output[index], FLOAT: name}
                casts.append(helper.make_node("Cast", [copy.output[index]], [name], name=f"{name}_cast", to=FLOAT))
            else:
                self._names[name] = {FLOAT16: name}
        if form is not None and node.op_type in TYPED_BY_ATTRIBUTE:
            _retype(copy)
        self._nodes += [copy, *casts]

    def finish(self) -> onnx.ModelProto:
        """The whole graph, types derived anew."""
        half = onnx.ModelProto()
        half.CopyFrom(self._typed)
        for field in (half.graph.node, half.graph.value_info, half.graph.initializer):
            del field[:]
        half.graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input} | self._outputs
        half.graph.initializer.extend(weight for name, weight in self._weights.items() if name in used)
        return infer_types(half)

    def _move_form(self, node: onnx.NodeProto, form: HalfForm | None) -> HalfForm | None:
        """What copies values keeps their type, whatever it was to be."""
        if node.domain or node.op_type not in MOVES or node.input[0] not in self._names:
            return form
        if next(iter(self._names[node.input[0]])) == FLOAT:
            return None
        return HalfForm(frozenset({0}), frozenset(range(len(node.output))))

    def _named(self, name: str, wanted: int) -> str:
        """Name of a float tensor in a type, cast where it is not there in it yet."""
        if name in self._weights:
            return name if wanted == FLOAT else self._half_weight(name)
        names = self._names[name]
        if wanted not in names:
            cast = f"{name}_{_SUFFIX[wanted]}"
            source = next(iter(names.values()))
            self._nodes.append(helper.make_node("Cast", [source], [cast], name=cast, to=wanted))
            names[wanted] = cast
        return names[wanted]

    def _half_weight(self, name: str) -> str:
        half = f"{name}_{_SUFFIX[FLOAT16]}"
        if half not in self._weights:
            values = numpy_helper.to_array(self._weights[name]).astype(np.float16)
            self._weights[half] = numpy_helper.from_array(values, half)
        return half


def _constants_as_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph with its float constants as initialisers, which can be had in both types."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = []
    for node in copy.graph.node:
        tensor = _constant(node)
        if tensor is None:
            nodes.append(node)
        else:
            tensor.name = node.output[0]
            copy.graph.initializer.append(tensor)
    if len(nodes) < len(copy.graph.node):
        kept = [_clone(node) for node in nodes]
        del copy.graph.node[:]
        copy.graph.node.extend(kept)
    return copy


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The value of a float Constant node."""
    if node.op_type != "Constant" or node.domain:
        return None
    (attribute,) = node.attribute
    if attribute.name == "value" and attribute.t.data_type == FLOAT:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(attribute.t)
        return tensor
    if attribute.name in ("value_float", "value_floats"):
        return numpy_helper.from_array(np.array(helper.get_attribute_value(attribute), np.float32))
    return None


def _clone(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _retype(node: onnx.NodeProto) -> None:
    """Make a node whose output type an attribute says give float16."""
    for attribute in node.attribute:
        if attribute.name == "to":
            attribute.i = FLOAT16
        elif attribute.name == "value":
            values = numpy_helper.to_array(attribute.t).astype(np.float16)
            attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
