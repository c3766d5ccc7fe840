"""Hard chains: whole numbers that never fall, the same work for every input, the better allocation."""

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from adaptrt.export.calibration.evaluations import Evaluations
from adaptrt.export.calibration.hard_budget import HardPoint, SoftLine, hard_chain
from adaptrt.export.calibration.journal import Journal
from adaptrt.export.errors import CalibrationError
from tests.export.fake_bundle import ALL, CAPACITY, FULL, KEEP, PRICE, TOKENS, FakeModel, fake_data

SOFT = SoftLine(lambda price: {"price": price}, 0.0, 4.0, bent=True)


def evaluations(model: Any, samples: int = 300, limit: int = 100) -> Evaluations:
    return Evaluations(model, fake_data(samples), limit=limit, journal=Journal(None, ""))


def numbers(chain: list[HardPoint], knob: str) -> np.ndarray:  # type: ignore[type-arg]
    return np.array([point.knobs[knob] for point in chain])


def test_the_chain_rises_to_everything() -> None:
    passes = evaluations(FakeModel(*ALL))
    chain = hard_chain(passes, SOFT, points=7)
    assert passes.done <= 14
    for knob in ("capacity", "keep"):
        assert (np.diff(numbers(chain, knob), axis=0) >= 0).all()
        assert (numbers(chain, knob) == np.rint(numbers(chain, knob))).all()
    assert chain[-1].knobs == {"price": 0.0, "token_price": 0.0, "capacity": [FULL, FULL], "keep": [TOKENS]}
    costs = [point.outcome.cost for point in chain]
    assert costs == sorted(costs) and len({str(point.knobs) for point in chain}) == len(chain)
    assert chain[0].knobs["keep"] == [1] and chain[0].outcome.cost < 0.3 < 0.9 < chain[-1].outcome.cost
    assert max(np.diff(costs)) < 0.4  # of few tokens not much can be spread


def test_no_gate_is_given_more_than_its_tokens_can_run() -> None:
    for point in hard_chain(evaluations(FakeModel(*ALL)), SOFT, points=7):
        (keep,) = point.knobs["keep"]  # type: ignore[misc]
        assert max(point.knobs["capacity"]) <= 2 * keep  # type: ignore[type-var, operator]


def test_numbers_between_two_points_cost_no_more_than_the_line() -> None:
    """What makes rounding down safe: work is convex along the chain."""
    model = FakeModel(*ALL)
    split = fake_data(40).calibration
    for low, high in pairwise(hard_chain(evaluations(model), SOFT, points=7)):
        for way in (0.2, 0.5, 0.8):
            knobs = dict(low.knobs)
            for knob in ("capacity", "keep"):
                pairs = zip(low.knobs[knob], high.knobs[knob], strict=True)  # type: ignore[arg-type]
                knobs[knob] = [math.floor(start + way * (end - start)) for start, end in pairs]
            spent = model.run({"x": split.inputs}, knobs=knobs).macs_fraction
            assert np.ptp(spent) < 1e-6
            assert spent[0] <= low.outcome.cost + way * (high.outcome.cost - low.outcome.cost) + 1e-6


class LopsidedModel(FakeModel):
    """Learners of the second gate are of no use, and the gates know it: only their gains tell."""

    def __init__(self, lopsided: bool) -> None:
        super().__init__(PRICE, CAPACITY)
        self._lopsided = lopsided

    def _stages(self, x: Any, knobs: Any) -> Any:
        self.samples += len(x)
        values = {"price": 0.0, "capacity": -1} | dict(knobs or {})
        capacity = np.broadcast_to(values["capacity"], 2)
        ranks = np.arange(FULL)[None].repeat(len(x), 0)
        useful = (6.0, 0.5)
        runs = []
        for gate in range(2):
            gain = useful[gate] / (1 + ranks + x[:, :1])
            runs.append(gain > values["price"] if capacity[gate] < 0 else ranks < capacity[gate])
        first, second = (own.sum(1) for own in runs)
        worth = (first, second) if self._lopsided else (second, first)
        margin = (0.08 * worth[0] - 0.02 * worth[1]) - x[:, 0]
        logits = np.stack([margin * 0, margin * 0, margin * 0], 1).astype(np.float32)
        logits[np.arange(len(x)), x[:, 2].astype(int)] = margin
        learners = np.stack(runs, 1).reshape(len(x), 2, TOKENS, 2).sum(3).astype(np.int32)
        spent = (0.1 + (first + second) / FULL * 0.45).astype(np.float32)
        stage = {"logits": logits, "macs_fraction": spent, "confidence": spent}
        return [stage], SimpleNamespace(learners=learners, kept=np.zeros((len(x), 0, TOKENS), bool))


@pytest.mark.parametrize("lopsided", [True, False])
def test_the_better_allocation_is_kept(lopsided: bool) -> None:
    """Where gates ran most of what helps, their means are kept; where they are wrong, equal shares."""
    chain = hard_chain(evaluations(LopsidedModel(lopsided)), SOFT, points=7)
    capacities = numbers(chain, "capacity")
    middle = capacities[(capacities.sum(1) > 0) & (capacities.sum(1) < 2 * FULL)]
    assert len(middle) >= 3
    if lopsided:
        assert (middle[:, 0] > middle[:, 1]).all()
    else:
        assert (middle[:, 0] == middle[:, 1]).all()


def test_equal_shares_cost_no_more_than_what_they_are_compared_with() -> None:
    passes = evaluations(LopsidedModel(False))
    targets = [0.1 + 0.45 * total / FULL for total in range(2 * FULL + 1)]
    for point in hard_chain(passes, SOFT, points=7):
        assert min(abs(point.outcome.cost - target) for target in targets) < 1e-6
    assert passes.done <= 14


def test_keep_alone_keeps_equal_shares() -> None:
    passes = evaluations(FakeModel(KEEP))
    chain = hard_chain(passes, None, points=5)
    assert [point.knobs["keep"] for point in chain] == [[2], [3], [4], [5], [6]]
    assert passes.done == 5


def test_samples_that_differ_in_work() -> None:
    with pytest.raises(CalibrationError, match=r"got 0\.\d+ to 0\.\d+ of the dense work at .*expected the same"):
        hard_chain(evaluations(FakeModel(*ALL, uneven=0.01)), SOFT, points=3)


def test_a_keep_that_counts_what_goes() -> None:
    class Turned(FakeModel):
        def _stages(self, x: Any, knobs: Any) -> Any:
            stages, made = super()._stages(x, {"keep": TOKENS + 1 - np.array(knobs["keep"])})
            return stages, SimpleNamespace(learners=made.learners, kept=made.kept)

    with pytest.raises(CalibrationError, match="with the least of everything .* expected more"):
        hard_chain(evaluations(Turned(KEEP)), None, points=4)
