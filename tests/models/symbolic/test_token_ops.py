"""The torch forms of the ops that select and reduce tokens, against their references."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrt.models.symbolic.segment_reduce import segment_reduce
from adaptrt.models.symbolic.select_tokens import select_tokens
from adaptrt.ops import RECORDS, OpRecord
from adaptrt.ops.record import Array
from adaptrt.ops.segment_reduce import MODES
from tests.ops.implementations import assert_close
from tests.ops.test_token_ops import reduction_cases, seeds, selection_cases, with_consistent_limits

SELECT, REDUCE = RECORDS["SelectTokens"], RECORDS["SegmentReduce"]


def run_in_torch(record: OpRecord, inputs: dict[str, Array], attributes: Mapping[str, Any]) -> tuple[Array, ...]:
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    if record is SELECT:
        found = select_tokens(**tensors, **attributes)
        return found.y.numpy(), found.index.numpy(), found.count.numpy()
    y, n = segment_reduce(**tensors, **attributes)
    return y.numpy(), n.numpy()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("record", [SELECT, REDUCE], ids=lambda record: record.name)
def test_every_case_of_the_record(record: OpRecord, dtype: str) -> None:
    for case in record.cases:
        inputs = record.make_inputs(case, np.random.default_rng(7), dtype)
        wanted = record.expected(inputs, case.attributes)
        assert_close(record, run_in_torch(record, inputs, case.attributes), wanted, dtype, case.name)


@settings(max_examples=200, deadline=None)
@given(case=selection_cases(), seed=seeds)
def test_torch_selects_what_the_reference_selects(case: Any, seed: int) -> None:
    inputs = SELECT.make_inputs(case, np.random.default_rng(seed), "float32")
    wanted = SELECT.expected(with_consistent_limits(inputs))
    assert_close(SELECT, run_in_torch(SELECT, inputs, {}), wanted, "float32", case.draw)


@settings(max_examples=100, deadline=None)
@given(case=reduction_cases(), seed=seeds)
def test_torch_reduces_as_the_reference_does(case: Any, seed: int) -> None:
    inputs = REDUCE.make_inputs(case, np.random.default_rng(seed), "float32")
    wanted = REDUCE.expected(inputs, case.attributes)
    assert_close(REDUCE, run_in_torch(REDUCE, inputs, case.attributes), wanted, "float32")


@pytest.mark.parametrize("record", [SELECT, REDUCE], ids=lambda record: record.name)
def test_the_comparison_can_fail(record: OpRecord) -> None:
    inputs = record.make_inputs(record.cases[0], np.random.default_rng(7), "float32")
    attributes = record.cases[0].attributes
    wanted = record.expected(inputs, attributes)
    changed = {**inputs, "x": inputs["x"] + np.float32(1)}
    with pytest.raises(AssertionError):
        assert_close(record, run_in_torch(record, changed, attributes), wanted, "float32")


def test_limits_as_numbers_and_knobs() -> None:
    inputs = {
        name: torch.from_numpy(array)
        for name, array in SELECT.make_inputs(SELECT.cases[0], np.random.default_rng(1), "float32").items()
    }
    by_number = select_tokens(**{**inputs, "keep_min": 4, "keep_max": 4})
    by_knob = select_tokens(**{**inputs, "keep_min": torch.tensor([4], dtype=torch.int32), "keep_max": 4})
    assert by_number.count.tolist() == by_knob.count.tolist() == [4] * 5
    assert torch.equal(by_number.y, by_knob.y)


def test_without_weights_every_token_counts_once() -> None:
    x, segment = torch.arange(8.0).reshape(1, 4, 2), torch.tensor([[1, 1, -1, 1]], dtype=torch.int32)
    y, n = segment_reduce(x, segment, None, 2, "mean")
    assert n.tolist() == [[0, 3]]
    torch.testing.assert_close(y, torch.tensor([[[0.0, 0.0], [8 / 3, 11 / 3]]]))


def test_gradients_reach_kept_tokens_only() -> None:
    x = torch.randn(2, 5, 3, requires_grad=True)
    score = torch.tensor([[0.9, 0.1, 0.8, 0.2, 0.7], [0.1, 0.9, 0.1, 0.1, 0.1]])
    no = torch.zeros(2, 5, dtype=torch.bool)
    found = select_tokens(x, score, ~no, no, torch.full((2,), 0.5), 0, 5)
    found.y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (score > 0.5).float()[:, :, None].expand(-1, -1, 3))


@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_a_reduction(mode: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 3, generator=generator, requires_grad=True)
    segment = torch.tensor([[0, 0, 3, -1, 1, 1], [2, 2, 2, 2, 2, -1]], dtype=torch.int32)
    weight = torch.rand(2, 6, generator=generator) + 0.1
    weight.requires_grad_()
    given_weight = None if mode == "last" else weight
    y, _ = segment_reduce(x, segment, given_weight, 4, mode)
    y.square().sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
    dropped = segment < 0
    assert not x.grad[dropped].any() and x.grad[:, 1].any()
    if mode != "last":
        assert weight.grad is not None and torch.isfinite(weight.grad).all() and not weight.grad[dropped].any()


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="got mode 'median', expected one of sum, mean, last"):
        segment_reduce(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.int32), None, 1, "median")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_threshold_in_half_precision_is_compared_in_single(seed: int) -> None:
    case = next(case for case in SELECT.cases if case.name == "no_limit_applies")
    inputs = SELECT.make_inputs(case, np.random.default_rng(seed), "float16")
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    half = {**tensors, "score": tensors["score"].half(), "threshold": tensors["threshold"].half()}
    single = {**half, "score": half["score"].float(), "threshold": half["threshold"].float()}
    assert torch.equal(select_tokens(**half).index, select_tokens(**single).index)
