"""The common price: monotone from minimum to maximum, and where it can be known the slope of loss over work."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrt.export.calibration.price_scale import KNOTS, FittedScale, fit_price_scale, sweep_family
from adaptrt.export.calibration.stage_records import Outcome
from adaptrt.export.errors import CalibrationError
from tests.export.fake_bundle import ALL, EXITS, PRICE, TOKEN_PRICE, FakeModel, fake_data

measurements = st.lists(st.tuples(st.floats(0, 1.2), st.floats(0, 5)), min_size=2, max_size=40)


def well_formed(scale: FittedScale, minimum: float, maximum: float) -> None:
    prices, values = np.array(scale.prices), np.array(scale.values)
    assert 2 <= len(prices) == len(values)
    assert (np.diff(prices) > 0).all() and (np.diff(values) >= 0).all()
    assert prices[0] == 0 and values[0] == minimum and values[-1] == maximum
    assert (prices.astype(np.float32) == prices).all() and (values.astype(np.float32) == values).all()
    assert scale(0.0) == minimum and scale(scale.maximum) == scale(2 * scale.maximum) == maximum


@settings(deadline=None)
@given(measurements, st.integers(3, 20))
def test_any_sweep_gives_a_map_from_minimum_to_maximum(points: list[tuple[float, float]], knots: int) -> None:
    raw = np.linspace(-2.0, 2.0, len(points))
    scale = fit_price_scale(raw, [cost for cost, _ in points], [loss for _, loss in points], knots=knots)
    well_formed(scale, -2.0, 2.0)
    assert len(scale.prices) <= knots


@settings(deadline=None)
@given(st.floats(0.5, 6), st.floats(0.5, 20), st.integers(20, 80))
def test_slopes_of_a_convex_curve_are_recovered(steepness: float, height: float, points: int) -> None:
    """With loss = h exp(-s c) and c = 1 - raw the slope at a raw price is known."""
    raw = np.linspace(0, 1, points)
    scale = fit_price_scale(raw, 1 - raw, height * np.exp(-steepness * (1 - raw)))
    well_formed(scale, 0.0, 1.0)
    for own in np.linspace(0.05, 0.9, 12):
        slope = height * steepness * math.exp(-steepness * (1 - own))
        assert scale(slope) == pytest.approx(own, abs=0.1)


def test_many_knots_recover_slopes_closely() -> None:
    raw = np.linspace(0, 1, 400)
    cost, loss = 1 - raw**2, raw**4  # d loss / d cost = 2 raw^2
    scale = fit_price_scale(raw, cost, loss, knots=200)
    for own in np.linspace(0.1, 0.95, 9):
        assert scale(2 * own**2) == pytest.approx(own, abs=0.01)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=20), st.data())
def test_a_corner_of_the_hull_is_the_best_point_at_its_price(falls: list[float], data: st.DataObject) -> None:
    """At a knot the family stands where loss + price * cost is least in the whole sweep."""
    cost = 1 - np.cumsum(falls) / sum(falls)
    loss = np.array(data.draw(st.lists(st.floats(0, 5), min_size=len(falls), max_size=len(falls))))
    loss[0] = 0.0  # less work is never better
    raw = np.linspace(0, 1, len(falls)).astype(np.float32).astype(float)
    scale = fit_price_scale(raw, cost, loss, knots=50)
    for price, value in zip(scale.prices[1:-1], scale.values[1:-1], strict=True):
        own = int(np.abs(raw - value).argmin())
        total = loss + price * cost
        assert total[own] <= total.min() + 1e-3 * max(1.0, price)


def test_less_work_that_is_better_costs_next_to_nothing() -> None:
    raw, cost = np.linspace(0, 1, 11), np.linspace(1, 0, 11)
    loss = np.concatenate([np.linspace(1.0, 0.5, 6), 0.5 + np.linspace(0.1, 2.0, 5)])  # overfitted: best in the middle
    scale = fit_price_scale(raw, cost, loss)
    well_formed(scale, 0.0, 1.0)
    assert scale(0.01) < 0.7 and scale(0.6) > 0.4 and scale(0.5) < 0.7
    assert fit_price_scale(raw, cost, loss[::-1] * 0 + np.linspace(1, 0, 11)).maximum < 1e-3  # less is always better


@pytest.mark.parametrize("cost", [[1.0, 1.0, 1.0, 1.0], [1.0, 0.4, 0.4, 0.4], [1.0, 1.0, 1.0, 0.4]])
def test_work_that_stays_the_same_over_a_range(cost: list[float]) -> None:
    loss = [1.0 - own for own in cost]
    scale = fit_price_scale([0.0, 1.0, 2.0, 3.0], cost, loss)
    well_formed(scale, 0.0, 3.0)
    if cost[1] == 0.4:  # all that can be saved is saved at the price 1, not spread up to the maximum
        assert scale(1.0) == pytest.approx(1.0)


def test_noise_in_the_work_does_not_turn_prices_round() -> None:
    generator, raw = np.random.default_rng(0), np.linspace(0, 1, 33)
    cost = 1 - raw + 0.05 * generator.standard_normal(33)
    well_formed(fit_price_scale(raw, cost, np.exp(-3 * cost)), 0.0, 1.0)


def test_the_model_takes_the_map_as_it_is() -> None:
    torch = pytest.importorskip("torch")
    from adaptrt.models.families.price_scale import PriceScale as Module

    raw = np.linspace(0, 1, 25)
    scale = fit_price_scale(raw, 1 - raw, 0.3 * np.exp(-6 * (1 - raw)))
    module = Module(scale.prices, scale.values)
    for price in [0.0, *np.geomspace(1e-3, 2 * scale.maximum, 20), scale.maximum]:
        assert float(module(torch.tensor([price], dtype=torch.float32))) == pytest.approx(scale(price), abs=1e-5)
    assert float(module(torch.tensor([0.0]))) == 0.0 and float(module(torch.tensor([scale.maximum]))) == 1.0


@pytest.mark.parametrize(
    "sweep",
    [
        ([0.0], [1.0], [1.0]),
        ([0.0, 1.0], [1.0], [1.0, 2.0]),
        ([0.0, 0.0], [1.0, 0.5], [1.0, 2.0]),
        ([0.0, 1.0], [1.0, math.nan], [1.0, 2.0]),
    ],
)
def test_sweeps_that_cannot_be_used(sweep: tuple[list[float], ...]) -> None:
    with pytest.raises(CalibrationError, match="expected"):
        fit_price_scale(*sweep)


def test_a_family_is_swept_alone() -> None:
    model, data = FakeModel(*ALL), fake_data(100)
    tokens = sweep_family(model, data.calibration, "token_price", off={"price": 0.0}, points=9)
    assert tokens.raw[0] == 0.0 and tokens.raw[-1] == 4.0 and len(tokens.raw) <= 9
    assert tokens.cost == sorted(tokens.cost, reverse=True) and tokens.loss[0] < tokens.loss[-1]
    well_formed(tokens.scale(), 0.0, 4.0)
    learners = sweep_family(model, data.calibration, "price", off={"token_price": 0.0}, points=9)
    assert learners.cost[0] == pytest.approx(tokens.cost[0]) and learners.cost[-1] > tokens.cost[-1]
    assert len(learners.scale().prices) <= KNOTS
    with pytest.raises(CalibrationError, match=r"got a sweep of knob 'token_price', expected one of .*\(price\)"):
        sweep_family(FakeModel(PRICE), data.calibration, "token_price")


def test_where_everything_runs_is_measured_once_for_all_sweeps() -> None:
    model, data = FakeModel(*ALL), fake_data(100)
    alone = sweep_family(FakeModel(*ALL), data.calibration, "price", off={"token_price": 0.0}, points=9)
    known: dict[str, Outcome] = {}
    tokens = sweep_family(model, data.calibration, "token_price", off={"price": 0.0}, points=9, known=known)
    assert model.samples == 100 * len(tokens.raw)
    assert sweep_family(model, data.calibration, "price", off={"token_price": 0.0}, points=9, known=known) == alone
    assert model.samples == 100 * (len(tokens.raw) + len(alone.raw) - 1)


def test_the_families_of_the_fake_differ_in_what_their_work_is_worth() -> None:
    model, data = FakeModel(PRICE, TOKEN_PRICE, EXITS), fake_data(300)
    scales = [
        sweep_family(model, data.calibration, knob, off={other: 0.0}, points=17).scale()
        for knob, other in (("price", "token_price"), ("token_price", "price"))
    ]
    assert scales[0](0.5) != pytest.approx(scales[1](0.5), rel=0.1)


def test_savings_of_next_to_nothing_have_no_slope() -> None:
    """The last billionth of the work would be worth any price."""
    raw, cost = np.linspace(0, 1, 12), np.append(np.linspace(1, 0.2, 11), 0.2 - 1e-9)
    loss = np.append(np.linspace(0, 1, 11) ** 2, 5.0)
    scale = fit_price_scale(raw, cost, loss)
    well_formed(scale, 0.0, 1.0)
    assert scale.maximum < 10


@pytest.mark.slow("traces all families")
def test_a_network_takes_its_scales_back_from_its_graphs() -> None:
    pytest.importorskip("torch")
    from adaptrt.export.calibration.evaluations import untold
    from adaptrt.export.errors import ExportError
    from adaptrt.export.graph.scale_metadata import read_price_scales
    from adaptrt.export.graph.stage_files import trace_stages
    from adaptrt.export.graph.trace import trace_stage
    from adaptrt.models.families.exit_head import ExitConfig
    from adaptrt.models.families.price_scale import PriceScale as Module
    from adaptrt.models.families.token_pruning import PruningConfig
    from tests.export.parity.test_families import ACM, family_model

    model = family_model(depth=2, acm=ACM, pruning=PruningConfig((0, 1)), exits=ExitConfig((1,), "entropy"))
    model.set_price_scales({"acm": Module([0, 0.1, 2], [0, 0.4, 1]), "tokens": Module([0, 0.3, 0.7], [0, 0.2, 1])})
    stages, _ = trace_stages(model, debug=False, progress=untold)
    for stage in stages:
        found = read_price_scales(stage.graph)
        assert found.keys() == {"acm", "tokens"}
        for family, scale in found.items():
            own = model.price_scales[family]
            assert (scale.prices, scale.values) == (own.prices, own.values)
    entry = next(entry for entry in stages[0].graph.metadata_props if entry.key == "adaptrt.price_scales")
    entry.value = entry.value.replace("2.0", "0.0")
    with pytest.raises(ExportError, match="cannot be read .*ascend"):
        read_price_scales(stages[0].graph)
    model.set_price_scales({})
    assert read_price_scales(trace_stage(model, 0).graph) == {}
