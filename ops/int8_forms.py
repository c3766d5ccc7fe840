"""The int8 forms of ops: weights as bytes beside their scales (W8A16), and activations by fixed scales, too (W8A8).

A form is an op of its own, called as the op with the form's name behind. It has the op's inputs, each int8 matrix
``w[N, in, out]`` followed by ``w_scale[N, out]``; W8A8 has ``x_scale[]`` and ``hidden_scale[N]`` after them. Bytes of
activations are even about 0, as QuantizeLinear makes them: a token's result does not depend on its batch-mates. What
is not int8 is float16 or bfloat16, and between the op's kernels W8A16 keeps hidden layers so, W8A8 as int8.

Everything here follows from the op's record and its parts: inputs, reference, body and the parts of the form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptrt.ops.int8 import FULL, even_steps, quantize_columns
from adaptrt.ops.record import Array, Case, Field, OpRecord, Part

if TYPE_CHECKING:
    import onnx

HALVES = ("float16", "bfloat16")
"""Dtypes of what is not int8; kernels with int8 are compiled in no other."""
_INT8 = ("int8",)
_DRAWN_SCALE = 0.03


@dataclass(frozen=True)
class Int8Form:
    """One way in which ops are int8.

    Attributes:
        name: Stands behind the names of ops and parts.
        activations: Whether activations are int8, too.
    """

    name: str
    activations: bool


W8A16, W8A8 = Int8Form("W8A16", activations=False), Int8Form("W8A8", activations=True)
FORMS = (W8A16, W8A8)


def has_forms(record: OpRecord) -> bool:
    """Whether the op has kernels that take int8 weights."""
    return any(part.weights for part in record.parts)


def int8_part(part: Part, form: Int8Form) -> Part:
    """The part with tensors of the form; itself where it has no weights. Its kernel is the same file."""
    if not part.weights:
        return part
    fixed = part.scales if form.activations else ()
    activations = part.activations if form.activations else ()
    return replace(
        part,
        name=f"{part.name}{form.name}",
        inputs=(*_inputs(part.inputs, part.weights, activations), *fixed),
        outputs=tuple(_field(field, activations) for field in part.outputs),
        weights=(),
        activations=(),
        scales=(),
    )


def int8_record(record: OpRecord, form: Int8Form) -> OpRecord:
    """The record of an op's form.

    Raises:
        ValueError: The op has none.
    """
    if not has_forms(record):
        raise ValueError(f"got {record.name}, expected an op whose kernels take int8 weights")
    weights = {name for part in record.parts for name in part.weights}
    scales = dict.fromkeys(field for part in record.parts for field in part.scales)
    return replace(
        record,
        name=f"{record.name}{form.name}",
        inputs=(*_inputs(record.inputs, weights, ()), *(scales if form.activations else ())),
        outputs=tuple(_field(field, ()) for field in record.outputs),
        reference=partial(_reference, record, form),
        body=partial(_body, record, form),
        make_inputs=partial(_make_inputs, record, form),
        parts=tuple(int8_part(part, form) for part in record.parts),
    )


def int8_records(records: Iterable[OpRecord]) -> dict[str, OpRecord]:
    """Every form of every op that has some, by name."""
    forms = [int8_record(record, form) for record in records if has_forms(record) for form in FORMS]
    return {record.name: record for record in forms}


def quantized_weights(weight: Array) -> tuple[Array, Array]:
    """Weights ``[N, in, out]`` as int8, each learner's columns by their largest magnitude, and scales ``[N, out]``.

    Raises:
        ValueError: There are numbers that are not finite.
    """
    learners = [quantize_columns(each, FULL) for each in weight]
    return np.stack([each.values for each in learners]), np.stack([each.scale for each in learners])


def scale_field(weight: Field) -> Field:
    """The scale of a matrix ``[N, in, out]``: one for each of its last axis."""
    return Field(f"{weight.name}_scale", ("float32",), (*weight.axes[:-2], weight.axes[-1]))


def _inputs(fields: Iterable[Field], weights: Iterable[str], activations: Iterable[str]) -> list[Field]:
    inputs = []
    for field in fields:
        if field.name in weights:
            inputs += [replace(field, dtypes=_INT8), scale_field(field)]
        else:
            inputs.append(_field(field, activations))
    return inputs


def _field(field: Field, activations: Iterable[str]) -> Field:
    if field.name in activations:
        return replace(field, dtypes=_INT8)
    return replace(field, dtypes=HALVES) if len(field.dtypes) > 1 else field


def _make_inputs(
    record: OpRecord, form: Int8Form, case: Case, generator: np.random.Generator, dtype: str = "float16"
) -> dict[str, Array]:
    """Draw the inputs of one case, by name and in the form's order."""
    drawn = record.make_inputs(case, generator, "float32")
    inputs: dict[str, Array] = {}
    for field in int8_record(record, form).inputs:
        if field.name not in drawn:
            size = [case.axes[axis] for axis in field.axes]
            inputs.setdefault(field.name, np.full(size, _DRAWN_SCALE, np.float32))
        elif field.dtypes == _INT8:
            inputs[field.name], inputs[f"{field.name}_scale"] = quantized_weights(drawn[field.name])
        else:
            inputs[field.name] = drawn[field.name].astype(dtype) if len(field.dtypes) > 1 else drawn[field.name]
    return inputs


def _reference(record: OpRecord, form: Int8Form, **inputs: Array) -> Array:
    """What the form computes, in float64 but for what is stored as int8 or in the dtype of x.

    Args:
        record: Of the op.
        form: Which.
        inputs: By name, as the form's record has them.

    Returns:
        ``y[T, E]`` in the dtype of ``x``.

    Raises:
        ValueError: A shape or dtype is not the record's.
    """
    int8_record(record, form).check_inputs(**inputs)
    x = inputs["x"]
    plain: dict[str, Array] = {}
    for field in record.inputs:
        given = inputs[field.name]
        if given.dtype == np.int8:
            given = given.astype(np.float32) * inputs[f"{field.name}_scale"][:, None, :]
        plain[field.name] = given.astype(np.float32) if len(field.dtypes) > 1 else given
    if form.activations:
        plain["x"] = even_steps(x, np.float32(inputs["x_scale"])).astype(np.float32) * inputs["x_scale"]

    def stored(hidden: Array, n: int) -> Array:
        if not form.activations:
            return hidden.astype(x.dtype).astype(np.float64)
        scale = inputs["hidden_scale"][n]
        return even_steps(hidden, scale).astype(np.float64) * np.float64(scale)

    y: Array = record.reference(**plain, stored=stored).astype(x.dtype)
    return y


def _body(record: OpRecord, form: Int8Form, **static: int) -> onnx.FunctionProto:
    """The op's portable body over what bytes stand for, hidden layers rounded as the form's kernels store them."""
    from onnx import TensorProto, helper

    base = record.body(**static)
    nodes: list[onnx.NodeProto] = []

    def emit(op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(op, inputs, [output], **attributes))

    def through_bytes(name: str, scale: str, output: str) -> None:
        emit("QuantizeLinear", [name, scale, "int8_zero"], f"{output}_bytes")
        emit("DequantizeLinear", [f"{output}_bytes", scale, "int8_zero"], output)

    emit("Constant", [], "int8_zero", value=helper.make_tensor("zero", TensorProto.INT8, [], [0]))
    emit("Constant", [], "before_last", value=helper.make_tensor("axis", TensorProto.INT64, [1], [1]))
    given = {field.name: f"{field.name}_given" for field in record.inputs if len(field.dtypes) > 1}
    names = dict(zip((field.name for field in record.inputs), base.input, strict=True))
    weights = {name for part in record.parts for name in part.weights}
    for name, outer in given.items():
        exact = f"{name}_exact"
        emit("Cast", [outer], exact, to=TensorProto.FLOAT)
        if name in weights:
            emit("Unsqueeze", [f"{name}_scale", "before_last"], f"{name}_columns")
            emit("Mul", [exact, f"{name}_columns"], names[name])
        elif name == "x" and form.activations:
            through_bytes(exact, "x_scale", names[name])
        else:
            emit("Identity", [exact], names[name])
    hidden = {f"hidden{n}": n - 1 for n in range(1, static[record.static_axes["N"]] + 1)}
    for node in base.node:
        node.output[:] = [f"{name}_exact" if name in (*hidden, *base.output) else name for name in node.output]
        nodes.append(node)
        for name in [name.removesuffix("_exact") for name in node.output if name.removesuffix("_exact") in hidden]:
            if form.activations:
                index = helper.make_tensor("index", TensorProto.INT64, [], [hidden[name]])
                emit("Constant", [], f"{name}_learner", value=index)
                emit("Gather", ["hidden_scale", f"{name}_learner"], f"{name}_scale", axis=0)
                through_bytes(f"{name}_exact", f"{name}_scale", name)
            else:
                emit("CastLike", [f"{name}_exact", given["x"]], f"{name}_half")
                emit("Cast", [f"{name}_half"], name, to=TensorProto.FLOAT)
    for name in base.output:
        emit("CastLike", [f"{name}_exact", given["x"]], name)
    inputs = [given.get(field.name, names.get(field.name, field.name)) for field in int8_record(record, form).inputs]
    body = helper.make_function(
        base.domain, f"{record.name}{form.name}", inputs, list(base.output), nodes, list(base.opset_import)
    )
    body.doc_string = f"{base.doc_string} Weights are int8{', activations, too' if form.activations else ''}."
    return body
