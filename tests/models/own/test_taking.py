"""take and back: rows by score, in order, each sample its own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from adaptrt.models import take
from adaptrt.models.own.taking import taking_margin
from adaptrt.models.symbolic.call_record import CallRecord, calls_recorded

X = torch.arange(2 * 5 * 3, dtype=torch.float32).reshape(2, 5, 3)
SCORE = torch.tensor([[0.1, 0.9, 0.5, 0.7, 0.3], [0.2, 0.2, 0.8, 0.1, 0.6]])


def rows_of(**options: Any) -> list[list[int]]:
    taken = take(X, SCORE, **options)
    assert taken.rows.shape[:2] == taken.index.shape == taken.valid.shape
    for sample in range(2):
        assert torch.equal(taken.rows[sample][taken.valid[sample]], X[sample][taken.index[sample][taken.valid[sample]]])
        assert not taken.rows[sample][~taken.valid[sample]].any()
    return [taken.index[sample][taken.valid[sample]].tolist() for sample in range(2)]


def test_rows_above_a_threshold_stay_in_order() -> None:
    assert rows_of(above=0.4) == [[1, 2, 3], [2, 4]]
    assert rows_of(above=torch.tensor([0.6, 0.15])) == [[1, 3], [0, 1, 2, 4]]
    assert rows_of(above=2.0) == [[], []]


def test_at_most_the_best_ties_to_the_earlier() -> None:
    assert rows_of(most=2) == [[1, 3], [2, 4]]
    assert rows_of(most=torch.tensor([3])) == [[1, 2, 3], [0, 2, 4]]
    assert rows_of(above=0.4, most=1) == [[1], [2]]
    assert rows_of(most=0) == rows_of(most=-3) == [[], []]


def test_some_rows_always_and_padding_never() -> None:
    first = torch.arange(5)[None].expand(2, 5) < 1
    assert rows_of(above=0.4, always=first) == [[0, 1, 2, 3], [0, 2, 4]]
    assert rows_of(most=1, always=first) == [[0], [0]]
    valid = torch.tensor([[True, True, False, False, True], [False, True, True, True, True]])
    assert rows_of(above=0.4, valid=valid, always=first) == [[0, 1], [2, 4]]
    assert rows_of(valid=valid) == [[0, 1, 4], [1, 2, 3, 4]]


def test_a_sample_takes_what_it_takes_alone() -> None:
    together = take(X, SCORE, above=0.4)
    alone = take(X[1:], SCORE[1:], above=0.4)
    assert torch.equal(together.index[1, :2], alone.index[0])
    assert together.index.shape[1] == 3 and together.valid[1].tolist() == [True, True, False]


def test_back_adds_rows_where_they_came_from() -> None:
    taken = take(X, SCORE, above=0.4)
    base = torch.full((2, 5, 2), 10.0)
    added = taken.back(base, torch.ones(2, 3, 2))
    expected = base.clone()
    for sample, rows in enumerate([[1, 2, 3], [2, 4]]):
        expected[sample, rows] += 1
    assert torch.equal(added, expected)
    nothing = take(X, SCORE, above=2.0)
    assert torch.equal(nothing.back(base, torch.ones(2, 0, 2)), base)


def test_gradients_reach_rows_through_both() -> None:
    x = X.clone().requires_grad_()
    taken = take(x, SCORE, above=0.4)
    taken.back(x, 2 * taken.rows).sum().backward()
    assert x.grad is not None and x.grad[0, :, 0].tolist() == [1, 3, 3, 3, 1]


def test_in_the_dense_network_everything_is_taken() -> None:
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    with calls_recorded(CallRecord(dense=True)):
        taken = take(X, SCORE, above=0.4, most=1, valid=valid)
    assert torch.equal(taken.rows, X) and torch.equal(taken.valid, valid)
    assert torch.equal(taken.back(X, torch.ones_like(X)), X + valid[:, :, None].to(X.dtype))


def margin(score: Tensor, threshold: float, **options: Any) -> list[float]:
    record = CallRecord()
    with calls_recorded(record):
        take(torch.zeros(1, score.shape[1], 1), score, above=threshold, **options)
    found: list[float] = record.selections[0].selection.margin[0].tolist()
    return found


def test_margins_say_how_far_rows_are_from_being_decided_otherwise() -> None:
    score = torch.tensor([[0.1, 0.9, 0.5]])
    assert margin(score, 0.4) == pytest.approx([-0.3, 0.5, 0.1])
    # Limited to one, the best is as far from the next as it is from it.
    assert margin(score, 0.4, most=1) == pytest.approx([-0.3, 0.4, -0.4])
    always = torch.tensor([[True, False, False]])
    assert margin(score, 0.4, always=always)[0] > 1e6
    assert margin(1000 * score, 400.0) == pytest.approx([-3.0, 500 / 900, 0.2], rel=1e-3)


def test_a_margin_of_nothing_is_nothing() -> None:
    none = torch.zeros(0, 3)
    flags = torch.zeros(0, 3, dtype=torch.bool)
    empty = torch.zeros(0, 0, dtype=torch.int32)
    assert taking_margin(none, flags, flags, torch.zeros(0), empty, torch.zeros(0, dtype=torch.int32)).shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"most": torch.tensor([1, 2])}, r"got most of shape \[2\], expected one number for all samples"),
        ({"above": torch.zeros(2, 5)}, r"got above of shape \[2, 5\], expected one number, or one for each sample"),
        ({"valid": torch.ones(2, 5)}, r"got valid of torch\.float32 \[2, 5\], expected bool \[batch, tokens\]"),
        ({"x": torch.zeros(2, 5)}, r"got rows \[2, 5\] and scores \[2, 5\], expected \[batch, tokens, width\]"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        take(**{"x": X, "score": SCORE, **arguments})


def test_rows_that_do_not_fit_back_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got rows \[2, 3, 4\] to add to \[2, 5, 3\], expected"):
        take(X, SCORE, above=0.4).back(X, torch.zeros(2, 3, 4))
