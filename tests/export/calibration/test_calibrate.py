"""Calibration: a curve that keeps its budgets, written whole or not at all, and found again after an interrupt."""

import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptrt.export.calibration import calibrate
from adaptrt.export.calibration.calibrate import calibrate_bundle, calibrate_loaded, has_combinations, mark_frontier
from adaptrt.export.calibration.journal import JOURNAL_FILE
from adaptrt.export.errors import CalibrationError
from adaptrt.export.exporter import ExportReport
from adaptrt.export.staging import check_replaceable
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.runtime import Budget, load
from adaptrt.runtime.bundle.bundle_file import Bundle, encode_bundle
from adaptrt.runtime.bundle.json_form import decode_bundle
from adaptrt.runtime.bundle.validation import check_bundle
from adaptrt.runtime.control.operating_point import BudgetSolver
from tests.export.conftest import tiny_data
from tests.export.fake_bundle import ALL, CAPACITY, EXITS, KEEP, PRICE, FakeModel, fake_data
from tests.staged_bundle import images, write_staged


@pytest.mark.slow("exports")
def test_the_curve_of_a_bundle(exported: ExportReport) -> None:
    curve = exported.curve
    assert len(curve) == 9 and any(point.frontier for point in curve)
    assert [point.knobs["price"] for point in curve] == sorted((p.knobs["price"] for p in curve), reverse=True)
    works = [point.calibration_macs_fraction for point in curve]
    assert works == sorted(works)  # type: ignore[type-var]
    model, data = load(exported.bundle_folder), tiny_data()
    errors = [point.calibration_error for point in curve]
    assert errors[-1] == 0.0 and all(error is not None and 0 <= error < 0.2 for error in errors) and max(errors) > 0
    for point in (curve[0], curve[4], curve[-1]):
        result = model.run({"pixels": data.test.inputs}, knobs=point.knobs)
        assert point.macs_fraction == pytest.approx(result.macs_fraction.mean(), abs=1e-6)
        assert point.quality == (result.outputs["logits"].argmax(1) == data.test.labels).mean()


@pytest.mark.slow("exports")
@pytest.mark.parametrize("share", [0.5, 0.6, 0.7, 0.8, 0.9])
def test_a_budget_is_kept_on_the_calibration_data(exported: ExportReport, share: float) -> None:
    model, data = load(exported.bundle_folder), tiny_data()
    result = model.run({"pixels": data.calibration.inputs}, budget=Budget.fraction(share))
    cheapest = exported.curve[0].calibration_macs_fraction
    assert cheapest is not None
    assert result.reachable == (share >= cheapest)
    if result.reachable:
        expected = model.operating_point(Budget.fraction(share)).macs_fraction
        assert expected <= share and expected - 0.05 < result.macs_fraction.mean() <= share + 0.03


@pytest.mark.slow("exports")
def test_calibrating_again_replaces_the_curve_and_its_table_alone(bundle: Path) -> None:
    before = json.loads((bundle / "bundle.json").read_text())
    told: list[float] = []
    curve = calibrate_bundle(bundle, tiny_data(40), points=5, progress=lambda _, share: told.append(share))
    after = json.loads((bundle / "bundle.json").read_text())
    assert len(curve) == len(after["curve"]) == 5
    assert after["data"] == {"name": "noise", "calibration": 40, "test": 40}
    assert before["dense"].pop("quality") != after["dense"].pop("quality")  # measured on the new data as well
    assert after["budget_table"]["soft"] and after["budget_table"] != before["budget_table"]
    measured: dict[str, object] = {"curve": 0, "data": 0, "budget_table": 0}
    assert {**before, **measured} == {**after, **measured}
    assert told[-1] == 1.0 and told == sorted(told)


@pytest.mark.slow("exports")
def test_data_of_another_shape_is_refused(bundle: Path) -> None:
    before = (bundle / "bundle.json").read_bytes()
    wrong = Split(np.zeros((4, 1, 5, 5), np.float32), np.zeros(4, np.int64))
    with pytest.raises(CalibrationError, match=r"got inputs of shape \[4, 1, 5, 5\], expected \['batch', 1, 4, 4\]"):
        calibrate_bundle(bundle, DataSplits("wrong", calibration=wrong, test=wrong))
    with pytest.raises(CalibrationError, match="got 1 points, expected at least 2"):
        calibrate_bundle(bundle, tiny_data(), points=1)
    assert (bundle / "bundle.json").read_bytes() == before


@pytest.mark.slow("exports")
def test_an_interrupted_calibration_leaves_the_old_curve(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (bundle / "bundle.json").read_bytes()

    def interrupt(*_: object) -> tuple[float, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate, "record_stages", interrupt)
    with pytest.raises(KeyboardInterrupt):
        calibrate_bundle(bundle, tiny_data())
    assert (bundle / "bundle.json").read_bytes() == before
    assert not list(bundle.glob(".*"))


def test_what_was_judged_in_numpy_is_what_runs(tmp_path: Path) -> None:
    """Every point of a real bundle of all families, run as the runtime runs it."""
    write_staged(tmp_path, calibrated=False)
    pixels = [images(150, seed=seed) for seed in (1, 2)]
    labels = [(10 * x.mean((1, 2, 3))).astype(np.int64) % 3 for x in pixels]
    data = DataSplits("brightness", *(Split(x, y) for x, y in zip(pixels, labels, strict=True)))
    curve = calibrate_bundle(tmp_path, data, points=6, evaluations=45)
    model = load(tmp_path)
    assert model.bundle.curve == curve
    assert {"price", "acm", "tokens", "exits", "exits by share", "hard"} <= {point.setting for point in curve}
    for point in curve:
        result = model.run({"pixels": pixels[1]}, knobs=point.knobs)
        assert point.macs_fraction == pytest.approx(result.macs_fraction.mean(), abs=1e-6)
        assert point.quality == (result.outputs["logits"].argmax(1) == labels[1]).mean()
        result = model.run({"pixels": pixels[0]}, knobs=point.knobs)
        assert point.calibration_macs_fraction == pytest.approx(result.macs_fraction.mean(), abs=1e-6)
        assert point.calibration_quality == (result.outputs["logits"].argmax(1) == labels[0]).mean()
        if point.hard:
            assert np.ptp(result.macs_fraction) < 1e-6
    for share in (0.4, 0.55, 0.7):
        for hard in (False, True):
            found = model.run({"pixels": pixels[0]}, budget=Budget.fraction(share, hard))
            assert found.macs_fraction.mean() <= share + (1e-6 if hard else 0.05) or not found.reachable


class TestCombinations:
    """A bundle of all families; its network is a few lines of numpy."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "bundle.json").write_bytes(encode_bundle(FakeModel(*ALL).bundle))
        return tmp_path

    @pytest.fixture
    def calibrate_fake(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        def run(model: FakeModel, data: DataSplits | None = None, **settings: Any) -> Bundle:
            monkeypatch.setattr(calibrate, "read_bundle", lambda _, **__: model.bundle)
            monkeypatch.setattr(calibrate, "opened", lambda *_: nullcontext(model))
            calibrate_bundle(folder, data or fake_data(200), **{"points": 7, "evaluations": 50, **settings})
            return decode_bundle((folder / "bundle.json").read_bytes())

        return run

    def test_the_curve_is_valid_and_complete(self, folder: Path, calibrate_fake: Any) -> None:
        told: list[tuple[str, float]] = []
        bundle = calibrate_fake(FakeModel(*ALL), progress=lambda *news: told.append(news))
        check_bundle(bundle)
        settings = {point.setting for point in bundle.curve if not point.setting.startswith("sample")}
        assert settings == {"price", "acm", "tokens", "exits", "exits by share", "hard"}
        assert all(point.hard == (point.setting == "hard") for point in bundle.curve)
        assert bundle.data["name"] == "fake" and 25 < bundle.data["evaluations"] <= 50
        assert bundle.quality_metric == "accuracy"
        assert [path.name for path in folder.iterdir()] == ["bundle.json"]
        shares = [share for _, share in told]
        assert shares == sorted(shares) and shares[-1] == 1.0
        assert told[-1][0] == f"calibrated in {bundle.data['evaluations']} passes"

    def test_what_is_reported_is_measured_on_the_third_split(self, calibrate_fake: Any) -> None:
        model, data = FakeModel(*ALL), fake_data(200)
        for point in calibrate_fake(model).curve:
            knobs = {name: value for name, value in point.knobs.items() if name != "exit_thresholds"}
            stages = model.run_stages({"x": data.test.inputs}, knobs=knobs)
            left = stages[0]["confidence"] > np.float32(point.knobs.get("exit_thresholds", [1.0])[0])
            spent, right = (
                np.where(left, *(values))
                for values in (
                    [stage["macs_fraction"] for stage in stages],
                    [stage["logits"].argmax(1) == data.test.labels for stage in stages],
                )
            )
            assert point.macs_fraction == pytest.approx(spent.mean(), abs=1e-6)
            assert point.quality == right.mean()

    def test_both_frontiers_are_marked_on_calibration_data(self, calibrate_fake: Any) -> None:
        curve = calibrate_fake(FakeModel(*ALL)).curve
        for hard in (False, True):
            own = [point for point in curve if point.hard is hard]
            marks = mark_frontier(
                [point.calibration_macs_fraction for point in own], [point.calibration_quality for point in own]
            )
            assert marks == [point.frontier for point in own] and any(marks)

    def test_errors_are_against_the_dearest_point(self, calibrate_fake: Any) -> None:
        curve = calibrate_fake(FakeModel(*ALL)).curve
        for hard in (False, True):
            own = [point for point in curve if point.hard is hard]
            dearest = max(own, key=lambda point: point.calibration_macs_fraction)
            assert dearest.calibration_error == 0
            for point in own:
                gap = abs(point.calibration_quality - dearest.calibration_quality)
                # Of n samples at least n * gap differ.
                assert point.calibration_error >= math.sqrt(max(gap - gap**2, 0) / 200) - 1e-12

    def test_budgets_are_kept(self, calibrate_fake: Any) -> None:
        model, data = FakeModel(*ALL), fake_data(200)
        solver = BudgetSolver(calibrate_fake(model))
        for share in (0.2, 0.35, 0.5, 0.65, 0.8):
            for hard in (False, True):
                found = solver.solve(Budget.fraction(share, hard))
                assert found.reachable or (hard and share == 0.2)
                if not found.reachable:
                    continue
                knobs = {name: value for name, value in found.knobs.items() if name != "exit_thresholds"}
                stages = model.run_stages({"x": data.calibration.inputs}, knobs=knobs)
                left = stages[0]["confidence"] > np.float32(np.broadcast_to(found.knobs["exit_thresholds"], 1)[0])
                spent = np.where(left, *[stage["macs_fraction"] for stage in stages])
                assert spent.max() - spent.min() < 1e-6 if hard else spent.max() > spent.min()
                assert spent.mean() <= share + (1e-6 if hard else 0.03)

    @pytest.mark.parametrize("passes", [0, 1, 10, 40, 60])
    def test_interrupted_and_called_again(self, folder: Path, calibrate_fake: Any, passes: int) -> None:
        before = (folder / "bundle.json").read_bytes()
        expected = calibrate_fake(FakeModel(*ALL))
        (folder / "bundle.json").write_bytes(before)
        with pytest.raises(KeyboardInterrupt):
            calibrate_fake(FakeModel(*ALL, stop_after=200 * passes + 50))
        assert (folder / "bundle.json").read_bytes() == before
        assert (folder / JOURNAL_FILE).exists() == (passes > 0)
        check_replaceable(folder)  # an export may still replace it
        told: list[str] = []
        again = FakeModel(*ALL)
        assert calibrate_fake(again, progress=lambda what, _: told.append(what)) == expected
        assert not (folder / JOURNAL_FILE).exists()
        assert (told[0].startswith("going on from ")) == (passes > 0)

    def test_a_journal_of_other_data_is_ignored(self, folder: Path, calibrate_fake: Any) -> None:
        with pytest.raises(KeyboardInterrupt):
            calibrate_fake(FakeModel(*ALL, stop_after=2000))
        told: list[str] = []
        found = calibrate_fake(FakeModel(*ALL), data=fake_data(64, seed=3), progress=lambda what, _: told.append(what))
        assert not any(what.startswith("going on") for what in told)
        assert found.data["calibration"] == 64 and not (folder / JOURNAL_FILE).exists()

    def test_without_a_journal_nothing_is_written(self, folder: Path) -> None:
        before = (folder / "bundle.json").read_bytes()
        bundle = calibrate_loaded(FakeModel(*ALL), folder, fake_data(64), points=3, evaluations=30)
        assert len(bundle.curve) > 15 and bundle.data["evaluations"] <= 30
        assert [path.name for path in folder.iterdir()] == ["bundle.json"]
        assert (folder / "bundle.json").read_bytes() == before

    def test_data_of_another_shape_is_refused_before_any_pass(self, folder: Path, calibrate_fake: Any) -> None:
        model = FakeModel(*ALL)
        calibrate_fake(model, points=3)
        model.samples = 0
        with pytest.raises(CalibrationError, match=r"got inputs of shape \[96, 1, 4, 4\], expected \['batch', 3\]"):
            calibrate_bundle(folder, tiny_data())
        assert model.samples == 0 and not (folder / JOURNAL_FILE).exists()

    def test_too_few_evaluations(self, calibrate_fake: Any) -> None:
        for evaluations in (0, 5):
            with pytest.raises(CalibrationError, match=f"got at most {evaluations} evaluations, expected at least"):
                calibrate_fake(FakeModel(*ALL), evaluations=evaluations)

    def test_which_bundles_have_combinations(self) -> None:
        assert not has_combinations(FakeModel(PRICE).bundle) and not has_combinations(FakeModel().bundle)
        for knobs in ((PRICE, CAPACITY), (PRICE, EXITS), (EXITS,), (KEEP,), ALL):
            assert has_combinations(FakeModel(*knobs).bundle)
