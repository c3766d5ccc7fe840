"""The ops that select and reduce tokens: one test body for every implementation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrt.ops import RECORDS, Case, OpRecord
from adaptrt.ops.record import Array
from adaptrt.ops.segment_reduce import MODES
from tests.ops.implementations import (
    Implementation,
    assert_close,
    graph_of,
    run_body_in_onnx_reference,
    run_body_in_onnxruntime,
    run_in_onnxruntime,
    run_reference,
)
from tests.ops.optional_kernels import run_kernels

SELECT, REDUCE = RECORDS["SelectTokens"], RECORDS["SegmentReduce"]
TOKEN_OPS = [SELECT, REDUCE]
BODIES = [run_body_in_onnxruntime, run_body_in_onnx_reference]
SELECTIONS = [run_reference, *BODIES, run_kernels]

# Bodies have the dtypes that ONNX Runtime has on a CPU, kernels all; one op has kernels.
DTYPES = [
    *((record, body, dtype) for record in TOKEN_OPS for body in BODIES for dtype in ("float32", "float16")),
    *((SELECT, run_kernels, dtype) for dtype in ("float32", "float16", "bfloat16")),
]


def named(value: object) -> str | None:
    return value.name if isinstance(value, OpRecord) else None


def with_consistent_limits(inputs: dict[str, Array]) -> dict[str, Array]:
    """What the body makes of limits that contradict each other: ``keep_max`` wins."""
    return {**inputs, "keep_min": np.asarray(np.minimum(inputs["keep_min"], inputs["keep_max"]))}


@pytest.mark.parametrize(("record", "implementation", "dtype"), DTYPES, ids=named)
def test_every_case_of_the_record(record: OpRecord, implementation: Implementation, dtype: str) -> None:
    for case in record.cases:
        inputs = record.make_inputs(case, np.random.default_rng(7), dtype)
        if implementation is run_body_in_onnx_reference and 0 in inputs["x"].shape:
            continue  # onnx.reference, a set of numpy one-liners, has no largest of nothing
        got = implementation(record, inputs, case.attributes)
        assert_close(record, got, record.expected(inputs, case.attributes), dtype, case.name)


@pytest.mark.parametrize("implementation", SELECTIONS)
def test_a_selection_worked_out_by_hand(implementation: Implementation) -> None:
    nan, inf = np.nan, np.inf
    x = np.arange(1, 25, dtype=np.float32).reshape(3, 8, 1)
    score = [
        [0.1, 0.9, 0.5, 0.9, 0.2, 0.3, 0.0, 0.8],  # four above 0.4, but at most three
        [0.1, nan, inf, -inf, 0.2, 0.9, 0.9, 0.9],  # three of six valid ones above 2, raised to three
        [0.5, 0.5, 0.5, 0.5, 0.6, 0.5, 0.5, 0.5],  # two above 0.5, strictly, or forced
    ]
    valid = np.ones((3, 8), bool)
    valid[1, 5:7] = False
    forced = np.zeros((3, 8), bool)
    forced[0, 6], forced[1, 3], forced[1, 5], forced[2, 2] = True, True, True, True
    inputs = {
        "x": x,
        "score": np.array(score, np.float32),
        "valid": valid,
        "forced": forced,
        "threshold": np.array([0.4, 2.0, 0.5], np.float32),
        "keep_min": np.array(2, np.int64),
        "keep_max": np.array(3, np.int64),
    }
    y, index, count = implementation(SELECT, inputs, {})
    assert count.tolist() == [3, 2, 2]
    assert index.tolist() == [[1, 3, 6], [2, 3, 0], [2, 4, 0]]
    assert y[..., 0].tolist() == [[2, 4, 7], [11, 12, 0], [19, 21, 0]]


@pytest.mark.parametrize("implementation", SELECTIONS)
def test_nan_comes_after_everything_even_minus_infinity(implementation: Implementation) -> None:
    score = np.array([[np.nan, -np.inf, np.nan, -np.inf, np.float32(-3.4e38), np.nan]], np.float32)
    for keep, wanted in ((1, [4]), (2, [1, 4]), (3, [1, 3, 4]), (4, [0, 1, 3, 4]), (5, [0, 1, 2, 3, 4])):
        inputs = {
            "x": np.zeros((1, 6, 1), np.float32),
            "score": score,
            "valid": np.ones((1, 6), bool),
            "forced": np.zeros((1, 6), bool),
            "threshold": np.array([-np.inf], np.float32),
            "keep_min": np.array(keep, np.int64),
            "keep_max": np.array(keep, np.int64),
        }
        assert implementation(SELECT, inputs, {})[1].tolist() == [wanted]


@pytest.mark.parametrize("implementation", [run_reference, *BODIES])
@pytest.mark.parametrize(
    ("mode", "wanted", "number"),
    [
        ("sum", [[13.0], [0.0], [3.0]], [4.0, 0.0, 0.5]),
        ("mean", [[3.25], [0.0], [6.0]], [4.0, 0.0, 0.5]),
        ("last", [[4.0], [0.0], [6.0]], [2.0, 0.0, 1.0]),
    ],
)
def test_a_reduction_worked_out_by_hand(
    implementation: Implementation, mode: str, wanted: list[list[float]], number: list[float]
) -> None:
    inputs = {
        "x": np.array([[[1], [2], [4], [6], [5]]], np.float32),
        "segment": np.array([[0, -1, 0, 2, 3]], np.int32),
        "weight": np.array([[1, 7, 3, 0.5, 1]], np.float32),
        "segments": np.array(3, np.int64),
    }
    y, n = implementation(REDUCE, inputs, {"mode": mode})
    assert y.tolist() == [wanted] and n.tolist() == [number]


def selection_cases() -> st.SearchStrategy[Case]:
    kinds = ("ties", "odd_scores", "padded", "holes", "many_forced", "all_forced", "nothing_wanted", "odd_x")

    def case(sizes: tuple[int, int, int], drawn: set[str], limits: tuple[int, int]) -> Case:
        names = ("keep_min", "keep_max")
        return Case(
            "drawn",
            dict(zip("BTD", sizes, strict=True)),
            "+".join(sorted(drawn)) or "random",
            dict(zip(names, limits, strict=True)),
        )

    return st.builds(
        case,
        st.tuples(st.integers(0, 5), st.integers(0, 24), st.integers(1, 5)),
        st.sets(st.sampled_from(kinds)),
        st.tuples(st.integers(-2, 26), st.integers(-2, 26)),
    )


seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=400, deadline=None)
@given(case=selection_cases(), seed=seeds)
def test_the_body_selects_what_the_reference_selects(case: Case, seed: int) -> None:
    selects_what_the_reference_selects(run_body_in_onnxruntime, case, seed)


@pytest.mark.slow("runs kernels in Triton's interpreter")
@settings(max_examples=40, deadline=None)
@given(case=selection_cases(), seed=seeds)
def test_the_kernel_selects_what_the_reference_selects(case: Case, seed: int) -> None:
    selects_what_the_reference_selects(run_kernels, case, seed)


def selects_what_the_reference_selects(implementation: Implementation, case: Case, seed: int) -> None:
    inputs = SELECT.make_inputs(case, np.random.default_rng(seed), "float32")
    got = implementation(SELECT, inputs, {})
    assert_close(SELECT, got, run_reference(SELECT, with_consistent_limits(inputs), {}), "float32", case.draw)


@settings(max_examples=100, deadline=None)
@given(case=selection_cases(), seed=seeds)
def test_what_a_selection_promises(case: Case, seed: int) -> None:
    inputs = with_consistent_limits(SELECT.make_inputs(case, np.random.default_rng(seed), "float32"))
    y, index, count = run_body_in_onnxruntime(SELECT, inputs, {})
    valid = inputs["valid"].sum(1)
    assert y.shape[1] == index.shape[1] == count.max(initial=0)
    assert (count <= valid).all() and (count <= max(int(inputs["keep_max"]), 0)).all()
    assert (count >= np.minimum(valid, inputs["keep_min"])).all()
    for b, number in enumerate(count):
        kept = index[b, :number]
        assert (np.diff(kept) > 0).all() and inputs["valid"][b, kept].all()
        np.testing.assert_array_equal(y[b, :number], inputs["x"][b, kept])
        assert not y[b, number:].any() and not index[b, number:].any()
        forced = inputs["forced"][b] & inputs["valid"][b]
        assert forced.sum() > number or forced[kept].sum() == forced.sum()


@pytest.mark.parametrize("keep_min", [5, 2**40])
def test_limits_that_contradict_each_other(keep_min: int) -> None:
    inputs = SELECT.make_inputs(SELECT.cases[0], np.random.default_rng(0), "float32")
    inputs.update(keep_min=np.array(keep_min, np.int64), keep_max=np.array(3, np.int64))
    with pytest.raises(ValueError, match=rf"keep_min is {keep_min}, expected at most keep_max, 3"):
        run_reference(SELECT, inputs, {})
    assert run_body_in_onnxruntime(SELECT, inputs, {})[2].tolist() == [3] * 5


@st.composite
def reduction_cases(draw: st.DrawFn) -> Case:
    axes = {
        "G": draw(st.integers(0, 4)),
        "T": draw(st.integers(0, 30)),
        "d": draw(st.integers(1, 6)),
        "S": draw(st.integers(0, 20)),
    }
    kinds = ["random", "sorted", "dropped", "outside", "weightless", "counts"]
    return Case("drawn", axes, draw(st.sampled_from(kinds)), attributes={"mode": draw(st.sampled_from(MODES))})


@settings(max_examples=200, deadline=None)
@given(case=reduction_cases(), seed=seeds)
def test_the_body_reduces_as_the_reference_does(case: Case, seed: int) -> None:
    inputs = REDUCE.make_inputs(case, np.random.default_rng(seed), "float32")
    got = run_body_in_onnxruntime(REDUCE, inputs, case.attributes)
    assert_close(REDUCE, got, run_reference(REDUCE, inputs, case.attributes), "float32")


@pytest.mark.parametrize("mode", MODES)
def test_tiny_and_cancelling_weights(mode: str) -> None:
    inputs = {
        "x": np.array([[[1.0], [3.0], [5.0], [7.0]]], np.float32),
        "segment": np.array([[0, 0, 1, 1]], np.int32),
        "weight": np.array([[1e-30, 1e-30, 0.5, -0.5]], np.float32),
        "segments": np.array(2, np.int64),
    }
    got = run_body_in_onnxruntime(REDUCE, inputs, {"mode": mode})
    assert_close(REDUCE, got, run_reference(REDUCE, inputs, {"mode": mode}), "float32")


def alone(inputs: dict[str, Array], row: int) -> dict[str, Array]:
    return {name: array[row : row + 1] if array.ndim else array for name, array in inputs.items()}


@pytest.mark.parametrize("implementation", [run_reference, run_body_in_onnxruntime])
@settings(max_examples=40, deadline=None)
@given(case=selection_cases().filter(lambda case: case.axes["B"] > 0), seed=seeds)
def test_a_selection_does_not_depend_on_batch_mates(implementation: Implementation, case: Case, seed: int) -> None:
    depends_on_no_batch_mates(implementation, case, seed)


@pytest.mark.slow("runs kernels in Triton's interpreter")
@settings(max_examples=8, deadline=None)
@given(case=selection_cases().filter(lambda case: case.axes["B"] > 1), seed=seeds)
def test_a_selection_by_the_kernel_does_not_depend_on_batch_mates(case: Case, seed: int) -> None:
    depends_on_no_batch_mates(run_kernels, case, seed)


def depends_on_no_batch_mates(implementation: Implementation, case: Case, seed: int) -> None:
    inputs = with_consistent_limits(SELECT.make_inputs(case, np.random.default_rng(seed), "float32"))
    together = implementation(SELECT, inputs, {})
    for row in range(case.axes["B"]):
        single = implementation(SELECT, alone(inputs, row), {})
        number = int(together[2][row])
        mine = (together[0][row : row + 1, :number], together[1][row : row + 1, :number], together[2][row : row + 1])
        assert_close(SELECT, single, mine, "float32")


@pytest.mark.parametrize("implementation", [run_reference, run_body_in_onnxruntime])
@pytest.mark.parametrize("mode", MODES)
def test_a_reduction_does_not_depend_on_other_groups(implementation: Implementation, mode: str) -> None:
    inputs = REDUCE.make_inputs(REDUCE.cases[0], np.random.default_rng(3), "float32")
    inputs["x"][2] = np.nan
    inputs["weight"][2] = np.inf
    together = implementation(REDUCE, inputs, {"mode": mode})
    for row in (0, 1, 3):
        single = implementation(REDUCE, alone(inputs, row), {"mode": mode})
        assert_close(REDUCE, single, tuple(output[row : row + 1] for output in together), "float32")


def broken(record: OpRecord, attributes: Mapping[str, Any], old: str, new: str) -> onnx.FunctionProto:
    """The op's body with one operator exchanged for another."""
    body = record.body(**attributes)
    node = next(node for node in body.node if node.op_type == old)
    node.op_type = new
    return body


@pytest.mark.parametrize(
    ("record", "case_name", "old", "new"),
    [
        (SELECT, "at_most", "Greater", "GreaterOrEqual"),  # the threshold is strict
        (SELECT, "at_most", "Min", "Max"),
        (SELECT, "exactly", "LessOrEqual", "Less"),
        (REDUCE, "weights_of_zero_mean", "Div", "Mul"),
        (REDUCE, "sorted_last", "ReduceMax", "ReduceMin"),
    ],
)
def test_the_comparison_can_fail(record: OpRecord, case_name: str, old: str, new: str) -> None:
    case = next(case for case in record.cases if case.name == case_name)
    inputs = record.make_inputs(case, np.random.default_rng(7), "float32")
    model = graph_of(record, inputs, case.attributes, broken(record, case.attributes, old, new))
    with pytest.raises(AssertionError):
        assert_close(record, run_in_onnxruntime(model, inputs), record.expected(inputs, case.attributes), "float32")


@pytest.mark.parametrize("record", TOKEN_OPS, ids=lambda record: record.name)
@pytest.mark.parametrize("output", [0, 1])
def test_the_comparison_looks_at_every_output(record: OpRecord, output: int) -> None:
    case = record.cases[0]
    wanted = record.expected(record.make_inputs(case, np.random.default_rng(7), "float32"), case.attributes)
    got = list(wanted)
    got[output] = wanted[output] + wanted[output].dtype.type(1)
    with pytest.raises(AssertionError, match=record.outputs[output].name):
        assert_close(record, tuple(got), wanted, "float32")


@pytest.mark.parametrize("record", TOKEN_OPS, ids=lambda record: record.name)
def test_bodies_use_nothing_that_an_engine_lacks(record: OpRecord) -> None:
    for case in record.cases:
        body = record.body(**{**record.attributes, **case.attributes})
        refused = {"NonZero", "Compress", "Unique", "If", "Loop", "Scan", "ScatterND"}
        assert not refused & {node.op_type for node in body.node}
        constants = [onnx.helper.get_attribute_value(node.attribute[0]) for node in body.node if node.attribute]
        values = [onnx.numpy_helper.to_array(value) for value in constants if isinstance(value, onnx.TensorProto)]
        assert values and all(np.isfinite(value).all() and (value >= 0).all() for value in values)


@pytest.mark.parametrize("case_name", ["no_limit_applies", "no_sample", "no_token", "exactly"])
def test_topk_is_never_given_nothing(case_name: str) -> None:
    # ONNX Runtime 1.23, the last one for JetPack 6, crashes on a TopK over no rows.
    case = next(case for case in SELECT.cases if case.name == case_name)
    inputs = SELECT.make_inputs(case, np.random.default_rng(7), "float32")
    model = onnx.inliner.inline_local_functions(graph_of(SELECT, inputs))
    (topk,) = [node for node in model.graph.node if node.op_type == "TopK"]
    keys = onnx.helper.make_tensor_value_info(topk.input[0], onnx.TensorProto.FLOAT, ["rows", "tokens"])
    model.graph.output.append(keys)
    assert run_in_onnxruntime(model, inputs)[-1].shape[0] >= 1


def test_modes_and_numbers_of_segments_are_checked() -> None:
    inputs = REDUCE.make_inputs(REDUCE.cases[0], np.random.default_rng(0), "float32")
    with pytest.raises(ValueError, match="got mode 'first', expected one of sum, mean, last"):
        run_reference(REDUCE, inputs, {"mode": "first"})
    with pytest.raises(ValueError, match="got mode 'first'"):
        REDUCE.body(mode="first")
    with pytest.raises(ValueError, match="got -1 segments"):
        run_reference(REDUCE, {**inputs, "segments": np.array(-1, np.int64)}, {})


@pytest.mark.parametrize("record", TOKEN_OPS, ids=lambda record: record.name)
def test_wrong_inputs_are_named(record: OpRecord) -> None:
    inputs = record.make_inputs(record.cases[0], np.random.default_rng(0), "float32")
    second = record.inputs[1].name
    with pytest.raises(ValueError, match=rf"{second} has dtype float64"):
        run_reference(record, {**inputs, second: inputs[second].astype(np.float64)}, {})
    with pytest.raises(ValueError, match=rf"axis T of {second} is 22, expected 23"):
        run_reference(record, {**inputs, second: inputs[second][:, 1:]}, {})
