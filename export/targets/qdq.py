"""A graph whose large products stand between QuantizeLinear and DequantizeLinear, for compilers that fuse these.

OpenVINO and TensorRT read such pairs as what to compute in int8, TensorRT also in fp8; ONNX Runtime runs the graph as
it stands. Activations have fixed scales, even about 0 as TensorRT wants them, so that a token's result does not depend
on what else is in its batch; tensors that would lose too much that way stay in float32, and so do their products.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx

from adaptrt.export.errors import ExportError
from adaptrt.export.targets.int8 import LEAST_WIDTH, Int8Rewriter, RowBytes
from adaptrt.export.targets.tensor_types import require_flat
from adaptrt.ops.fp8 import e4m3_columns
from adaptrt.ops.int8 import FULL, ByteScale, Quantized
from adaptrt.ops.record import Array

_NOTHING = "relu_zero"


def to_qdq(
    flat: onnx.ModelProto,
    fixed: Mapping[str, ByteScale],
    largest: int = FULL,
    per_sample: Collection[str] = (),
    least_width: int = LEAST_WIDTH,
    *,
    beside: bool = False,
) -> onnx.ModelProto:
    """Copy a graph with its large products between pairs of int8; nodes with bodies stay as they are.

    Args:
        flat: From ``inlined``, or with nodes that are left to plugins, and their bodies.
        fixed: Scales of activations, even about 0; products of others stay as they are.
        largest: Magnitude of weights, ``FULL`` or ``REDUCED`` of ``ops/int8.py``.
        per_sample: Tensors whose products stay as they are.
        least_width: Inputs and outputs of the products that are in int8.
        beside: Whether something of the graph is in int8 already, so that there need not be a pair.

    Raises:
        ExportError: Weights are not finite, or nothing can be in int8.
    """
    rewriter = _Pairs(flat, largest, frozenset(per_sample), least_width, fixed)
    return _rewritten(rewriter, flat, least_width, beside=beside)


def to_fp8_qdq(
    flat: onnx.ModelProto,
    fixed: Mapping[str, ByteScale],
    per_sample: Collection[str] = (),
    least_width: int = LEAST_WIDTH,
) -> onnx.ModelProto:
    """Copy a graph without bodies with its large products between pairs of fp8 (E4M3, see ``ops/fp8.py``).

    Args:
        flat: From ``inlined``.
        fixed: Scales of activations; products of others stay as they are.
        per_sample: Tensors whose products stay as they are.
        least_width: Inputs and outputs of the products that are in fp8.

    Raises:
        ExportError: Weights are not finite, or nothing can be in fp8.
    """
    return _rewritten(_Fp8Pairs(flat, FULL, frozenset(per_sample), least_width, fixed), flat, least_width)


def without_relu(pairs: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph of pairs with a Max in the place of each Relu, for ONNX Runtime.

    Version 1.32 leaves a Relu out whose result is quantised to fp8, as if its bytes had no sign (optimisations of
    level 2, run with ``Relu``, ``QuantizeLinear`` and a zero point of FLOAT8E4M3FN).
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(pairs)
    for node in copy.graph.node:
        if node.op_type == "Relu" and not node.domain:
            node.op_type = "Max"
            node.input.append(_NOTHING)
    if any(_NOTHING in node.input for node in copy.graph.node):
        copy.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(0, np.float32), _NOTHING))
    return copy


def _rewritten(rewriter: _Pairs, flat: onnx.ModelProto, least_width: int, *, beside: bool = False) -> onnx.ModelProto:
    require_flat(flat.graph.node)
    for node in flat.graph.node:
        rewriter.add(node)
    if not rewriter.products and not beside:
        raise ExportError(
            f"got a graph with no product of at least {least_width} inputs and outputs whose input has a "
            f"fixed scale, expected some to compute in {rewriter.columns_in}; use another precision"
        )
    made = rewriter.finish()
    onnx.checker.check_model(made)
    return made


class _Pairs(Int8Rewriter):
    """Emits float products of what was quantised and dequantised; rows are picked as bytes, once for all learners."""

    zero = np.asarray(0, np.int8)
    """The byte of 0, whose type is that of the bytes."""

    def _add_int8(self, node: onnx.NodeProto, weight: Array, turned: bool) -> bool:
        """A product between pairs; whether its input has a fixed scale."""
        x, name, weight_name = node.input[0], node.output[0], node.input[1]
        rows = self._bytes_of(x, weight.shape[1] if turned else weight.shape[0])
        if not rows.values:
            return False
        if f"{x}_back" not in self._backs:
            self._emit("DequantizeLinear", [rows.values, rows.scale, rows.zero], f"{x}_back")
            self._backs.add(f"{x}_back")
        columns = self._columns_of(weight_name, weight, turned)
        back = f"{columns[0]}_back"
        if back not in self._backs:
            self._emit("DequantizeLinear", [columns[0], columns[1]], back, axis=1)
            self._backs.add(back)
        added = node.input[2] if len(node.input) > 2 and node.input[2] else ""
        if added:
            self._emit("Gemm", [f"{x}_back", back, added], name)
        else:
            self._emit("MatMul", [f"{x}_back", back], name)
        self.products += 1
        return True

    def _quantized(self, x: str, depth: int, root: str = "") -> RowBytes:
        fixed = self._fixed.get(root or x)
        if fixed is None:
            return RowBytes("", "", "", "")
        self.sources[x] = depth
        scale, zero = f"{x}_scale", f"{x}_zero"
        self._made[scale], self._made[zero] = np.asarray(fixed.scale), self.zero
        self._emit("QuantizeLinear", [x, scale, zero], f"{x}_bytes")
        return RowBytes(f"{x}_bytes", scale, zero, "")

    def _picked_bytes(self, x: str, picked: onnx.NodeProto, depth: int) -> RowBytes:
        whole = self._bytes_of(picked.input[0], depth)
        return super()._picked_bytes(x, picked, depth) if whole.values else whole


_E4M3 = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.FLOAT8E4M3FN)


class _Fp8Pairs(_Pairs):
    """The same in fp8, for which ONNX has no operators that pick rows: these are picked before they are quantised."""

    columns_in = "fp8"
    packs = False  # 8 bits of two kinds in one file would be two roundings to explain
    zero = np.zeros((), _E4M3)

    def _stored(self, weight: Array) -> Quantized:
        columns = e4m3_columns(weight)
        return Quantized(columns.values.astype(_E4M3), columns.scale)

    def _picked_bytes(self, x: str, picked: onnx.NodeProto, depth: int) -> RowBytes:
        root = picked.input[0]
        while root in self._picked:
            root = self._picked[root].input[0]
        return self._quantized(x, depth, root)
