"""A model of several inputs is calibrated like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from adaptrt.export.errors import CalibrationError
from adaptrt.export.exporter import export_bundle
from adaptrt.models.adapters.text_encoder import TextEncoderConfig
from adaptrt.models.data.split import DataError, DataSplits, Split, load_data
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.folder import LoadedModel
from adaptrt.models.network import Network
from adaptrt.runtime import Budget, load

pytestmark = pytest.mark.slow("exports and calibrates")

LENGTH, SAMPLES = 12, 24


def texts(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    real = rng.integers(2, LENGTH + 1, (SAMPLES, 1))
    return {"tokens": rng.integers(0, 50, (SAMPLES, LENGTH)), "mask": np.arange(LENGTH) < real}


@pytest.fixture
def source() -> LoadedModel:
    torch.manual_seed(0)
    config = TextEncoderConfig(
        width=24,
        depth=2,
        heads=2,
        ffn_width=48,
        classes=4,
        vocabulary=50,
        length=LENGTH,
        acm=ACMConfig(learners=2),
        exits=ExitConfig((1,)),
    )
    return LoadedModel("texts", Network.from_config(config).eval(), None, None)


def saved(path: Path, **changed: np.ndarray) -> Path:
    arrays = {f"{part}_{name}": array for part in ("calibration", "test") for name, array in texts().items()}
    labels = {f"{part}_labels": np.arange(SAMPLES) % 4 for part in ("calibration", "test")}
    np.savez(path, **{**arrays, **labels, **changed})
    return path


def test_a_text_encoder_is_calibrated_from_a_file_and_runs_under_a_budget(source: LoadedModel, tmp_path: Path) -> None:
    data = load_data(str(saved(tmp_path / "texts.npz")))
    report = export_bundle(source, tmp_path / "bundle", calibration=data, points=3, evaluations=8)
    assert len(report.curve) >= 3
    model = load(tmp_path / "bundle")
    result = model.run(texts(1), budget=Budget.fraction(0.6))
    assert result.outputs["logits"].shape == (SAMPLES, 4)
    fractions = [point.macs_fraction for point in report.curve]
    assert min(fractions) < 0.9 * max(fractions)
    dearest = model.run({**texts(), "mask": np.ones((SAMPLES, LENGTH), bool)}).macs_fraction
    assert dearest.min() > result.macs_fraction.mean()  # padding and a budget both save


def test_the_model_that_was_exported_stays_as_it_was(source: LoadedModel, tmp_path: Path) -> None:
    source.model.train()
    before = {name: tensor.clone() for name, tensor in source.model.state_dict().items()}
    knobs = source.model.knob_specs()
    full = np.ones((SAMPLES, LENGTH), bool)
    data = load_data(str(saved(tmp_path / "texts.npz", calibration_mask=full, test_mask=full)))
    export_bundle(source, tmp_path / "bundle", calibration=data, points=2, evaluations=20, hard_budgets=True)
    assert source.model.training
    assert source.model.knob_specs() == knobs
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.model.state_dict().items())


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (Split(texts()["tokens"], np.zeros(SAMPLES, np.int64)), "got data for tokens, expected .* tokens, mask"),
        (
            Split(texts()["tokens"], np.zeros(SAMPLES, np.int64), {"masks": texts()["mask"]}),
            "got data for tokens, masks, expected",
        ),
        (
            Split(texts()["tokens"] + 0.5, np.zeros(SAMPLES, np.int64), {"mask": texts()["mask"]}),
            "got float64 data, expected int64 as input tokens",
        ),
        (
            Split(texts()["tokens"][:, :, None], np.zeros(SAMPLES, np.int64), {"mask": texts()["mask"]}),
            r"got inputs of shape \[24, 12, 1\], expected .* as input tokens",
        ),
    ],
)
def test_data_that_does_not_fit_is_told_apart(source: LoadedModel, tmp_path: Path, split: Split, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        export_bundle(source, tmp_path / "bundle", calibration=DataSplits("t", split, split))
    assert not (tmp_path / "bundle").exists()


def test_a_file_that_lacks_an_array_says_which_are_there(tmp_path: Path) -> None:
    path = tmp_path / "few.npz"
    np.savez(path, calibration_tokens=texts()["tokens"], calibration_labels=np.zeros(SAMPLES, np.int64))
    with pytest.raises(DataError, match="none that begins so"):
        load_data(str(path))
    with pytest.raises(DataError, match="got 24, 23 inputs and 24 labels"):
        load_data(str(saved(path, test_mask=texts()["mask"][:-1])))
    with pytest.raises(DataError, match="calibration_inputs"):
        load_data(str(saved(path, calibration_inputs=texts()["tokens"])))
