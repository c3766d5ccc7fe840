"""Budgets solved along chains that have a name, at single samples, and for hard points."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.runtime import Budget, BudgetError
from adaptrt.runtime.bundle.bundle_file import Bundle, CurvePoint, Dense, Knob, Stage, TensorSpec
from adaptrt.runtime.control.operating_point import BudgetSolver

PRICE = Knob("price", "float32", [1], 0.0, 1.0, 0.0)
CAPACITY = Knob("capacity", "int32", [3], -1.0, 64.0, -1.0)
THRESHOLDS = Knob("exit_thresholds", "float32", [2], -math.inf, math.inf, math.inf)
KNOBS = (PRICE, CAPACITY, THRESHOLDS)


def bundle(curve, knobs=KNOBS):
    return Bundle(
        format_version=2,
        name="test",
        producer="tests",
        inputs=[TensorSpec("x", "float32", ["batch", 4])],
        outputs=[TensorSpec("macs_fraction", "float32", ["batch"])],
        stages=[Stage("model.onnx", "0" * 64)],
        knobs=list(knobs),
        dense=Dense(1000, 10),
        curve=list(curve),
    )


def point(fraction, quality=None, setting="all", hard=False, **knobs):
    return CurvePoint(knobs, fraction, quality, frontier=True, setting=setting, hard=hard)


def solve(curve, target, hard=False):
    return BudgetSolver(bundle(curve)).solve(Budget.fraction(target, hard=hard))


fractions = st.floats(0, 1.3, allow_subnormal=False)
units = st.one_of(st.floats(0, 1, width=32, allow_subnormal=False), st.sampled_from([0.0, 0.5, 1.0]))


@st.composite
def noisy_chains(draw, setting="all"):
    """Points in any order of cost, all knobs moving at will, some of the points with the same knobs."""
    return [
        point(
            draw(fractions),
            draw(st.one_of(st.none(), st.floats(0, 1))),
            setting,
            price=draw(units),
            exit_thresholds=draw(st.one_of(units, st.lists(units, min_size=2, max_size=2))),
        )
        for _ in range(draw(st.integers(1, 8)))
    ]


def as_vector(knobs):
    """All float knobs of a point, as the graph gets them."""
    thresholds = knobs.get("exit_thresholds", math.inf)
    return np.float32([knobs.get("price", 0.0), *(thresholds if isinstance(thresholds, list) else [thresholds] * 2)])


def dearest(curve):
    """Independent of the solver: the chain's distinct knobs in order, each at its largest measured share."""
    found = {}
    for p in curve:
        key = tuple(as_vector(p.knobs))
        found[key] = max(found.get(key, 0.0), p.macs_fraction)
    return list(found.items())


def least_on_the_line(curve, knobs):
    """The cheapest share at which knobs lie on the line through the measured points, to rounding."""
    vector = as_vector(knobs).astype(np.float64)
    nodes = [(np.float64(key), share) for key, share in dearest(curve)]
    shares = [share for key, share in nodes if np.array_equal(key, vector)]
    for (start, low), (end, high) in pairwise(nodes):
        moving = start != end
        ways = (vector - start)[moving] / (end - start)[moving]
        ulps = 2.0**-23 / np.abs(end - start)[moving]  # one rounding of a number up to 1
        between = np.array_equal(vector[~moving], start[~moving]) and ways.min() >= 0 and ways.max() <= 1
        if between and np.all(np.abs(ways - ways.max()) <= 2 * ulps + 1e-9):
            shares.append(low + ways.max() * (high - low))
    return min(shares)


@given(noisy_chains(), fractions)
def test_never_above_a_reachable_budget(curve, target):
    found = solve(curve, target)
    cheapest = min(share for _, share in dearest(curve))
    assert found.reachable == (cheapest <= target)
    if found.reachable:
        assert found.macs_fraction <= target
        assert least_on_the_line(curve, found.knobs) <= target + 1e-6
    else:
        assert found.macs_fraction == cheapest


@given(noisy_chains(), fractions, fractions)
def test_a_larger_budget_never_runs_less(curve, one, other):
    solver = BudgetSolver(bundle(curve))
    small, large = (solver.solve(Budget.fraction(target)) for target in sorted((one, other)))
    assert small.macs_fraction <= large.macs_fraction
    assert small.reachable <= large.reachable


@st.composite
def curves(draw):
    """Several chains of rising work, and samples; every point with a quality and some with an error of it."""
    found = []
    for setting in draw(st.lists(st.sampled_from(["a", "b", "sample 1"]), min_size=1, max_size=3, unique=True)):
        size = draw(st.integers(1, 6))
        shares = sorted(draw(st.lists(st.integers(0, 1300), min_size=size, max_size=size, unique=True)))
        for number, share in enumerate(shares):
            quality, error = draw(st.sampled_from([0.5, 0.6, 0.7, 0.8])), draw(st.sampled_from([None, 0.0, 0.15]))
            knobs = {"price": 1 - number / 8}
            found.append(
                CurvePoint(knobs, share / 1000, None, True, quality, share / 1000, setting, calibration_error=error)
            )
    return found


@given(curves(), fractions)
def test_nothing_with_the_same_or_less_work_is_better(curve, target):
    """By calibrated quality less its standard error, of all measured points, in whatever chain."""
    found = solve(curve, target)
    if not found.reachable:
        return
    rivals = [(p.macs_fraction, p.calibration_quality - (p.calibration_error or 0.0), p) for p in curve]
    best = max(merit for share, merit, _ in rivals if share <= found.macs_fraction)
    chosen = [merit for share, merit, p in rivals if share == found.macs_fraction]
    if chosen:  # a measured point: none with at most its work is better, and none as good has less
        assert max(chosen) == best
        assert not any(merit >= best and share < found.macs_fraction for share, merit, _ in rivals)
    else:  # on the way to one that is better than all that take less
        assert any(share > found.macs_fraction and merit > best for share, merit, _ in rivals)


def test_a_budget_is_not_spent_on_what_is_no_better():
    """Threshold -1 lets everybody leave; half-way up from it nobody stays who did not before."""
    curve = [
        point(0.256, 0.93, "exits", exit_thresholds=-1.0),
        point(0.5, 0.93, "exits", exit_thresholds=0.4),
        point(0.7, 0.92, "exits", exit_thresholds=0.6),
        point(1.0, 0.95, "exits", exit_thresholds=math.inf),
    ]
    for target in (0.26, 0.33, 0.5, 0.69, 0.99):
        found = solve(curve, target)
        assert (found.macs_fraction, found.quality, found.knobs["exit_thresholds"]) == (0.256, 0.93, -1.0)
    assert solve(curve, 1.0).quality == 0.95


@st.composite
def monotone_chains(draw):
    """Strictly rising shares, every knob moving one way."""
    size = draw(st.integers(2, 6))
    shares = sorted(draw(st.lists(st.integers(0, 1300), min_size=size, max_size=size, unique=True)))
    rising = sorted(draw(st.lists(st.integers(0, 1000), min_size=size, max_size=size, unique=True)))
    return [
        point(
            share / 1000,
            share / 2000,
            price=1 - up / 1000,
            exit_thresholds=[up / 1000, up / 2000],
            capacity=[up // 20, 5, up // 50],
        )
        for share, up in zip(shares, rising, strict=True)
    ]


@given(monotone_chains())
def test_exact_at_measured_points(curve):
    solver = BudgetSolver(bundle(curve))
    for measured in curve:
        found = solver.solve(Budget.fraction(measured.macs_fraction))
        assert found.knobs == measured.knobs
        assert (found.macs_fraction, found.quality) == (measured.macs_fraction, measured.quality)


@given(monotone_chains(), st.floats(0, 1), st.floats(0, 1))
def test_all_knobs_move_together_and_one_way(curve, one, other):
    solver = BudgetSolver(bundle(curve))
    low, high = curve[0].macs_fraction, curve[-1].macs_fraction
    targets = [low + way * (high - low) for way in sorted((one, other))]
    small, large = (solver.solve(Budget.fraction(target)).knobs for target in targets)
    assert small["price"] >= large["price"]
    for name in ("exit_thresholds", "capacity"):
        assert all(a <= b for a, b in zip(small[name], large[name], strict=True))
    for knobs in (small, large):
        assert knobs["price"] == pytest.approx(1 - knobs["exit_thresholds"][0], abs=1e-6)
        assert knobs["exit_thresholds"][1] == pytest.approx(knobs["exit_thresholds"][0] / 2, abs=1e-6)
        assert knobs["capacity"][1] == 5
        assert all(number == int(number) for number in knobs["capacity"])


@given(monotone_chains(), st.floats(0, 1))
def test_what_is_fed_lies_between_its_neighbours_and_on_the_cheaper_side(curve, way):
    target = curve[0].macs_fraction + way * (curve[-1].macs_fraction - curve[0].macs_fraction)
    found = solve(curve, target)
    if found.knobs in [p.knobs for p in curve]:
        return
    below = max((p for p in curve if p.macs_fraction <= target), key=lambda p: p.macs_fraction)
    above = min((p for p in curve if p.macs_fraction > target), key=lambda p: p.macs_fraction)
    way = (target - below.macs_fraction) / (above.macs_fraction - below.macs_fraction)
    start, end, got = (as_vector(p.knobs).astype(np.float64) for p in (below, above, found))
    moving = start != end
    gone = ((got - start) / np.where(moving, end - start, 1))[moving]
    assert np.all(gone >= 0) and np.all(gone <= way + 1e-12) and np.all(gone < 1)
    assert all(float(np.float32(number)) == number for number in found.knobs["exit_thresholds"])
    few, many = (np.array(p.knobs["capacity"]) for p in (below, above))
    whole = np.floor(few + way * (many - few) + 1e-12)
    np.testing.assert_array_equal(found.knobs["capacity"], np.where(many > few, np.minimum(whole, many - 1), few))


def test_between_two_points():
    curve = [
        point(0.2, 0.7, price=0.5, exit_thresholds=[0.5, 0.25], capacity=[2, 4, 0]),
        point(1.0, 0.9, price=0.0, exit_thresholds=1.0, capacity=[8, 4, 1]),
    ]
    found = solve(curve, 0.4)
    assert found.knobs == {"price": 0.375, "exit_thresholds": [0.625, 0.4375], "capacity": [3, 4, 0]}
    assert (found.macs_fraction, found.quality) == (0.4, pytest.approx(0.75))


def test_a_number_and_a_list_of_it_are_the_same_knobs():
    curve = [point(0.5, 0.7, exit_thresholds=0.5), point(0.6, 0.9, exit_thresholds=[0.5, 0.5]), point(1.0, 1.0)]
    assert solve(curve, 0.55).reachable is False, "the dearer of the two measurements counts"
    assert solve(curve, 0.6).knobs["exit_thresholds"] == [0.5, 0.5]


def test_order_is_that_of_the_curve_not_of_the_price():
    """Exits first and price last: nothing about the price says where a point stands."""
    curve = [
        point(0.3, 0.6, price=0.2, exit_thresholds=0.0),
        point(0.6, 0.8, price=0.2, exit_thresholds=1.0),
        point(1.0, 0.9, price=0.0, exit_thresholds=1.0),
    ]
    assert solve(curve, 0.45).knobs == {"price": 0.2, "capacity": -1.0, "exit_thresholds": 0.5}
    assert solve(curve, 0.8).knobs["price"] == pytest.approx(0.1)


def test_a_point_measured_too_dear_hides_cheaper_ones_behind_it():
    curve = [point(0.2, price=0.9), point(0.8, price=0.6), point(0.5, price=0.3), point(1.0, price=0.0)]
    assert 0.6 < solve(curve, 0.5).knobs["price"] < 0.9
    assert solve(curve, 0.9).knobs["price"] == pytest.approx(0.15)


def test_nothing_is_interpolated_across_settings():
    curve = [
        point(0.2, 0.5, "exits", exit_thresholds=0.0), point(0.6, 0.7, "exits", exit_thresholds=1.0),
        point(0.3, 0.6, "prices", price=1.0), point(1.0, 0.9, "prices", price=0.0),
    ]  # fmt: skip
    for target in np.linspace(0.2, 1.0, 41):
        knobs = solve(curve, target).knobs
        assert knobs["exit_thresholds"] == math.inf or knobs["price"] == 0.0
    assert solve(curve, 0.25).knobs["exit_thresholds"] == pytest.approx(0.125)
    assert solve(curve, 1.0).knobs["price"] == 0.0


def test_without_a_name_only_the_price_moves():
    curve = [
        point(0.2, 0.5, "", price=1.0, capacity=[4, 4, 4]), point(0.6, 0.7, "", price=0.0, capacity=4),
        point(1.0, 0.9, "", price=0.0, capacity=[8, 8, 8]),
    ]  # fmt: skip
    assert solve(curve, 0.4).knobs == {"price": 0.5, "capacity": [4, 4, 4], "exit_thresholds": math.inf}
    assert solve(curve, 0.9).knobs == {"price": 0.0, "capacity": 4, "exit_thresholds": math.inf}


@given(
    st.lists(st.tuples(fractions, st.floats(0, 1), st.integers(0, 8)), min_size=1, max_size=12),
    noisy_chains(),
    st.lists(fractions, min_size=2, max_size=6),
)
def test_samples_snap(samples, chain, targets):
    alone = [
        point(fraction, quality, f"sample{number}", capacity=number)
        for number, (fraction, quality, _) in enumerate(samples)
    ]
    solver, last = BudgetSolver(bundle([*alone, *chain])), 0.0
    for target in sorted(targets):
        found = solver.solve(Budget.fraction(target))
        if found.knobs["capacity"] != -1.0:
            measured = alone[int(found.knobs["capacity"])]
            assert (found.macs_fraction, found.quality) == (measured.macs_fraction, measured.quality)
            if found.reachable:
                assert found.quality == max(p.quality for p in alone if p.macs_fraction <= target)
        assert found.macs_fraction >= last
        assert not found.reachable or found.macs_fraction <= target
        last = found.macs_fraction


def test_the_best_sample_within_the_budget_is_run():
    curve = [point(f, q, "sample", price=p) for f, q, p in ((0.5, 0.8, 0.5), (0.6, 0.7, 0.4), (0.9, 0.9, 0.1))]
    assert solve(curve, 0.8).knobs["price"] == 0.5
    assert solve(curve, 0.95).knobs["price"] == 0.1
    assert not solve(curve, 0.4).reachable


def test_ten_thousand_samples_are_solved_at_once():
    curve = [point(n / 10_000, n / 10_000, f"sample{n}", price=1 - n / 10_000) for n in range(10_000)]
    solver = BudgetSolver(bundle(curve))
    for target in np.linspace(0, 0.9999, 2000):
        assert solver.solve(Budget.fraction(target)).macs_fraction == pytest.approx(target, abs=1.01e-4)


@st.composite
def convex_hard_chains(draw):
    """Capacities that rise, and a share of the work that is a convex function of each."""
    weights = [draw(st.floats(0.001, 0.01)) for _ in range(3)]
    size = draw(st.integers(1, 6))
    steps = [[draw(st.integers(0, 8)) for _ in range(3)] for _ in range(size)]
    capacities = np.cumsum(steps, axis=0).tolist()
    return capacities, lambda capacity: 0.1 + sum(w * c for w, c in zip(weights, capacity, strict=True))


@given(convex_hard_chains(), fractions)
def test_a_hard_budget_is_kept_by_the_whole_numbers_themselves(chain, target):
    capacities, cost = chain
    curve = [point(cost(c), None, "capacity", True, capacity=c) for c in capacities]
    found = solve(curve, target, hard=True)
    assert found.reachable == (cost(capacities[0]) <= target)
    if found.reachable:
        spent = cost(found.knobs["capacity"])
        assert spent <= target + 1e-12 and spent <= found.macs_fraction + 1e-12
        assert all(number >= 0 for number in found.knobs["capacity"])


def test_hard_budgets_take_hard_points_and_soft_ones_soft_points():
    curve = [
        point(0.2, 0.6, "", price=1.0), point(1.0, 0.9, "", price=0.0),
        point(0.3, 0.5, "capacity", True, capacity=[1, 1, 1]), point(0.9, 0.99, "capacity", True, capacity=[7, 7, 4]),
    ]  # fmt: skip
    assert solve(curve, 0.6).knobs["capacity"] == -1.0
    hard = solve(curve, 0.6, hard=True)
    assert (hard.knobs["capacity"], hard.knobs["price"]) == ([4, 4, 2], 0.0)
    assert hard.macs_fraction == 0.6
    assert solve(curve, 0.25, hard=True) == BudgetSolver(bundle(curve)).solve(Budget.macs(250, hard=True))
    assert solve(curve, 0.25, hard=True).reachable is False
    assert BudgetSolver(bundle(curve)).solve(Budget.full()).macs_fraction == 1.0


def test_a_budget_of_the_other_kind():
    soft, hard = point(0.5, 0.9, price=0.5), point(0.5, 0.9, "capacity", True, capacity=4)
    with pytest.raises(BudgetError, match=r"0\.5 of the dense work for each sample, but bundle 'test' .*`capacity`"):
        solve([soft], 0.5, hard=True)
    with pytest.raises(BudgetError, match="has points for hard budgets only; pass hard=True"):
        solve([hard], 0.5)
    with pytest.raises(BudgetError, match="`capacity`"):
        solve([], 0.5, hard=True)


@given(st.floats(0.2, 1.0), st.integers(0, 40))
def test_budgets_a_hair_apart_run_alike(target, steps):
    """Near a measured point rounding must not fall back to the next cheaper one."""
    solver = BudgetSolver(bundle([point(0.2, price=1.0, exit_thresholds=0.1), point(1.0, price=0.0)]))
    for _ in range(steps):
        target = math.nextafter(target, 0)
    if target >= 0.2:
        assert solver.solve(Budget.fraction(target)).macs_fraction == pytest.approx(target, abs=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_extreme_floats(dtype):
    limit = float(np.finfo(dtype).max)
    knob = Knob("price2", dtype, [1], -limit, limit, 0.0)
    curve = [point(0.0, price2=-limit), point(1.0, price2=limit)]
    solver = BudgetSolver(bundle(curve, knobs=[knob]))
    with np.errstate(all="raise"):
        for target in (0.0, 1e-300, 0.5, math.nextafter(1.0, 0.0), 1.0):
            value = solver.solve(Budget.fraction(target)).knobs["price2"]
            assert -limit <= value <= limit and (value < limit or target == 1.0)
