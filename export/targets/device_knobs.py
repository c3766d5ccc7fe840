"""Knobs as ordinary inputs on the device, for TensorRT.

A size that follows from an input of at most one axis by operators that TensorRT evaluates on the host makes that
input a shape tensor. An integer one is then fed from host memory and its range is part of the optimisation profile;
a float one, as the price, is refused. ScatterElements is not evaluated there. One that writes all of the knob's
elements in their places changes nothing, and makes every knob an input like any other.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper, numpy_helper

_DTYPES = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.INT32: np.int32, onnx.TensorProto.INT64: np.int64}


def knobs_on_device(model: onnx.ModelProto, knobs: Collection[str]) -> onnx.ModelProto:
    """Copy a graph with those of its inputs that are ``knobs``, each ``[n]``, kept on the device."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        dtype = _DTYPES.get(value.type.tensor_type.elem_type)
        if value.name not in knobs or dtype is None:
            continue
        (size,) = (dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
        inner, zeros, places = (f"{value.name}_{part}" for part in ("on_device", "zeros", "places"))
        for node in copy.graph.node:
            for index, name in enumerate(node.input):
                if name == value.name:
                    node.input[index] = inner
        copy.graph.initializer.append(numpy_helper.from_array(np.zeros(size, dtype), zeros))
        copy.graph.initializer.append(numpy_helper.from_array(np.arange(size, dtype=np.int64), places))
        copy.graph.node.insert(
            0, helper.make_node("ScatterElements", [zeros, places, value.name], [inner], name=inner, axis=0)
        )
        copy.graph.value_info.append(helper.make_tensor_value_info(inner, value.type.tensor_type.elem_type, [size]))
    onnx.checker.check_model(copy)
    return copy
