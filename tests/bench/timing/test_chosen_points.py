from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.bench.errors import BenchError
from adaptrt.bench.timing.chosen_points import HEADLINE_FRACTIONS, choose_points, points_at
from adaptrt.runtime import Budget
from adaptrt.runtime.bundle.bundle_file import Bundle, Carry, CurvePoint, Dense, Knob, KnobValue, Stage, TensorSpec
from adaptrt.runtime.control.operating_point import BudgetSolver

EMPTY = Bundle(
    format_version=1,
    name="tiny",
    producer="test",
    inputs=[TensorSpec("x", "float32", ["batch", 2])],
    outputs=[TensorSpec("macs_fraction", "float32", ["batch"])],
    stages=[Stage("model.onnx", "0" * 64)],
    knobs=[Knob("price", "float32", [1], 0.0, 1.0, 0.0)],
    dense=Dense(1000, 10),
)


def calibrated(fractions: list[float]) -> Bundle:
    """A bundle with a point for each share, dearest at price 0."""
    ordered = sorted(fractions, reverse=True)
    prices = np.linspace(0, 1, len(ordered)).astype(np.float32).tolist()
    curve = [
        CurvePoint({"price": price}, fraction, 0.5 + fraction / 4, frontier=index % 2 == 0)
        for index, (price, fraction) in enumerate(zip(prices, ordered, strict=True))
    ]
    return msgspec.structs.replace(EMPTY, curve=curve[::-1])


def test_points_are_spread_evenly() -> None:
    bundle = calibrated([0.2, 0.21, 0.22, 0.3, 0.39, 0.42, 0.6, 0.61, 0.8, 0.97, 1.0])
    points = choose_points(bundle, 5)
    assert [point.macs_fraction for point in points if point.calibrated] == [0.2, 0.39, 0.6, 0.8, 1.0]


@pytest.mark.parametrize("fraction", HEADLINE_FRACTIONS)
def test_headlines_are_solved_where_no_point_is_near(fraction: float) -> None:
    points = choose_points(calibrated([0.2, 0.3, 0.7, 1.0]), 4)
    assert len(points) == 4 + len(HEADLINE_FRACTIONS)
    (solved,) = [point for point in points if point.macs_fraction == pytest.approx(fraction, abs=1e-6)]
    assert not solved.calibrated and not solved.frontier
    way = (fraction - 0.3) / 0.4
    assert solved.knobs["price"] == pytest.approx(2 / 3 - way / 3, abs=1e-6)
    assert solved.quality == pytest.approx(0.5 + fraction / 4, abs=1e-6)


def test_headlines_are_left_out_where_they_cannot_be_met() -> None:
    assert [point.macs_fraction for point in choose_points(calibrated([0.7, 1.0]), 11)] == [0.7, 1.0]


def test_headlines_are_left_out_where_a_point_is_near() -> None:
    assert len(choose_points(calibrated([0.2, 0.505, 0.595, 1.0]), 4)) == 4


@given(st.lists(st.floats(0.05, 1.1), min_size=2, max_size=40, unique=True), st.integers(2, 15))
def test_ends_are_always_among_them_and_none_twice(fractions: list[float], count: int) -> None:
    points = choose_points(calibrated(fractions), count)
    shares = [point.macs_fraction for point in points]
    assert (min(shares), max(shares)) == (min(fractions), max(fractions))
    assert shares == sorted(shares) and len({point.knobs["price"] for point in points}) == len(points)
    assert sum(point.calibrated for point in points) >= min(count, len(fractions))
    for headline in HEADLINE_FRACTIONS:
        near = any(abs(share - headline) <= 0.01 for share in shares)
        assert near or min(fractions) > headline or max(fractions) < headline
    assert len(points) <= min(count, len(fractions)) + len(HEADLINE_FRACTIONS)


def point(setting: str, share: float, quality: float, *, hard: bool = False, **knobs: KnobValue) -> CurvePoint:
    return CurvePoint(knobs, share, quality, frontier=not hard, setting=setting, hard=hard)


STAGED = msgspec.structs.replace(
    EMPTY,
    stages=[Stage("a.onnx", "0" * 64, exit="early"), Stage("b.onnx", "0" * 64, exit="final", carry=[
        Carry("hidden", "next_hidden", "float32", ["batch", 2])
    ])],
    knobs=[Knob("price", "float32", [1], 0.0, 1.0, 0.0), Knob("exit_thresholds", "float32", [1], -1.0, 1.0, 1.0)],
    exit_criterion="entropy",
    curve=[
        point("price", 0.1, 0.3, price=1.0, exit_thresholds=[-1.0]),
        point("price", 0.5, 0.8, price=0.5, exit_thresholds=[0.5]),
        point("price", 1.0, 0.9, price=0.0, exit_thresholds=[1.0]),
        point("exits", 0.6, 0.7, price=0.0, exit_thresholds=[0.0]),
        point("exits", 0.8, 0.895, price=0.0, exit_thresholds=[0.75]),
        point("exits", 1.0, 0.9, price=0.0, exit_thresholds=[1.0]),
        point("hard", 0.3, 0.99, price=0.7, hard=True),
    ],
)  # fmt: skip


def test_of_several_settings_they_are_what_the_runtime_solves() -> None:
    points = choose_points(STAGED, 10)
    solver = BudgetSolver(STAGED)
    assert [p.macs_fraction for p in points] == pytest.approx(np.linspace(0.1, 1.0, 10), abs=1e-6)
    for own, share in zip(points[1:-1], np.linspace(0.1, 1.0, 10)[1:-1], strict=True):
        solved = solver.solve(Budget.fraction(float(share)))
        assert {**{"price": 0.0, "exit_thresholds": 1.0}, **own.knobs} == solved.knobs
    assert points[0].knobs == {"price": 1.0, "exit_thresholds": [-1.0]}
    # At 80% leaving early beats the common price, which is interpolated there.
    (best,) = [p for p in points if p.macs_fraction == 0.8]
    assert best.knobs == {"price": 0.0, "exit_thresholds": [0.75]} and best.calibrated and best.frontier
    assert points[-1].knobs == {"price": 0.0} and points[-1].quality == 0.9


def test_hard_points_are_left_out_and_defaults_too() -> None:
    points = choose_points(STAGED, 25)
    assert all("exit_thresholds" not in p.knobs or p.knobs["exit_thresholds"] != [1.0] for p in points)
    assert 0.99 not in [p.quality for p in points]
    with pytest.raises(BenchError, match="soft budgets"):
        choose_points(msgspec.structs.replace(STAGED, curve=STAGED.curve[-1:]), 5)


def test_equal_points_are_one() -> None:
    """Between sampled points, which are run as measured, many budgets get the same one."""
    curve = [point(f"sample {n}", share, share, price=1 - share) for n, share in enumerate((0.2, 0.5, 0.9))]
    points = choose_points(msgspec.structs.replace(STAGED, curve=curve), 30)
    assert [p.macs_fraction for p in points] == [0.2, 0.5, 0.9]
    assert points[-1].knobs == {"price": 0.0} and not points[-1].calibrated  # everything, never measured


def test_points_at_budgets_are_those_within_reach_each_once() -> None:
    budgets = [Budget.fraction(share) for share in (0.01, 0.5, 0.5, 2.0, 3.0)]
    points = points_at(STAGED, [*budgets, Budget.full()])
    assert [p.macs_fraction for p in points] == [0.5, 1.0]


def test_refusals() -> None:
    with pytest.raises(BenchError, match="adaptrt calibrate"):
        choose_points(EMPTY, 11)
    with pytest.raises(BenchError, match="got 1 points"):
        choose_points(calibrated([0.5, 1.0]), 1)
