"""A graph whose large products with constant weights are in int8, for ONNX Runtime on CPUs; the rest stays in float32.

Activations become bytes once for all products that read them (``ops/int8.py``), by fixed scales or a scale for each
row, and rows are picked and
ordered as bytes: a layer's input is quantised before the learners' tokens are gathered from it. What decides and what
answers stays in float32: gates and scores, whose products are narrow, and heads, which read one row for each sample.

Why not ``quantize_dynamic`` of ONNX Runtime: it leaves the learners in float, as their weights are gathered from one
constant; it takes one scale for a whole tensor, so that samples of a batch change each other; and it quantises each
learner's input anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.unread import needed_nodes
from adaptrt.export.targets.graph_nodes import integer, number, picks_rows
from adaptrt.export.targets.outlier_channels import folded_into_norms
from adaptrt.export.targets.tensor_types import FLOAT, element_types, infer_types, ranks, require_flat
from adaptrt.ops.int8 import FULL, LEAST_SCALE, ZERO_POINT, ByteScale, Quantized, quantize_columns, quantize_rows
from adaptrt.ops.record import Array

LEAST_WIDTH = 32
"""Products with fewer inputs or outputs are those of gates and scores, and save nothing."""
LEAST_TABLE = 2**16
"""Numbers from which on a table of embeddings is worth storing as bytes."""

_MICROSOFT = "com.microsoft"
"""ONNX Runtime's own operators."""

_ONE, _STEPS, _ZERO, _LEAST, _AXIS = "int8_one", "int8_steps", "int8_zero", "int8_least", "int8_axis"
_CONSTANTS = {
    _ONE: np.float32(1),
    _STEPS: np.float32(1 / 127),
    _ZERO: np.uint8(ZERO_POINT),
    _LEAST: LEAST_SCALE,
    _AXIS: np.array([-1], np.int64),
}


def to_int8(
    flat: onnx.ModelProto,
    largest: int,
    per_sample: Collection[str] = (),
    least_width: int = LEAST_WIDTH,
    fixed: Mapping[str, ByteScale] | None = None,
    factors: Mapping[str, Array] | None = None,
) -> onnx.ModelProto:
    """Copy a graph without bodies with its large products in int8.

    Args:
        flat: From ``inlined``.
        largest: Magnitude of weights, ``FULL`` or ``REDUCED`` of ``ops/int8.py``.
        per_sample: Tensors whose products stay as they are.
        least_width: Inputs and outputs of the products that are in int8.
        fixed: Scales of some of ``byte_tensors``; the others get one for each row.
        factors: float32 ``[D]``, powers of two: what channels of tensors of ``fixed`` are divided by before they become
            bytes, and weights multiplied with. Scales are of the divided numbers.

    Raises:
        ExportError: Weights are not finite, or nothing can be in int8.
    """
    rewriter = _rewritten(flat, largest, per_sample, least_width, fixed or {}, factors or {})
    if not rewriter.products:
        raise ExportError(
            f"got a graph with no product of at least {least_width} inputs and outputs with constant weights, expected "
            "some to compute in int8; use --precision fp32"
        )
    quantized = rewriter.finish()
    onnx.checker.check_model(quantized)
    return quantized


def byte_tensors(
    flat: onnx.ModelProto, per_sample: Collection[str] = (), least_width: int = LEAST_WIDTH
) -> dict[str, int]:
    """Names of the tensors ``[..., D]`` that ``to_int8`` makes bytes of, and their D."""
    return dict(_rewritten(flat, FULL, per_sample, least_width).sources)


def byte_products(
    flat: onnx.ModelProto, per_sample: Collection[str] = (), least_width: int = LEAST_WIDTH
) -> dict[str, list[Array]]:
    """The weights ``[D, E]`` of the products that read each of ``byte_tensors``, rows picked of it among them."""
    return _rewritten(flat, FULL, per_sample, least_width).readers


def _rewritten(
    flat: onnx.ModelProto,
    largest: int,
    per_sample: Collection[str],
    least_width: int,
    fixed: Mapping[str, ByteScale] = {},
    factors: Mapping[str, Array] = {},
) -> Int8Rewriter:
    require_flat(flat.graph.node)
    rewriter = Int8Rewriter(flat, largest, frozenset(per_sample), least_width, fixed, factors)
    for node in flat.graph.node:
        rewriter.add(node)
    return rewriter


class RowBytes(NamedTuple):
    """Names of a tensor's bytes, of what they stand for, and of the scales of its rows; "" where one is fixed."""

    values: str
    scale: str
    zero: str
    rows: str


class Int8Rewriter:
    """Emits nodes in order, with products of bytes in the place of float ones.

    Args:
        flat: From ``inlined``.
        largest: Magnitude of weights.
        per_sample: Tensors whose products stay as they are.
        least_width: Inputs and outputs of the products that are in int8.
        fixed: Scales of activations.
        factors: Of their channels.

    Attributes:
        products: How many are in int8.
        sources: Tensors that became bytes, and how wide they are.
        readers: The weights of their products.
    """

    columns_in = "int8"
    """What weights of products are stored in, which their names in the graph end with."""
    packs = True
    """Whether large weights of what stays in float32 are int8 in the file."""

    def __init__(
        self,
        flat: onnx.ModelProto,
        largest: int,
        per_sample: frozenset[str],
        least_width: int,
        fixed: Mapping[str, ByteScale],
        factors: Mapping[str, Array] = {},
    ) -> None:
        self._flat, self._largest, self._per_sample, self._least_width = flat, largest, per_sample, least_width
        self._fixed, self._factors = fixed, factors
        typed = infer_types(flat)
        self._types, self._ranks = element_types(typed), ranks(typed)
        self._weights = {weight.name: weight for weight in flat.graph.initializer}
        self._arrays: dict[str, Array] = {}
        self._made: dict[str, Array] = {name: np.asarray(value) for name, value in _CONSTANTS.items()}
        self._picked: dict[str, onnx.NodeProto] = {}  # rows picked of a float matrix, by the result
        self._bytes: dict[str, RowBytes] = {}
        self._columns: dict[tuple[str, bool, str], tuple[str, str]] = {}
        self._shares: dict[str, Array] = {}  # what divided channels are multiplied with
        self._unpacked: set[str] = set()
        self._backs: set[str] = set()  # what was dequantised
        self._nodes: list[onnx.NodeProto] = []
        self._uses = Counter(name for node in flat.graph.node for name in node.input)
        self._uses.update(value.name for value in flat.graph.output)
        self._without_bias: dict[str, onnx.NodeProto] = {}  # integer products, by the result
        self.products = 0
        self.sources: dict[str, int] = {}
        self.readers: dict[str, list[Array]] = {}

    def add(self, node: onnx.NodeProto) -> None:
        """Emit one node."""
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            self._arrays[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        if node.op_type == "Gather" and self._add_gather(node):
            return
        if node.op_type in ("Gemm", "MatMul") and self._add_product(node):
            return
        if node.op_type == "Add" and self._add_bias(node):
            return
        if picks_rows(node, self._arrays_of(node)):
            self._picked[node.output[0]] = node
        self._nodes.append(node)

    def finish(self) -> onnx.ModelProto:
        """The whole graph without what nothing reads any more."""
        outputs = {value.name for value in self._flat.graph.output}
        kept, _ = needed_nodes(self._nodes, outputs)
        kept, folded = folded_into_norms(kept, self._shares, outputs, self._array)
        self._made |= folded
        kept, wanted = needed_nodes(kept, outputs)
        made = onnx.ModelProto()
        made.CopyFrom(self._flat)
        for field in (made.graph.node, made.graph.value_info, made.graph.initializer):
            del field[:]
        made.graph.node.extend(kept)
        made.graph.initializer.extend(weight for name, weight in self._weights.items() if name in wanted)
        made.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(array), name) for name, array in self._made.items() if name in wanted
        )
        made.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
        return made

    def _add_gather(self, node: onnx.NodeProto) -> bool:
        """A constant part of stacked weights becomes weights of its own, a large table one of bytes; whether it did."""
        table, index = self._array(node.input[0]), self._array(node.input[1])
        if table is None or integer(node, "axis", 0) != 0:
            return False
        if index is not None and index.ndim == 0:
            self._arrays[node.output[0]] = self._made[node.output[0]] = np.ascontiguousarray(table[int(index)])
            return True
        if not self.packs or index is not None:
            return False
        if table.dtype != np.float32 or table.ndim != 2 or table.size < LEAST_TABLE:
            return False
        name, parts = node.output[0], self._table(node.input[0], table)
        self._emit("Gather", [parts[0], node.input[1]], f"{name}_int8")
        self._emit("Gather", [parts[1], node.input[1]], f"{name}_scale")
        self._emit("Cast", [f"{name}_int8"], f"{name}_steps", to=FLOAT)
        self._emit("Mul", [f"{name}_steps", f"{name}_scale"], name)
        return True

    def _table(self, name: str, table: Array) -> tuple[str, str]:
        """Rows of a table as int8, and a scale for each."""
        parts = f"{name}_int8", f"{name}_scale"
        if parts[0] not in self._made:
            rows = quantize_rows(self._finite(name, table))
            self._made[parts[0]] = (rows.values.astype(np.int16) - ZERO_POINT).astype(np.int8)
            self._made[parts[1]] = rows.scale
        return parts

    def _add_product(self, node: onnx.NodeProto) -> bool:
        """A product with constant weights in integers; whether it is."""
        x, weight = node.input[0], self._array(node.input[1])
        turned = bool(integer(node, "transB", 0))
        if weight is None or weight.ndim != 2 or weight.dtype != np.float32 or min(weight.shape) < self._least_width:
            return False
        scaled = any(number(node, name) != 1.0 for name in ("alpha", "beta")) or integer(node, "transA", 0)
        if scaled or self._types.get(x) != FLOAT or self._array(x) is not None:
            return False
        if x in self._per_sample:
            return self._add_stored(node, weight, turned)
        return self._add_int8(node, weight, turned)

    def _add_int8(self, node: onnx.NodeProto, weight: Array, turned: bool) -> bool:
        """A product of bytes; whether it is one."""
        x = node.input[0]
        name = node.output[0]
        rows = self._bytes_of(x, weight.shape[1] if turned else weight.shape[0])
        root = x
        while root in self._picked:
            root = self._picked[root].input[0]
        self.readers.setdefault(root, []).append(weight.T if turned else weight)
        columns = self._columns_of(node.input[1], weight, turned, root if root in self._factors else "")
        # MatMulInteger, Cast and Mul in one. Not these three with the product of both scales after them: where it knows
        # no shapes ONNX Runtime 1.32 takes that for a pattern with one scale, and gives all rows the first one's.
        factors = [rows.values, columns[0], rows.scale, columns[1], rows.zero]
        added = node.input[2] if len(node.input) > 2 and node.input[2] else ""
        bias = self._array(added) if added and not rows.rows else None
        if bias is not None and bias.ndim == 1:
            factors, added = [*factors, "", added], ""
        ends = [f"{name}_steps"] * bool(rows.rows) + [f"{name}_product"] * bool(added)
        product, *later = [*ends, name]
        self._emit("MatMulIntegerToFloat", factors, product, domain=_MICROSOFT)
        if not later and len(factors) == 5:
            self._without_bias[name] = self._nodes[-1]
        if rows.rows:
            scaled_product, *later = later
            self._emit("Mul", [product, rows.rows], scaled_product)
            product = scaled_product
        if added:
            self._emit("Add", [product, added], later[0])
        self.products += 1
        return True

    def _add_bias(self, node: onnx.NodeProto) -> bool:
        """A product takes the constant row that is added to it alone, which costs nothing there; whether it did."""
        for product, row in (node.input, reversed(node.input)):
            made, bias = self._without_bias.get(product), self._array(row)
            if made is not None and self._uses[product] == 1 and bias is not None and bias.ndim == 1:
                made.input.extend(["", row])
                made.name = made.output[0] = node.output[0]
                return True
        return False

    def _add_stored(self, node: onnx.NodeProto, weight: Array, turned: bool) -> bool:
        """A product in float32 with large weights that are int8 in the file; engines unpack them once."""
        if not self.packs or weight.size < LEAST_TABLE:
            return False
        name = node.input[1]
        values, scale = self._columns_of(name, weight, turned)
        unpacked = f"{values}_unpacked"
        if unpacked not in self._unpacked:
            # Not DequantizeLinear: ONNX Runtime would run it at every call, where it folds these two.
            self._emit("Cast", [values], f"{values}_steps", to=FLOAT)
            self._emit("Mul", [f"{values}_steps", scale], unpacked)
            self._unpacked.add(unpacked)
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[1] = unpacked
        for attribute in copy.attribute:
            if attribute.name == "transB":
                attribute.i = 0
        self._nodes.append(copy)
        return True

    def _bytes_of(self, x: str, depth: int) -> RowBytes:
        """A tensor's bytes; of picked rows those that they were picked from."""
        if x not in self._bytes:
            picked = self._picked.get(x)
            self._bytes[x] = self._quantized(x, depth) if picked is None else self._picked_bytes(x, picked, depth)
        return self._bytes[x]

    def _picked_bytes(self, x: str, picked: onnx.NodeProto, depth: int) -> RowBytes:
        whole = self._bytes_of(picked.input[0], depth)
        parts = whole._replace(values=f"{x}_bytes", rows=whole.rows and f"{x}_scales")
        for part, name in ((whole.values, parts.values), (whole.rows, parts.rows)):
            if part:
                copy = onnx.NodeProto()
                copy.CopyFrom(picked)
                copy.name, copy.input[0], copy.output[0] = name, part, name
                self._nodes.append(copy)
        return parts

    def _quantized(self, x: str, depth: int) -> RowBytes:
        self.sources[x] = depth
        if x in self._fixed:
            scale, zero, divided = f"{x}_scale", f"{x}_zero", x
            self._made[scale], self._made[zero] = (np.asarray(part) for part in self._fixed[x])
            if x in self._factors:
                shares, divided = f"{x}_shares", f"{x}_divided"
                self._made[shares] = self._shares[shares] = (1 / self._factors[x]).astype(np.float32)
                self._emit("Mul", [x, shares], divided)
            self._emit("QuantizeLinear", [divided, scale, zero], f"{x}_bytes")
            return RowBytes(f"{x}_bytes", scale, zero, "")
        scales = f"{x}_scales"
        self._emit("ReduceMax", [x, _AXIS], f"{x}_most", keepdims=1)
        self._emit("ReduceMin", [x, _AXIS], f"{x}_least", keepdims=1)
        self._emit("Neg", [f"{x}_least"], f"{x}_most_below")
        self._emit("Max", [f"{x}_most", f"{x}_most_below"], f"{x}_largest")
        self._emit("Mul", [f"{x}_largest", _STEPS], f"{x}_step")
        self._emit("Max", [f"{x}_step", _LEAST], scales)
        if self._ranks.get(x) == 2:
            self._emit("Reshape", [scales, _AXIS], f"{scales}_flat")
            self._emit("Shape", [f"{scales}_flat"], f"{scales}_number")
            self._emit("Expand", [_ZERO, f"{scales}_number"], f"{x}_zeros")
            self._emit("QuantizeLinear", [x, f"{scales}_flat", f"{x}_zeros"], f"{x}_bytes", axis=0)
        else:
            self._emit("Div", [x, scales], f"{x}_in_steps")
            self._emit("QuantizeLinear", [f"{x}_in_steps", _ONE, _ZERO], f"{x}_bytes")
        return RowBytes(f"{x}_bytes", _ONE, _ZERO, scales)

    def _columns_of(self, name: str, weight: Array, turned: bool, divided: str = "") -> tuple[str, str]:
        """Names of weights as int8, inputs first, and of their scales; for a tensor whose channels were divided."""
        key = name, turned, divided
        if key not in self._columns:
            rows = self._finite(name, weight.T if turned else weight)
            scaled = rows * self._factors[divided][:, None] if divided else rows
            columns = self._stored(scaled)
            end = ("_turned" if turned else "") + (f"_for_{divided}" if divided else "")
            names = f"{name}_{self.columns_in}{end}", f"{name}_scale{end}"
            self._made[names[0]], self._made[names[1]] = np.ascontiguousarray(columns.values), columns.scale
            self._columns[key] = names
        return self._columns[key]

    def _stored(self, weight: Array) -> Quantized:
        """Weights ``[D, E]`` as they are kept, and a scale for each column."""
        return quantize_columns(weight, self._largest)

    def _finite(self, name: str, weight: Array) -> Array:
        if not np.isfinite(weight).all():
            raise ExportError(
                f"got weights {name} with NaN or infinite numbers, expected finite ones for {self.columns_in}; "
                "use --precision fp32"
            )
        return weight

    def _array(self, name: str) -> Array | None:
        """A constant's values."""
        if name not in self._arrays and name in self._weights:
            self._arrays[name] = numpy_helper.to_array(self._weights[name])
        return self._arrays.get(name)

    def _arrays_of(self, node: onnx.NodeProto) -> list[Array | None]:
        return [self._array(name) for name in node.input]

    def _emit(self, op: str, inputs: list[str], output: str, domain: str = "", **attributes: int) -> None:
        node = helper.make_node(op, inputs, [output], name=output, domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self._nodes.append(node)
