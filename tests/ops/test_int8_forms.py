"""The int8 forms of ops: bodies beside the numpy reference, and what a form is made of."""

from __future__ import annotations

import numpy as np
import pytest

from adaptrt.ops import CONDITIONAL_MLP, INT8_RECORDS, RECORDS, OpRecord
from adaptrt.ops.int8_forms import W8A8, has_forms, int8_record, quantized_weights
from adaptrt.ops.record import Array
from tests.ops.implementations import graph_of, run_in_onnxruntime

FORMS = pytest.mark.parametrize("record", INT8_RECORDS.values(), ids=lambda record: record.name)
CASES = ("random", "no_token", "one_learner", "k_outside_its_range")


def drawn(record: OpRecord, case: str = "random") -> dict[str, Array]:
    chosen = next(each for each in record.cases if each.name == case)
    return record.make_inputs(chosen, np.random.default_rng(1), "float16")


def agree(got: Array, wanted: Array) -> None:
    """A number near a tie may become either byte, and a sum is rounded once more: half a step of most sums."""
    assert got.dtype == wanted.dtype == np.float16
    np.testing.assert_allclose(got.astype(np.float64), wanted.astype(np.float64), rtol=2e-3, atol=4e-3)


@FORMS
@pytest.mark.parametrize("case", CASES)
def test_the_body_computes_the_reference(record: OpRecord, case: str) -> None:
    inputs = drawn(record, case)
    assert list(inputs) == [field.name for field in record.inputs]
    agree(run_in_onnxruntime(graph_of(record, inputs), inputs)[0], record.expected(inputs)[0])


@FORMS
def test_the_comparison_sees_every_wrong_scale(record: OpRecord) -> None:
    inputs = drawn(record)
    graph, (wanted,) = graph_of(record, inputs), record.expected(inputs)
    scales = [name for name in inputs if name.endswith("_scale")]
    assert len(scales) == sum(len(field.axes) == 3 for field in record.inputs) + 2 * record.name.endswith("W8A8")
    for name in scales:
        (got,) = run_in_onnxruntime(graph, {**inputs, name: np.asarray(inputs[name] * np.float32(1.5))})
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            agree(got, wanted)


@FORMS
def test_forms_are_near_the_op_itself(record: OpRecord) -> None:
    base = RECORDS[record.name.removesuffix("W8A8").removesuffix("W8A16")]
    case = next(each for each in base.cases if each.name == "random")
    exact = base.expected(base.make_inputs(case, np.random.default_rng(1), "float32"))[0]
    got = record.expected(drawn(record))[0].astype(np.float64)
    # Gated hidden layers reach beyond the scale that is drawn for all cases, and are cut there.
    assert 1e-4 < np.abs(got - exact).mean() < 0.1 * np.abs(exact).mean()


def test_a_token_is_independent_of_its_batch_mates() -> None:
    record = INT8_RECORDS["ConditionalSwiGLUW8A8"]
    inputs = drawn(record)
    graph = graph_of(record, inputs)
    (whole,) = run_in_onnxruntime(graph, inputs)
    (alone,) = run_in_onnxruntime(graph, {**inputs, "x": inputs["x"][5:6], "k": inputs["k"][5:6]})
    np.testing.assert_allclose(alone[0].astype(np.float64), whole[5].astype(np.float64), rtol=0, atol=1e-3)


def test_ops_without_int8_kernels_have_no_forms() -> None:
    assert {name.removesuffix("W8A8") for name in INT8_RECORDS if name.endswith("W8A8")} == {
        name for name, record in RECORDS.items() if has_forms(record)
    }
    with pytest.raises(ValueError, match="got SelectTokens, expected an op whose kernels take int8 weights"):
        int8_record(RECORDS["SelectTokens"], W8A8)


def test_wrong_inputs_are_named() -> None:
    record = int8_record(CONDITIONAL_MLP, W8A8)
    inputs = drawn(record)
    with pytest.raises(ValueError, match="w1 has dtype float32, expected int8"):
        record.reference(**{**inputs, "w1": inputs["w1"].astype(np.float32)})
    with pytest.raises(ValueError, match="axis N of hidden_scale is 3, expected 4"):
        record.reference(**{**inputs, "hidden_scale": inputs["hidden_scale"][:-1]})
    with pytest.raises(ValueError, match="NaN or infinite numbers"):
        quantized_weights(np.full((1, 2, 2), np.nan, np.float32))
