"""A confidence that is no probability: calibrated in its own range, obeyed by the runtime."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptrt.export.exporter import export_bundle
from adaptrt.models import LoadedModel
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.models.families import exit_head
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.runtime import Budget, load
from tests.models.adapters.test_resnet import TINY as RESNET
from tests.models.adapters.test_resnet import trained_like

SAMPLES = 400


@pytest.fixture(scope="module", params=["log-sum-exp", "negative"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DataSplits]:
    """A small ResNet with exits, sure by the log-sum-exp of its logits (about 1.5), or by that less 700."""
    shift = 0.0 if request.param == "log-sum-exp" else -700.0
    patch = pytest.MonkeyPatch()
    patch.setattr(exit_head, "sureness", lambda logits, _criterion: logits.logsumexp(1) + shift)
    model = trained_like(dataclasses.replace(RESNET, exits=ExitConfig((1, 2), "max_softmax")))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2 * SAMPLES, *model.example_inputs(1)["pixels"].shape[1:], generator=generator)
    with torch.no_grad():  # what the last head says, and now and then not: later heads are better, none is perfect
        labels = model(pixels).argmax(1)
    wrong = torch.rand(len(labels), generator=generator) < 0.1
    labels = torch.where(wrong, (labels + 1) % 3, labels).numpy().astype(np.int64)
    halves = [Split(pixels[rows].numpy(), labels[rows]) for rows in (slice(SAMPLES), slice(SAMPLES, None))]
    data = DataSplits("noise", *halves)
    folder = tmp_path_factory.mktemp("confidence") / "bundle"
    try:
        export_bundle(LoadedModel("sure", model, None, None), folder, calibration=data, points=7, evaluations=40)
    finally:
        patch.undo()
    return folder, data


def test_thresholds_have_the_range_of_the_confidences(exported: tuple[Path, DataSplits]) -> None:
    folder, data = exported
    model = load(folder, threads=1)
    stages = model.run_stages({"pixels": data.calibration.inputs})
    for number, stage in enumerate(stages[:-1]):
        confidence = stage["confidence"]
        assert confidence.max() < 0 or confidence.min() > 1, "no probabilities"
        thresholds = [p.knobs["exit_thresholds"][number] for p in model.bundle.curve]  # type: ignore[index]
        finite = [threshold for threshold in thresholds if threshold < math.inf]
        assert math.inf in thresholds and len(set(finite)) > 2
        assert confidence.min() - 1e-3 * abs(confidence.min()) <= min(finite) and max(finite) <= confidence.max()


@pytest.mark.parametrize("split", ["calibration", "test"])
def test_budgets_are_obeyed(exported: tuple[Path, DataSplits], split: str) -> None:
    folder, data = exported
    model = load(folder, threads=1)
    pixels = getattr(data, split).inputs
    shares = sorted(p.calibration_macs_fraction for p in model.bundle.curve if p.calibration_macs_fraction)
    spent = []
    for budget in np.linspace(shares[0], 1.0, 9).tolist():
        result = model.run({"pixels": pixels}, budget=Budget.fraction(budget))
        assert result.reachable and result.message is None
        expected = model.operating_point(Budget.fraction(budget)).macs_fraction
        assert expected <= budget and expected - 0.12 < result.macs_fraction.mean() < expected + 0.05
        spent.append(float(result.macs_fraction.mean()))
    assert spent[0] < 0.6 * spent[-1], "a small budget does not run everything"
