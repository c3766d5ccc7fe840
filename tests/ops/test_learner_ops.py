"""The ops in which a token runs the first k of N learners: one test body for every implementation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrt.ops import RECORDS, Case, OpRecord
from adaptrt.ops.record import Array
from tests.ops.implementations import (
    Implementation,
    assert_close,
    run_body_in_onnx_reference,
    run_body_in_onnxruntime,
    run_reference,
)
from tests.ops.optional_kernels import run_kernels

LEARNER_OPS = [RECORDS["ConditionalMLP"], RECORDS["ConditionalLinear"]]
MLP = RECORDS["ConditionalMLP"]
BODIES = [run_body_in_onnxruntime, run_body_in_onnx_reference]

# Bodies have the dtypes that ONNX Runtime has on a CPU, kernels all; one op has kernels.
IMPLEMENTATIONS = [
    *((record, implementation) for record in LEARNER_OPS for implementation in (run_reference, *BODIES)),
    (MLP, run_kernels),
]
DTYPES = [
    *((record, one, dtype) for record, one in IMPLEMENTATIONS for dtype in ("float32", "float16")),
    *((MLP, one, "bfloat16") for one in (run_reference, run_kernels)),
]
FAST = [(record, one) for record, one in IMPLEMENTATIONS if one is not run_body_in_onnx_reference]


def by_hand(inputs: dict[str, Array]) -> tuple[Array, ...]:
    """The op token by token, learner by learner: slow, and written apart from the reference."""
    from scipy.special import erf

    x, k, w1, w2 = (inputs[name].astype(np.float64) for name in ("x", "k", "w1", "w2"))
    y = np.zeros((len(x), w2.shape[2]))
    for t in range(len(x)):
        y[t] = inputs["b2"]
        for n in range(min(max(int(k[t]), 0), len(w1))):
            hidden = x[t] @ w1[n]
            if "b1" in inputs:
                hidden = hidden + inputs["b1"][n]
                hidden = hidden * (1 + erf(hidden / 2**0.5)) / 2
            y[t] += hidden @ w2[n]
    return (y.astype(inputs["x"].dtype),)


def rows(outputs: tuple[Array, ...], chosen: object) -> tuple[Array, ...]:
    return tuple(output[chosen] for output in outputs)


def named(value: object) -> str | None:
    return value.name if isinstance(value, OpRecord) else None


@pytest.mark.parametrize(("record", "implementation", "dtype"), DTYPES, ids=named)
def test_every_case_of_the_record(record: OpRecord, implementation: Implementation, dtype: str) -> None:
    for case in record.cases:
        inputs = record.make_inputs(case, np.random.default_rng(7), dtype)
        assert_close(record, implementation(record, inputs, {}), by_hand(inputs), dtype, case.name)


@pytest.mark.parametrize("record", LEARNER_OPS, ids=lambda record: record.name)
def test_the_comparison_can_fail(record: OpRecord) -> None:
    inputs = record.make_inputs(record.cases[0], np.random.default_rng(0), "float32")
    wrong = {**inputs, "k": inputs["k"].copy()}
    wrong["k"][3] = (wrong["k"][3] + 1) % (len(inputs["w1"]) + 1)
    with pytest.raises(AssertionError):
        assert_close(record, run_body_in_onnxruntime(record, wrong, {}), by_hand(inputs), "float32")


@st.composite
def drawn_cases(draw: st.DrawFn) -> tuple[Case, int]:
    axes = {
        "T": draw(st.integers(0, 70)),
        "N": draw(st.integers(1, 6)),
        "D": draw(st.integers(1, 20)),
        "h": draw(st.integers(1, 20)),
        "E": draw(st.integers(1, 20)),
    }
    return Case("drawn", axes, draw(st.sampled_from(["random", "none", "all", "beyond"]))), draw(
        st.integers(0, 2**32 - 1)
    )


@pytest.mark.parametrize(("record", "implementation"), FAST, ids=named)
@settings(max_examples=40, deadline=None)
@given(drawn=drawn_cases())
def test_equals_the_reference(record: OpRecord, implementation: Implementation, drawn: tuple[Case, int]) -> None:
    case, seed = drawn
    inputs = record.make_inputs(case, np.random.default_rng(seed), "float32")
    assert_close(record, implementation(record, inputs, {}), by_hand(inputs), "float32")


@pytest.mark.parametrize(("record", "implementation"), FAST, ids=named)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(2, 60))
def test_permuting_tokens_permutes_outputs(
    record: OpRecord, implementation: Implementation, seed: int, tokens: int
) -> None:
    generator = np.random.default_rng(seed)
    case = Case("drawn", {"T": tokens, "N": 4, "D": 8, "h": 8, "E": 8})
    inputs = record.make_inputs(case, generator, "float32")
    order = generator.permutation(tokens)
    moved = {**inputs, "x": inputs["x"][order], "k": inputs["k"][order]}
    assert_close(record, implementation(record, moved, {}), rows(implementation(record, inputs, {}), order), "float32")


@pytest.mark.parametrize(("record", "implementation"), FAST, ids=named)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kept=st.integers(0, 30))
def test_a_token_does_not_depend_on_its_batch_mates(
    record: OpRecord, implementation: Implementation, seed: int, kept: int
) -> None:
    generator = np.random.default_rng(seed)
    case = Case("drawn", {"T": 31, "N": 4, "D": 8, "h": 8, "E": 8})
    inputs = record.make_inputs(case, generator, "float32")
    alone = {**inputs, "x": inputs["x"][kept : kept + 1], "k": inputs["k"][kept : kept + 1]}
    others = {**inputs, "x": inputs["x"].copy(), "k": generator.integers(0, 5, 31, dtype=np.int32)}
    others["x"][:kept] = generator.standard_normal((kept, 8))
    others["k"][kept] = inputs["k"][kept]
    wanted = rows(implementation(record, inputs, {}), slice(kept, kept + 1))
    assert_close(record, implementation(record, alone, {}), wanted, "float32")
    assert_close(record, rows(implementation(record, others, {}), slice(kept, kept + 1)), wanted, "float32")


@pytest.mark.parametrize("record", LEARNER_OPS, ids=lambda record: record.name)
def test_wrong_inputs_are_named(record: OpRecord) -> None:
    inputs = record.make_inputs(record.cases[0], np.random.default_rng(0), "float32")
    with pytest.raises(ValueError, match=r"k has dtype int64, expected int32"):
        record.check_inputs(**{**inputs, "k": inputs["k"].astype(np.int64)})
    with pytest.raises(ValueError, match=r"axis T of k is 36, expected 37"):
        record.check_inputs(**{**inputs, "k": inputs["k"][:-1]})
    with pytest.raises(ValueError, match=r"input 'w2' is missing"):
        record.check_inputs(**{name: array for name, array in inputs.items() if name != "w2"})
    with pytest.raises(ValueError, match=r"x has shape \(37, 24, 1\), expected \[T, D\]"):
        record.check_inputs(**{**inputs, "x": inputs["x"][..., None]})


@pytest.mark.parametrize("record", LEARNER_OPS, ids=lambda record: record.name)
def test_a_body_needs_a_learner(record: OpRecord) -> None:
    with pytest.raises(ValueError, match="got 0 learners"):
        record.body(0)
