"""Ops as their parts: nodes as the records and the Python plugins have them, which compute what the ops compute."""

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.bodies import attach_bodies
from adaptrt.export.targets.parts import OPS_IN_PARTS, with_parts
from adaptrt.export.targets.tensor_types import FLOAT16, element_types
from adaptrt.ops import ACTIVATIONS, CONDITIONAL_GLUS, DOMAIN, RECORDS, Case, OpRecord, Part
from adaptrt.ops.record import Array
from adaptrt.plugins_trt.kernel_records import INPUT, KERNEL_RECORDS, OUTPUT
from adaptrt.plugins_trt.python_plugins import OPS
from tests.ops.implementations import graph_of, run_in_onnxruntime

APART = [RECORDS[name] for name in OPS_IN_PARTS]

# The parts as bodies, straight from their definition; what may be left unwritten is NaN.
ORDER = """<domain: "adaptrt", opset_import: ["" : 20]> ConditionalMLPOrder <learners> (k) => (order, running) {
  all = Constant <value_int: int = @learners> ()
  zero = Constant <value = int64 {0}> ()
  one = Constant <value = int64 {1}> ()
  axis1 = Constant <value = int64[1] {1}> ()
  k64 = Cast <to = 7> (k)
  k_least = Max (k64, zero)
  k_in = Min (k_least, all)
  size = Shape (k)
  tokens = Squeeze (size)
  place = Range (zero, tokens, one)
  first = Mul (k_in, tokens)
  key = Sub (first, place)
  sorted, order64 = TopK (key, size)
  order = Cast <to = 6> (order64)
  n = Range (zero, all, one)
  n_column = Unsqueeze (n, axis1)
  runs = Greater (k_in, n_column)
  runs_1 = Cast <to = 6> (runs)
  running = ReduceSum <keepdims = 0> (runs_1, axis1)
}"""
RUNS = """
  zero = Constant <value = int32 {0}> ()
  one = Constant <value = int32 {1}> ()
  axis1 = Constant <value = int64[1] {1}> ()
  axis2 = Constant <value = int64[1] {2}> ()
  size = Shape (order)
  size32 = Cast <to = 6> (size)
  tokens = Squeeze (size32)
  place = Range (zero, tokens, one)
  running_column = Unsqueeze (running, axis1)
  runs = Less (place, running_column)
  runs_each = Unsqueeze (runs, axis2)
"""
DOWN = f"""<domain: "adaptrt", opset_import: ["" : 20]>
ConditionalMLPDown (hidden, order, running, w2, b2) => (y) {{{RUNS}
  nothing = Constant <value_float = 0.0> ()
  first = Constant <value = int64[1] {{0}}> ()
  learners = Shape <start = 0, end = 1> (w2)
  width = Shape <start = 1, end = 2> (w2)
  shape = Concat <axis = 0> (size, learners, width)
  by_row = Reshape (hidden, shape)
  by_learner = Transpose <perm = [1, 0, 2]> (by_row)
  read = Where (runs_each, by_learner, nothing)
  product = MatMul (read, w2)
  sum = ReduceSum <keepdims = 0> (product, first)
  sorted = Add (sum, b2)
  inverse = ScatterElements <axis = 0> (place, order, place)
  y = Gather <axis = 0> (sorted, inverse)
}}"""


def up_body(part: Part) -> str:
    """The body of the part between Order and Down: one matrix, or a gate and what it gates."""
    activation = ACTIVATIONS[part.constants["ACTIVATION"]]
    matrices = [field.name for field in part.inputs if len(field.axes) == 3]
    biases = [field.name for field in part.inputs if field.axes == ("N", "h")]
    lines = []
    for matrix, bias in zip(matrices, biases, strict=True):
        lines += [
            f"product_{matrix} = MatMul (rows, {matrix})",
            f"column_{bias} = Unsqueeze ({bias}, axis1)",
            f"sum_{matrix} = Add (product_{matrix}, column_{bias})",
        ]
    lines.append(activation.body.format(z="sum_w1", y="active", n=""))
    lines.append("hidden_each = Mul (active, sum_v1)" if "v1" in matrices else "hidden_each = Identity (active)")
    inner = "\n  ".join(lines)
    return f"""<domain: "adaptrt", opset_import: ["" : 20]>
{part.name} ({", ".join(field.name for field in part.inputs)}) => (hidden) {{{RUNS}{activation.constants}
  zero_float = Constant <value_float = 0.0> ()
  unwritten = Div (zero_float, zero_float)
  rows = Gather <axis = 0> (x, order)
  {inner}
  written = Where (runs_each, hidden_each, unwritten)
  by_row = Transpose <perm = [1, 0, 2]> (written)
  hidden = Flatten <axis = 1> (by_row)
}}"""


def with_weights(record: OpRecord, inputs: dict[str, Array]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The op with its weights as initializers, and the inputs that are left."""
    model = graph_of(record, inputs)
    weights = {field.name for field in record.inputs if "T" not in field.axes}
    model.graph.initializer.extend(numpy_helper.from_array(inputs[name], name) for name in sorted(weights))
    kept = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model, {name: array for name, array in inputs.items() if name not in weights}


def first_case(record: OpRecord) -> dict[str, Array]:
    return record.make_inputs(record.cases[0], np.random.default_rng(1), "float32")


def own_attributes(node: onnx.NodeProto) -> Mapping[str, object]:
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    assert (given.pop("plugin_namespace"), given.pop("plugin_version")) == (b"adaptrt", b"1")
    return given


def test_ops_that_come_apart() -> None:
    """All that have kernels, but for SelectTokens, whose kernel pads what it gives."""
    assert set(OPS_IN_PARTS) == {name for name, record in RECORDS.items() if record.parts} - {"SelectTokens"}
    assert {"ConditionalMLP", "ConditionalMLPSilu", "ConditionalSwiGLU"} <= set(OPS_IN_PARTS)


@pytest.mark.parametrize("record", APART, ids=lambda record: record.name)
@pytest.mark.parametrize("case", APART[0].cases, ids=lambda case: case.name)
def test_parts_compute_the_op(record: OpRecord, case: Case) -> None:
    inputs = record.make_inputs(case, np.random.default_rng(1), "float32")
    model, left = with_weights(record, inputs)
    apart = with_parts(model)
    assert [node.op_type for node in apart.graph.node] == [part.name for part in record.parts]
    assert not apart.functions
    order, up, down = record.parts
    assert (order.name, down.name) == ("ConditionalMLPOrder", "ConditionalMLPDown")
    apart.functions.extend(parser.parse_function(text) for text in (ORDER, up_body(up), DOWN))
    (got,) = run_in_onnxruntime(apart, left)
    (want,) = record.expected(inputs)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("record", APART, ids=lambda record: record.name)
def test_nodes_are_what_the_python_plugins_take(record: OpRecord) -> None:
    """Names, inputs and outputs in order, attributes: as the plugin of each part is registered."""
    apart = with_parts(with_weights(record, first_case(record))[0])
    place = {"y": "y"} | {name: f"y_{name}" for name in ("order", "running", "hidden")}
    for node in apart.graph.node:
        assert node.op_type in OPS and node.domain == DOMAIN and node.name == f"y_{node.op_type}"
        plugin = KERNEL_RECORDS[node.op_type]
        for kind, names in ((INPUT, node.input), (OUTPUT, node.output)):
            arguments = [one.name for one in plugin.arguments_of() if one.kind == kind]
            assert list(names) == [place.get(name, name) for name in arguments]
        assert list(own_attributes(node)) == [attribute.name for attribute in plugin.part.attributes]
    sizes = record.cases[0].axes
    assert own_attributes(apart.graph.node[0]) == {"learners": sizes["N"]}
    shapes = {
        value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in apart.graph.value_info
    }
    assert shapes == {
        "y_order": ["y_T"],
        "y_running": [sizes["N"]],
        "y_hidden": ["y_T", sizes["N"] * sizes["h"]],
    }


@pytest.mark.parametrize("record", [RECORDS["ConditionalMLP"], CONDITIONAL_GLUS[-1]], ids=lambda record: record.name)
def test_parts_of_half_precision(record: OpRecord) -> None:
    inputs = record.make_inputs(record.cases[0], np.random.default_rng(1), "float16")
    types = element_types(with_parts(with_weights(record, inputs)[0]))
    (hidden,) = [name for name in types if name.endswith("_hidden")]
    assert types[hidden] == FLOAT16
    assert {types[name] for name in types if name.endswith(("_order", "_running"))} == {onnx.TensorProto.INT32}


def test_several_ops_in_one_graph_and_others_inlined() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20, "adaptrt" : 1]>
    g (float[t, 4] x, int32[t] k) => (float[t, 4] y) {
      gated = adaptrt.ConditionalSwiGLU (x, k, w1, b1, v1, c1, w2, b2)
      linear = adaptrt.ConditionalLinear (gated, k, w1, w2, b2)
      y = adaptrt.ConditionalMLPRelu (linear, k, w1, b1, w2, b2)
    }"""
    shapes = {"w1": (3, 4, 2), "b1": (3, 2), "v1": (3, 4, 2), "c1": (3, 2), "w2": (3, 2, 4), "b2": (4,)}
    generator = np.random.default_rng(2)
    weights = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    attach_bodies(model)
    feeds = {"x": generator.standard_normal((7, 4)).astype(np.float32), "k": np.arange(7, dtype=np.int32)}
    apart = with_parts(model)
    parts = [part.name for name in ("ConditionalSwiGLU", "ConditionalMLPRelu") for part in RECORDS[name].parts]
    assert [node.op_type for node in apart.graph.node if node.domain == DOMAIN] == parts
    between = [value.name for value in apart.graph.value_info if value.name.endswith("_hidden")]
    assert between == ["gated_hidden", "y_hidden"]
    ups = [RECORDS[name].parts[1] for name in ("ConditionalSwiGLU", "ConditionalMLPRelu")]
    apart.functions.extend(parser.parse_function(text) for text in (ORDER, *map(up_body, ups), DOWN))
    np.testing.assert_allclose(
        run_in_onnxruntime(apart, feeds)[0], run_in_onnxruntime(model, feeds)[0], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["ConditionalMLP", "ConditionalSwiGLU"])
def test_computed_weights_are_refused(name: str) -> None:
    with pytest.raises(ExportError, match=f"got {name} whose weights are computed, expected an initializer"):
        with_parts(graph_of(RECORDS[name], first_case(RECORDS[name])))
