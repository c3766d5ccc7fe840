"""Calibration: prices that spread the work, a frontier that nothing beats, a curve written whole or not at all."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.export import calibrate
from adaptrt.export.calibrate import calibrate_bundle, mark_frontier, spread_prices
from adaptrt.export.errors import CalibrationError
from adaptrt.export.exporter import ExportReport
from adaptrt.models.data import DataSplits, Split
from adaptrt.runtime import Budget, load
from tests.export.conftest import tiny_data

unit = st.floats(0, 1, allow_nan=False)


@given(steepness=st.floats(0.1, 40), middle=unit, points=st.integers(2, 40))
def test_prices_spread_the_work(steepness: float, middle: float, points: int) -> None:
    asked: list[float] = []

    def fraction(price: float) -> float:
        asked.append(price)
        return float(1 / (1 + np.exp(steepness * (price - middle))))

    prices = spread_prices(fraction, 0.0, 1.0, points)
    assert prices == sorted(set(prices)) and prices[0] == 0 and prices[-1] == 1
    assert len(prices) == points == len(asked)
    assert all(float(np.float32(price)) == price for price in prices)
    works = [fraction(price) for price in prices]
    span = works[0] - works[-1]
    if points >= 20:
        assert max(a - b for a, b in itertools.pairwise(works)) <= span * 4 / (points - 1)


def test_a_jump_in_the_work_does_not_take_all_points() -> None:
    def fraction(price: float) -> float:
        return 0.9 - 0.2 * price - (0.5 if price > 0.5 else 0.0)

    prices = spread_prices(fraction, 0.0, 1.0, 25)
    assert sum(price > 0.6 for price in prices) >= 4 and sum(price < 0.4 for price in prices) >= 4


def test_work_that_ignores_the_price_is_not_swept_in_vain() -> None:
    assert spread_prices(lambda _: 0.5, 0.0, 1.0, 30) == [0.0, 1.0]


@given(st.lists(st.tuples(unit, unit), min_size=1, max_size=30))
def test_nothing_beats_the_frontier_and_it_beats_the_rest(points: list[tuple[float, float]]) -> None:
    costs, qualities = [p[0] for p in points], [p[1] for p in points]
    marks = mark_frontier(costs, qualities)
    assert any(marks)

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a != b and a[0] <= b[0] and a[1] >= b[1]

    for point, marked in zip(points, marks, strict=True):
        assert marked != any(beats(other, point) for other in points)


def test_the_curve_of_a_bundle(exported: ExportReport) -> None:
    curve = exported.curve
    assert len(curve) == 9 and any(point.frontier for point in curve)
    assert [point.knobs["price"] for point in curve] == sorted((p.knobs["price"] for p in curve), reverse=True)
    works = [point.calibration_macs_fraction for point in curve]
    assert works == sorted(works)  # type: ignore[type-var]
    model, data = load(exported.bundle_folder), tiny_data()
    for point in (curve[0], curve[4], curve[-1]):
        result = model.run({"pixels": data.test.inputs}, knobs=point.knobs)
        assert point.macs_fraction == pytest.approx(result.macs_fraction.mean(), abs=1e-6)
        assert point.quality == (result.outputs["logits"].argmax(1) == data.test.labels).mean()


@pytest.mark.parametrize("share", [0.5, 0.6, 0.7, 0.8, 0.9])
def test_a_budget_is_kept_on_the_calibration_data(exported: ExportReport, share: float) -> None:
    model, data = load(exported.bundle_folder), tiny_data()
    result = model.run({"pixels": data.calibration.inputs}, budget=Budget.fraction(share))
    cheapest = exported.curve[0].calibration_macs_fraction
    assert cheapest is not None
    assert result.reachable == (share >= cheapest)
    if result.reachable:
        assert share - 0.15 < result.macs_fraction.mean() <= share + 0.03


def test_calibrating_again_replaces_the_curve_alone(bundle: Path) -> None:
    before = json.loads((bundle / "bundle.json").read_text())
    told: list[float] = []
    curve = calibrate_bundle(bundle, tiny_data(40), points=5, progress=lambda _, share: told.append(share))
    after = json.loads((bundle / "bundle.json").read_text())
    assert len(curve) == len(after["curve"]) == 5
    assert after["data"] == {"name": "noise", "calibration": 40, "test": 40}
    assert before["dense"].pop("quality") != after["dense"].pop("quality")  # measured on the new data as well
    assert {**before, "curve": 0, "data": 0} == {**after, "curve": 0, "data": 0}
    assert told[-1] == 1.0 and told == sorted(told)


def test_data_of_another_shape_is_refused(bundle: Path) -> None:
    before = (bundle / "bundle.json").read_bytes()
    wrong = Split(np.zeros((4, 1, 5, 5), np.float32), np.zeros(4, np.int64))
    with pytest.raises(CalibrationError, match=r"got inputs of shape \[4, 1, 5, 5\], expected \['batch', 1, 4, 4\]"):
        calibrate_bundle(bundle, DataSplits("wrong", calibration=wrong, test=wrong))
    with pytest.raises(CalibrationError, match="got 1 points, expected at least 2"):
        calibrate_bundle(bundle, tiny_data(), points=1)
    assert (bundle / "bundle.json").read_bytes() == before


def test_an_interrupted_calibration_leaves_the_old_curve(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (bundle / "bundle.json").read_bytes()

    def interrupt(*_: object) -> tuple[float, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate, "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        calibrate_bundle(bundle, tiny_data())
    assert (bundle / "bundle.json").read_bytes() == before
    assert not list(bundle.glob(".*"))
