from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from adaptrt.runtime import Budget, BudgetError
from adaptrt.runtime.bundle.bundle_file import Bundle, CurvePoint, Dense, Knob, Stage, TensorSpec
from adaptrt.runtime.control.operating_point import BudgetSolver

PRICE = Knob("price", "float32", [1], 0.0, 1.0, 0.0)
CAPACITY = Knob("capacity", "int32", [1], -1.0, 64.0, -1.0)


def bundle(curve, knobs=(PRICE,), macs=1000):
    return Bundle(
        format_version=1,
        name="test",
        producer="tests",
        inputs=[TensorSpec("x", "float32", ["batch", 4])],
        outputs=[TensorSpec("macs_fraction", "float32", ["batch"])],
        stages=[Stage("model.onnx", "0" * 64)],
        knobs=list(knobs),
        dense=Dense(macs, 10),
        curve=list(curve),
    )


def point(price, fraction, quality=None, **others):
    return CurvePoint({"price": price, **others}, fraction, quality, frontier=True)


def solve(curve, target, **keywords):
    return BudgetSolver(bundle(curve, **keywords)).solve(Budget.fraction(target))


def line_through(curve, price):
    """Independent check: the share at a price on the line through the measured points of one setting."""
    dearest = {}
    for p in curve:
        key = float(np.float32(p.knobs["price"]))
        dearest[key] = max(dearest.get(key, 0.0), p.macs_fraction)
    prices = sorted(dearest)
    return np.interp(price, prices, [dearest[p] for p in prices])


fractions = st.floats(0, 1.3, allow_subnormal=False)
noisy_curves = st.lists(
    st.builds(
        point,
        st.one_of(st.floats(0, 1), st.integers(0, 10).map(lambda n: n / 10)),
        fractions,
        st.one_of(st.none(), st.floats(0, 1)),
    ),
    min_size=1,
    max_size=12,
)


@st.composite
def monotone_curves(draw):
    """Distinct prices with strictly falling shares, in any order."""
    size = draw(st.integers(1, 12))
    prices = sorted(draw(st.lists(st.integers(0, 1000), min_size=size, max_size=size, unique=True)))
    shares = sorted(draw(st.lists(st.integers(0, 1300), min_size=size, max_size=size, unique=True)), reverse=True)
    curve = [point(p / 1000, s / 1000, s / 2000) for p, s in zip(prices, shares, strict=True)]
    return draw(st.permutations(curve))


@given(noisy_curves, fractions)
def test_never_above_a_reachable_budget(curve, target):
    found = solve(curve, target)
    cheapest = min(
        max(p.macs_fraction for p in curve if np.float32(p.knobs["price"]) == np.float32(q.knobs["price"]))
        for q in curve
    )
    assert found.reachable == (cheapest <= target)
    if found.reachable:
        assert found.macs_fraction <= target
        assert line_through(curve, np.float32(found.knobs["price"])) <= target + 1e-9
    else:
        assert found.macs_fraction == cheapest


@given(noisy_curves, fractions, fractions)
def test_a_larger_budget_never_runs_less(curve, one, other):
    solver = BudgetSolver(bundle(curve))
    small, large = (solver.solve(Budget.fraction(target)) for target in sorted((one, other)))
    assert small.macs_fraction <= large.macs_fraction
    assert small.reachable <= large.reachable


@given(monotone_curves(), fractions, fractions)
def test_a_larger_budget_never_has_a_higher_price(curve, one, other):
    solver = BudgetSolver(bundle(curve))
    small, large = (solver.solve(Budget.fraction(target)) for target in sorted((one, other)))
    assert small.knobs["price"] >= large.knobs["price"]


@given(monotone_curves())
def test_exact_at_measured_points(curve):
    solver = BudgetSolver(bundle(curve))
    for measured in curve:
        found = solver.solve(Budget.fraction(measured.macs_fraction))
        assert found.knobs == measured.knobs
        assert (found.macs_fraction, found.quality, found.reachable) == (
            measured.macs_fraction,
            measured.quality,
            True,
        )


@given(monotone_curves(), st.floats(0, 1))
def test_spends_the_budget_between_measured_points(curve, way):
    shares = [p.macs_fraction for p in curve]
    target = min(shares) + way * (max(shares) - min(shares))
    found = solve(curve, target)
    # Where the share falls steeply, neighbouring float32 prices are as much as this apart.
    assert found.macs_fraction == pytest.approx(target, abs=1e-4)
    assert line_through(curve, found.knobs["price"]) == pytest.approx(target, abs=1e-4)


@given(noisy_curves, fractions)
def test_the_graph_gets_the_very_price_that_was_solved(curve, target):
    price = solve(curve, target).knobs["price"]
    assert price in {p.knobs["price"] for p in curve} or price == float(np.float32(price))
    assert 0 <= price <= 1


@example([point(0.0, 1.0, None), point(0.0, 1.0, 0.0), point(1.0, 0.0, 0.0)], 1.0)
@given(noisy_curves, fractions)
def test_order_and_repetition_of_points_do_not_matter(curve, target):
    found, again = solve(curve, target), solve([*reversed(curve), *curve], target)
    assert (found.macs_fraction, found.reachable) == (again.macs_fraction, again.reachable)
    assert np.float32(found.knobs["price"]) == np.float32(again.knobs["price"])


@settings(max_examples=300)
@given(
    st.lists(
        st.builds(
            point,
            st.floats(0, 1),
            fractions,
            st.one_of(st.none(), st.floats(0, 1)),
            capacity=st.sampled_from([-1.0, 4.0, 8.0]),
        ),
        min_size=1,
        max_size=15,
    ),
    st.lists(fractions, min_size=2, max_size=6),
)
def test_several_settings(curve, targets):
    solver = BudgetSolver(bundle(curve, knobs=(PRICE, CAPACITY)))
    calibrated = {p.knobs["capacity"] for p in curve}
    last = 0.0
    for target in sorted(targets):
        found = solver.solve(Budget.fraction(target))
        assert found.knobs["capacity"] in calibrated, "nothing is interpolated across settings"
        assert found.macs_fraction >= last
        if found.reachable:
            assert found.macs_fraction <= target
            members = [p for p in curve if p.knobs["capacity"] == found.knobs["capacity"]]
            assert line_through(members, np.float32(found.knobs["price"])) <= target + 1e-9
        last = found.macs_fraction


@given(st.floats(0.2, 1.0), st.integers(0, 40))
def test_budgets_a_hair_apart_run_alike(target, steps):
    """Near a measured point rounding must not fall back to the next cheaper one."""
    solver = BudgetSolver(bundle([point(1.0, 0.2), point(0.0, 1.0)]))
    for _ in range(steps):
        target = math.nextafter(target, 0)
    assume(target >= 0.2)
    assert solver.solve(Budget.fraction(target)).macs_fraction == pytest.approx(target, abs=1e-6)


def test_linear_between_two_points():
    found = solve([point(0.0, 1.0, 0.96), point(0.5, 0.5, 0.90)], 0.75)
    assert found.knobs == {"price": 0.25}
    assert (found.macs_fraction, found.quality) == (0.75, pytest.approx(0.93))


def test_flat_stretch_takes_the_lowest_price():
    curve = [point(0.0, 1.0), point(0.2, 0.6), point(0.4, 0.6), point(0.6, 0.6), point(0.8, 0.3)]
    assert solve(curve, 0.6).knobs == {"price": 0.2}


def test_one_point_measured_too_low_does_not_lure_a_budget():
    curve = [point(0.0, 1.0), point(0.1, 0.2), point(0.2, 0.8), point(0.3, 0.6), point(0.5, 0.3)]
    assert solve(curve, 0.5).knobs["price"] > 0.3


def test_cheapest_point_is_reachable_though_a_higher_price_measured_more():
    curve = [point(0.0, 1.0), point(0.9, 0.34, 0.8), point(1.0, 0.35, 0.7)]
    found = solve(curve, 0.345)
    assert (found.knobs, found.macs_fraction, found.quality, found.reachable) == (
        {"price": 0.9},
        0.34,
        0.8,
        True,
    )
    assert solve(curve, 0.33).reachable is False
    assert solve(curve, 0.33).knobs == {"price": 0.9}


def test_below_the_cheapest_point():
    found = solve([point(0.0, 1.0, 0.96), point(1.0, 0.2, 0.8)], 0.1)
    assert (found.knobs, found.macs_fraction, found.quality, found.reachable) == (
        {"price": 1.0},
        0.2,
        0.8,
        False,
    )


def test_above_everything():
    assert solve([point(0.0, 1.04), point(1.0, 0.2)], 7.0).knobs == {"price": 0.0}


def test_unmeasured_quality_is_not_invented():
    curve = [point(0.0, 1.0, None), point(0.5, 0.5, 0.9), point(1.0, 0.1, 0.7)]
    assert solve(curve, 0.75).quality is None
    assert solve(curve, 0.3).quality == pytest.approx(0.8)


def test_solved_on_calibration_data_and_reports_held_out_quality():
    curve = [
        CurvePoint({"price": 0.0}, 1.0, 0.96, True, calibration_quality=0.99, calibration_macs_fraction=1.0),
        CurvePoint({"price": 1.0}, 0.2, 0.80, True, calibration_quality=0.95, calibration_macs_fraction=0.4),
    ]
    found = solve(curve, 0.7)
    assert found.knobs["price"] == pytest.approx(0.5)
    assert (found.macs_fraction, found.quality) == (0.7, pytest.approx(0.88))


def test_the_better_setting_wins():
    curve = [
        point(0.0, 1.0, 0.96, capacity=-1), point(1.0, 0.2, 0.70, capacity=-1),
        point(0.0, 0.5, 0.90, capacity=8), point(1.0, 0.1, 0.60, capacity=8),
    ]  # fmt: skip
    solver = BudgetSolver(bundle(curve, knobs=(PRICE, CAPACITY)))
    assert solver.solve(Budget.fraction(0.6)).knobs == {"price": 0.0, "capacity": 8}
    assert solver.solve(Budget.fraction(1.0)).knobs == {"price": 0.0, "capacity": -1}
    assert solver.solve(Budget.fraction(0.05)).knobs == {"price": 1.0, "capacity": 8}


def test_of_settings_that_came_out_alike_the_surer_one_wins():
    def chain(setting, knob, quality, alike):
        ends = ((1.0, 0.2, 0.7, 0.01), (0.0, 0.5, quality, alike))
        return [
            CurvePoint({knob: at}, share, reached, True, reached, setting=setting, calibration_error=error)
            for at, share, reached, error in ends
        ]

    other = Knob("token_price", "float32", [1], 0.0, 1.0, 0.0)
    sure, lucky = chain("sure", "price", 0.910, 0.0), chain("lucky", "token_price", 0.911, 0.002)
    for curve in (sure + lucky, lucky + sure):
        assert solve(curve, 0.6, knobs=(PRICE, other)).quality == 0.910
    better = chain("better", "token_price", 0.915, 0.002)
    assert solve(sure + better, 0.6, knobs=(PRICE, other)).quality == 0.915


def test_knobs_that_a_point_does_not_name_stand_at_their_default():
    solver = BudgetSolver(bundle([point(0.0, 1.0), point(1.0, 0.2)], knobs=(PRICE, CAPACITY)))
    assert solver.solve(Budget.fraction(1.0)).knobs == {"price": 0.0, "capacity": -1.0}


def test_a_bundle_without_price_snaps():
    curve = [CurvePoint({"capacity": c}, f, None, True) for c, f in ((-1, 1.0), (8, 0.5), (4, 0.3))]
    solver = BudgetSolver(bundle(curve, knobs=(CAPACITY,)))
    assert solver.solve(Budget.fraction(0.7)).knobs == {"capacity": 8}
    assert solver.solve(Budget.fraction(0.7)).macs_fraction == 0.5


def test_macs_are_shares_of_the_dense_macs():
    solver = BudgetSolver(bundle([point(0.0, 1.0), point(1.0, 0.2)], macs=2_000_000))
    assert solver.solve(Budget.macs(1e6)) == solver.solve(Budget.fraction(0.5))


def test_full_is_the_default_knobs_and_what_was_measured_there():
    solver = BudgetSolver(bundle([point(1.0, 0.2, 0.8), point(0.0, 1.04, 0.96), point(0.5, 1.05, 0.9)]))
    found = solver.solve(Budget.full())
    assert (found.knobs, found.macs_fraction, found.quality) == ({"price": 0.0}, 1.04, 0.96)


def test_full_without_a_measurement_at_the_defaults():
    found = BudgetSolver(bundle([point(0.1, 0.9, 0.95), point(1.0, 0.2, 0.8)])).solve(Budget.full())
    assert (found.knobs, found.macs_fraction, found.quality) == ({"price": 0.0}, 0.9, 0.95)


def test_without_a_curve_only_full():
    solver = BudgetSolver(bundle([]))
    found = solver.solve(Budget.full())
    assert found.knobs == {"price": 0.0}
    assert math.isnan(found.macs_fraction)
    assert found.quality is None
    for budget in (Budget.fraction(0.5), Budget.macs(10)):
        with pytest.raises(BudgetError, match="adaptrt calibrate"):
            solver.solve(budget)
