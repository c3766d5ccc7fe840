"""The curve of a precision: measured on its engine, kept beside it, what budgets mean when it is loaded."""

from __future__ import annotations

import json
import shutil

import pytest

from adaptrt.export.calibration.stage_records import record_stages
from adaptrt.models.data.split import load_data
from adaptrt.runtime import Budget, load
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.errors import BundleError

PLACE = "engines/onnxruntime-int8"


@pytest.fixture(scope="module")
def built(cli, exported, tmp_path_factory):
    """A bundle with graphs in int8 and their curve."""
    folder = shutil.copytree(exported[0], tmp_path_factory.mktemp("precision") / "tiny")
    result = cli("build", folder, "--target", "onnxruntime", "--max-quality-drop", 1)
    assert result.exit_code == 0, result.output
    result = cli("calibrate", folder, "--data", "digits", "--precision", "int8", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["engine"].endswith(PLACE)
    return folder


@pytest.fixture
def copied(built, tmp_path):
    return shutil.copytree(built, tmp_path / "tiny")


def test_points_are_those_of_the_bundle_with_other_figures(built):
    portable, own = load(built).bundle, load(built, precision="int8").bundle
    assert portable == read_bundle(built)
    assert [point.knobs for point in own.curve] == [point.knobs for point in portable.curve]
    assert own.curve != portable.curve and own.budget_table != portable.budget_table
    test = load_data("digits").test
    model = load(built, precision="int8", threads=1)
    for point in own.curve[:: len(own.curve) - 1]:
        outcome = record_stages(model, test, point.knobs).outcome()
        assert outcome.cost == pytest.approx(point.macs_fraction, abs=1e-6)
        assert outcome.quality == pytest.approx(point.quality, abs=1e-6)


def test_budgets_go_by_it(built):
    model, chosen_on = load(built, precision="int8"), load_data("digits").calibration
    frontier = [point for point in model.bundle.curve if point.frontier]
    assert frontier
    for point in frontier:  # at these a budget is met exactly, on the data they were chosen on
        share = point.calibration_macs_fraction
        result = model.run({"pixels": chosen_on.inputs}, budget=Budget.fraction(share))
        assert result.macs_fraction.mean() == pytest.approx(share, abs=2e-3)


def test_a_new_build_and_a_new_export_have_no_curve(cli, copied):
    assert (copied / PLACE / "calibration.json").is_file()
    result = cli("build", copied, "--target", "onnxruntime", "--max-quality-drop", 1)
    assert "was there already" in result.stdout and (copied / PLACE / "calibration.json").is_file()
    cli("build", copied, "--target", "onnxruntime", "--max-quality-drop", 1, "--rebuild")
    assert not (copied / PLACE / "calibration.json").exists()
    assert load(copied, precision="int8").bundle == read_bundle(copied)


def test_a_damaged_or_foreign_curve_is_refused(copied):
    file = copied / PLACE / "calibration.json"
    content = json.loads(file.read_text())
    content["stages"][0]["sha256"] = "0" * 64
    file.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="of other stages or knobs"):
        load(copied, precision="int8")
    assert load(copied).bundle == read_bundle(copied)
    file.write_text("{")
    with pytest.raises(BundleError, match=r"calibration\.json"):
        load(copied, precision="int8")
    file.unlink()
    file.symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match=r"calibration\.json"):
        load(copied, precision="int8")


def test_refused(refused, bundle, contents):
    before = contents(bundle)
    assert "adaptrt build" in refused("calibrate", bundle, "--data", "digits", "--precision", "int8")
    assert "leave --backend and --precision out" in refused(
        "calibrate", bundle, "--data", "digits", "--precision", "fp32"
    )
    assert contents(bundle) == before
