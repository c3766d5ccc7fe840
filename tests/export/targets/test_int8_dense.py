"""The dense model's graph in int8 answers full budgets: built, measured, proved, and run in the place of the stages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from adaptrt.cli.group import adaptrt
from adaptrt.export.calibration.engine_curve import calibrate_engine
from adaptrt.export.calibration.full_budget import FULL_SETTING
from adaptrt.export.calibration.worker_process import EngineOptions
from adaptrt.export.errors import ParityError
from adaptrt.export.exporter import export_bundle
from adaptrt.export.parity.verify_backend import verify_backend
from adaptrt.export.targets import activation_ranges, int8_dense
from adaptrt.export.targets.build import build_target
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.models import ACMConfig, Network
from adaptrt.models.adaptation import adapt
from adaptrt.models.adapters.pretrained.load import load_pretrained
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.models.folder import LoadedModel
from adaptrt.ops.record import Array
from adaptrt.runtime import Budget, load
from adaptrt.runtime.bundle.engine_files import ENGINE_FILE
from tests.batch_mates import MOST, dependence
from tests.models.adapters.pretrained.tiny_models import saved

INT8 = BuildSettings("onnxruntime", "int8")
PLACE = Path("engines/onnxruntime-int8")
OUTPUT = "sentence_embedding"

pytestmark = pytest.mark.slow("traces and calibrates an adapted network")


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DataSplits]:
    """A bundle whose stages answer otherwise than the dense model that they were adapted from, and its data."""
    root = tmp_path_factory.mktemp("adapted")
    dense = load_pretrained(saved(root / "checkpoint", "roberta")[0], task="embedding", length=12).model
    assert isinstance(dense, Network)
    torch.manual_seed(1)
    adaptive = adapt(dense, dense.example_inputs(8), acm=ACMConfig(2)).eval()
    splits = []
    with torch.no_grad():
        for parameter in adaptive.blocks.parameters():
            parameter.mul_(1.3)  # as training for small budgets takes it away from the dense network
        for seed in (1, 2):
            torch.manual_seed(seed)
            inputs = dense.example_inputs(40)
            vectors = dense.run(inputs, {}).outputs[OUTPUT].numpy()
            arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
            splits.append(Split(arrays.pop("input_ids"), vectors, arrays, "input_ids"))
    data = DataSplits("drawn", *splits)
    source = LoadedModel("roberta", adaptive, dense, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activation_ranges, "FEWEST_ROWS", 8)
        export_bundle(source, root / "bundle", calibration=data, points=3)
        build_target(root / "bundle", INT8)
    return root / "bundle", data


@pytest.fixture
def bundle(adapted: tuple[Path, DataSplits], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(activation_ranges, "FEWEST_ROWS", 8)
    return Path(shutil.copytree(adapted[0], tmp_path / "bundle"))


def named(adapted: tuple[Path, DataSplits]) -> dict[str, Array]:
    return dict(adapted[1].test.named("input_ids"))


def far(one: Array, other: Array) -> float:
    return float(np.abs(one - other).max() / np.abs(other).max())


def test_it_answers_full_budgets_in_the_place_of_the_stages(adapted: tuple[Path, DataSplits]) -> None:
    folder, inputs = adapted[0], named(adapted)
    content = json.loads((folder / PLACE / ENGINE_FILE).read_text())
    assert content["dense"]["prepared"]["file"] == "dense.onnx" and content["dense_activations"] in ("static", "token")
    assert 0.99 < content["dense_quality"] < 1
    exact, small = load(folder, threads=1), load(folder, precision="int8", threads=1)
    assert small.answers_by_dense and small.precision == "int8"
    dense = exact.run(inputs, budget=Budget.full())
    for budget in (Budget.full(), Budget.fraction(1.0)):
        result = small.run(inputs, budget=budget)
        assert 0 < far(result.outputs[OUTPUT], dense.outputs[OUTPUT]) < 0.03
        np.testing.assert_array_equal(result.macs_fraction, dense.macs_fraction)  # work is counted as in float32
    # The stages, which run where decisions are asked for, say something else and cost their gates.
    stages = small.run(inputs, budget=Budget.full(), decisions=True)
    assert far(stages.outputs[OUTPUT], dense.outputs[OUTPUT]) > 0.1
    assert (stages.macs_fraction > dense.macs_fraction).all()
    few = {name: array[:5] for name, array in inputs.items()}
    assert dependence(lambda fed: small.run(fed, budget=Budget.full()).outputs[OUTPUT], few) <= MOST


def test_its_curve_has_the_dense_model_for_full_budgets(adapted: tuple[Path, DataSplits], bundle: Path) -> None:
    calibrate_engine(bundle, adapted[1], EngineOptions(precision="int8"))
    model, inputs = load(bundle, precision="int8", threads=1), named(adapted)
    full = [point for point in model.bundle.curve if point.setting == FULL_SETTING]
    assert len(full) == 1 and full[0].quality is not None and full[0].quality > 0.99
    result = model.run(inputs, budget=Budget.full())
    assert full[0].macs_fraction == pytest.approx(result.macs_fraction.mean(), rel=1e-5)
    assert full[0].calibration_macs_fraction is not None and full[0].calibration_macs_fraction <= 1
    assert model.operating_point(Budget.fraction(1.0)).quality == full[0].quality
    # As the stages were measured, it would have been this.
    (bundle / PLACE / "dense.onnx").unlink()
    calibrate_engine(bundle, adapted[1], EngineOptions(precision="int8"))
    (stages,) = [point for point in load(bundle, precision="int8").bundle.curve if point.setting == FULL_SETTING]
    assert stages.quality is not None and 1 - stages.quality > 10 * (1 - full[0].quality)
    assert stages.macs_fraction > full[0].macs_fraction


def test_verify_compares_it_with_the_dense_model(bundle: Path, adapted: tuple[Path, DataSplits]) -> None:
    report = verify_backend(bundle, "onnxruntime", precision="int8")
    assert [row.full for row in report.rows] == [False] * (len(report.rows) - 1) + [True]
    assert report.rows[-1].agreeing > 0.99 and 0 < report.rows[-1].difference < 0.1
    (bundle / "dense.onnx").unlink()  # then there is nothing to compare it with
    assert not any(row.full for row in verify_backend(bundle, "onnxruntime", precision="int8").rows)
    assert load(bundle, precision="int8").answers_by_dense
    shutil.copy(adapted[0] / "dense.onnx", bundle)
    report.rows[-1].__dict__["agreeing"] = 0.0
    with pytest.raises(ParityError, match="of the predictions are torch's"):
        report.require("it")


def test_what_is_there_is_kept_and_what_is_not_is_built(bundle: Path) -> None:
    assert build_target(bundle, INT8).reused
    file = bundle / PLACE / ENGINE_FILE
    content = json.loads(file.read_text())
    for key in ("dense", "dense_activations", "dense_quality"):  # as earlier versions wrote it
        del content[key]
    file.write_text(json.dumps(content))
    assert not load(bundle, precision="int8").answers_by_dense
    report = build_target(bundle, INT8)
    assert "built again: the dense model's graph was left out, is there" in report.notes
    assert load(bundle, precision="int8").answers_by_dense
    other = build_target(bundle, BuildSettings("onnxruntime", "int8", activations="token"))
    assert other.engines.dense_activations == "token"


def test_where_it_cannot_be_the_stages_answer_and_a_note_says_so(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_dense, "agreement", lambda _: lambda given, _: np.zeros(len(given[OUTPUT])))
    report = build_target(bundle, INT8)
    assert report.engines.dense is None and not load(bundle, precision="int8").answers_by_dense
    assert any("predicts 0.0% of its golden outputs, expected at most 1.0% less" in note for note in report.notes)
    monkeypatch.undo()
    monkeypatch.setattr(activation_ranges, "FEWEST_ROWS", 8)
    (bundle / "dense.onnx").unlink()
    report = build_target(bundle, INT8)
    assert any("the stages answer full budgets" in note and "has no dense.onnx" in note for note in report.notes)
    assert report.engines.dense is None


def test_commands_tell_of_it(bundle: Path) -> None:
    runner = CliRunner()
    built = runner.invoke(adaptrt, ["build", str(bundle), "--target", "onnxruntime"], env={"COLUMNS": "200"})
    assert "dense model, full budgets" in built.output and "as in the dense model" in built.output
    shown = runner.invoke(adaptrt, ["inspect", str(bundle)], env={"COLUMNS": "200"})
    assert "the dense model answers full budgets" in shown.output
    proved = runner.invoke(adaptrt, ["verify", str(bundle), "--precision", "int8"], env={"COLUMNS": "200"})
    assert proved.exit_code == 0 and "full budget: the dense model" in proved.output
