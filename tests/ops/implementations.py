"""Every implementation of an op that runs here, behind one signature."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, inliner, reference, shape_inference

from adaptrt.ops import DOMAIN, OPSET_VERSION, OpRecord
from adaptrt.ops.record import IR_VERSION, ONNX_OPSET, Array, Field

Implementation = Callable[[OpRecord, dict[str, Array], Mapping[str, Any]], tuple[Array, ...]]


def graph_of(
    record: OpRecord,
    inputs: dict[str, Array],
    attributes: Mapping[str, Any] | None = None,
    body: onnx.FunctionProto | None = None,
) -> onnx.ModelProto:
    """One node with its body, or the one given, attached; every axis dynamic."""
    attributes = attributes or {}

    def value(spec: Field, dtype: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(
            spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(spec.axes)
        )

    values = [value(spec, inputs[spec.name].dtype.name) for spec in record.inputs]
    # An output that may be of several dtypes has that of x.
    outputs = [
        value(spec, spec.dtypes[0] if len(spec.dtypes) == 1 else inputs["x"].dtype.name) for spec in record.outputs
    ]
    names = [spec.name for spec in record.outputs]
    node = helper.make_node(record.name, list(inputs), names, domain=DOMAIN, **attributes)
    model = helper.make_model(
        helper.make_graph([node], "op", values, outputs),
        opset_imports=[helper.make_opsetid("", ONNX_OPSET), helper.make_opsetid(DOMAIN, OPSET_VERSION)],
        functions=[body or record.body_for(inputs, attributes)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model)
    return model


def run_in_onnxruntime(model: onnx.ModelProto, inputs: dict[str, Array]) -> tuple[Array, ...]:
    return tuple(_session(model.SerializeToString(deterministic=True)).run(None, inputs))


@cache
def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_reference(record: OpRecord, inputs: dict[str, Array], attributes: Mapping[str, Any]) -> tuple[Array, ...]:
    return record.expected(inputs, attributes)


def run_body_in_onnxruntime(
    record: OpRecord, inputs: dict[str, Array], attributes: Mapping[str, Any]
) -> tuple[Array, ...]:
    return run_in_onnxruntime(graph_of(record, inputs, attributes), inputs)


def run_body_in_onnx_reference(
    record: OpRecord, inputs: dict[str, Array], attributes: Mapping[str, Any]
) -> tuple[Array, ...]:
    # onnx.reference finds Gelu, itself a function, only in an inlined graph with known types.
    inlined = shape_inference.infer_shapes(inliner.inline_local_functions(graph_of(record, inputs, attributes)))
    return tuple(np.asarray(output) for output in reference.ReferenceEvaluator(inlined).run(None, inputs))


def assert_close(
    record: OpRecord, got: tuple[Array, ...], wanted: tuple[Array, ...], dtype: str, context: str = ""
) -> None:
    """Compare all outputs of an op: dtypes, shapes, values within the record's tolerance for ``dtype``."""
    tolerance = record.tolerances[dtype]
    for spec, one, other in zip(record.outputs, got, wanted, strict=True):
        where = f"{context} {spec.name}"
        assert one.shape == other.shape, f"{where}: {one.shape} {other.shape}"
        assert one.dtype == other.dtype, f"{where}: {one.dtype} {other.dtype}"
        np.testing.assert_allclose(
            one.astype(np.float64), other.astype(np.float64), tolerance.rtol, tolerance.atol, err_msg=where
        )
