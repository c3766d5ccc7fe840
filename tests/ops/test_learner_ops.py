"""The ops in which a token runs the first k of N learners: one test body for every implementation."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrt.ops import ACTIVATIONS, RECORDS, Case, OpRecord
from adaptrt.ops.record import Array
from tests.ops.implementations import (
    Implementation,
    assert_close,
    run_body_in_onnx_reference,
    run_body_in_onnxruntime,
    run_reference,
)
from tests.ops.optional_kernels import run_kernels

special = pytest.importorskip("scipy.special", reason="scipy is not installed: install adaptrt[dev]")

BODIES = [run_body_in_onnxruntime, run_body_in_onnx_reference]

# Written apart from the table of activations, with SciPy's functions.
BY_HAND: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda z: z * special.ndtr(z),
    "gelu_tanh": lambda z: z / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (z + 0.044715 * z**3))),
    "quick_gelu": lambda z: z * special.expit(1.702 * z),
    "relu": lambda z: np.where(z > 0, z, 0),
    "silu": lambda z: z * special.expit(z),
}


def learner_ops(records: Mapping[str, OpRecord]) -> list[OpRecord]:
    """The ops in which a token runs the first k learners: all that take ``k``."""
    return [record for record in records.values() if any(field.name == "k" for field in record.inputs)]


def implementations(records: Mapping[str, OpRecord]) -> list[tuple[OpRecord, Implementation]]:
    """Every implementation of these ops that runs here: kernels where the op's record has parts."""
    return [
        (record, implementation)
        for record in learner_ops(records)
        for implementation in (run_reference, *BODIES, *([run_kernels] if record.parts else []))
    ]


def with_dtypes(records: Mapping[str, OpRecord]) -> list[tuple[OpRecord, Implementation, str]]:
    """The same with the record's dtypes; ONNX Runtime has bodies in bfloat16 on no CPU."""
    return [
        (record, implementation, dtype)
        for record, implementation in implementations(records)
        for dtype in record.tolerances
        if dtype != "bfloat16" or implementation not in BODIES
    ]


def is_first_of_its_kernels(record: OpRecord) -> bool:
    """Whether no op before it has the same kernel files. Those that follow differ in a constant."""
    files = [part.kernel for part in record.parts]
    return next(one for one in RECORDS.values() if [part.kernel for part in one.parts] == files) is record


LEARNER_OPS = learner_ops(RECORDS)
# Triton's interpreter takes seconds for what needs many runs: of ops that differ in their kernels' constant, one.
FAST = [
    (record, one)
    for record, one in implementations(RECORDS)
    if one is not run_body_in_onnx_reference and (one is not run_kernels or is_first_of_its_kernels(record))
]


def activation_of(record: OpRecord) -> str | None:
    """Name of the activation of an op with kernels."""
    return next((part.constants["ACTIVATION"] for part in record.parts if part.constants), None)


def by_hand(record: OpRecord, inputs: dict[str, Array]) -> tuple[Array, ...]:
    """The op token by token, learner by learner: slow, and written apart from the reference."""
    activation = activation_of(record)
    wide = {name: array.astype(np.float64) for name, array in inputs.items()}
    x, w1, w2 = wide["x"], wide["w1"], wide["w2"]
    y = np.zeros((len(x), w2.shape[2]))
    for t in range(len(x)):
        y[t] = wide["b2"]
        for n in range(min(max(int(inputs["k"][t]), 0), len(w1))):
            hidden = x[t] @ w1[n]
            if activation is not None:
                hidden = BY_HAND[activation](hidden + wide["b1"][n])
            if "v1" in wide:
                hidden = hidden * (x[t] @ wide["v1"][n] + wide["c1"][n])
            y[t] += hidden @ w2[n]
    return (y.astype(inputs["x"].dtype),)


def rows(outputs: tuple[Array, ...], chosen: object) -> tuple[Array, ...]:
    return tuple(output[chosen] for output in outputs)


def named(value: object) -> str | None:
    return value.name if isinstance(value, OpRecord) else None


@pytest.mark.parametrize(("record", "implementation", "dtype"), with_dtypes(RECORDS), ids=named)
def test_every_case_of_the_record(record: OpRecord, implementation: Implementation, dtype: str) -> None:
    for case in record.cases:
        if implementation is run_kernels and case.axes["T"] > 1000 and not is_first_of_its_kernels(record):
            continue
        inputs = record.make_inputs(case, np.random.default_rng(7), dtype)
        assert_close(record, implementation(record, inputs, {}), by_hand(record, inputs), dtype, case.name)


def test_every_activation_has_ops_and_a_form_by_hand() -> None:
    rows = ACTIVATIONS.values()
    assert set(BY_HAND) == set(ACTIVATIONS)
    of_ops = {record.name: activation_of(record) for record in LEARNER_OPS}
    wanted = {row.mlp: row.name for row in rows} | {row.glu: row.name for row in rows if row.glu}
    assert of_ops == {**wanted, "ConditionalLinear": None}


@pytest.mark.parametrize("record", [record for record in LEARNER_OPS if record.parts], ids=lambda record: record.name)
def test_the_comparison_tells_activations_apart(record: OpRecord) -> None:
    inputs = record.make_inputs(record.cases[0], np.random.default_rng(0), "float32")
    got = run_body_in_onnxruntime(record, inputs, {})
    for other in LEARNER_OPS:
        if other.parts and other is not record and other.inputs == record.inputs:
            with pytest.raises(AssertionError):
                assert_close(record, got, by_hand(other, inputs), "float32")


@pytest.mark.parametrize(("record", "implementation"), implementations(RECORDS), ids=named)
def test_a_token_that_runs_nothing_gets_the_bias_alone(record: OpRecord, implementation: Implementation) -> None:
    inputs = record.make_inputs(record.cases[0], np.random.default_rng(0), "float32")
    inputs["k"] = np.where(np.arange(len(inputs["k"])) % 2, -1, 9).astype(np.int32)
    (y,) = implementation(record, inputs, {})
    np.testing.assert_array_equal(y[1::2], np.broadcast_to(inputs["b2"], y[1::2].shape))
    assert (y[::2] != inputs["b2"]).all(axis=1).any()


@pytest.mark.parametrize("record", LEARNER_OPS, ids=lambda record: record.name)
def test_the_comparison_can_fail(record: OpRecord) -> None:
    inputs = record.make_inputs(record.cases[0], np.random.default_rng(0), "float32")
    wrong = {**inputs, "k": inputs["k"].copy()}
    wrong["k"][3] = (wrong["k"][3] + 1) % (len(inputs["w1"]) + 1)
    with pytest.raises(AssertionError):
        assert_close(record, run_body_in_onnxruntime(record, wrong, {}), by_hand(record, inputs), "float32")


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
    assert_close(record, implementation(record, inputs, {}), by_hand(record, inputs), "float32")


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
