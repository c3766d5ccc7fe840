"""Every task from network to bundle: exported, proved, calibrated by its own metric, run under budgets."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptrt.export.errors import CalibrationError
from adaptrt.export.exporter import export_bundle
from adaptrt.export.parity.verify import verify_bundle
from adaptrt.models.adapters.text_encoder import TextEncoderConfig
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.folder import LoadedModel, load_folder, save_model
from adaptrt.models.network import Network
from adaptrt.models.tasks import TASKS
from adaptrt.runtime import Budget, load

pytestmark = pytest.mark.slow("exports and calibrates")

SHAPE = TextEncoderConfig(width=16, depth=2, heads=2, ffn_width=32, classes=3, vocabulary=30, length=8)
FAMILIES: dict[str, dict[str, Any]] = {
    "token-classification": {"acm": ACMConfig(2), "exits": ExitConfig((1,), "entropy")},
    "question-answering": {"acm": ACMConfig(2), "exits": ExitConfig((1,), "max_softmax")},
    "feature-extraction": {"acm": ACMConfig(2), "exits": ExitConfig((1,), "certainty")},
    "automatic-speech-recognition": {"acm": ACMConfig(2)},
    "embedding": {"acm": ACMConfig(2), "pruning": PruningConfig((0,)), "exits": ExitConfig((1,), "certainty")},
}


def network(task: str, **families: Any) -> Network:
    torch.manual_seed(3)
    return Network.from_config(dataclasses.replace(SHAPE, task=task, **families)).eval()


def data(task: str, teacher: Network) -> DataSplits:
    """Random texts with what the dense network answers, some tokens not judged."""
    splits = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        inputs = teacher.example_inputs(48)
        with torch.no_grad():
            answers = [tensor.numpy() for tensor in teacher.run(inputs, {}).outputs.values()]
        targets = answer = answers[0]
        if task == "question-answering":
            first = answer.argmax(1)
            behind = np.where(np.arange(answer.shape[1]) >= first[:, None], answers[1], -np.inf)
            targets = np.stack([first, behind.argmax(1)], 1)
        elif task == "feature-extraction":
            targets = answer * inputs["mask"].numpy()[:, :, None]
        elif task == "automatic-speech-recognition":
            heard = [[s for s, _ in itertools.groupby(row) if s] for row in answer.argmax(2).tolist()]
            targets = np.array([row + [-100] * (answer.shape[1] - len(row)) for row in heard])
        elif task == "token-classification":
            targets = np.where(inputs["mask"].numpy(), answer.argmax(2), -100)
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        splits.append(Split(arrays.pop("tokens"), targets, arrays, "tokens"))
    return DataSplits("random", *splits)


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, DataSplits]:
    task = request.param
    dense = network(task)
    adaptive = dense.with_families([*FAMILIES[task].values()]).eval()
    folder = tmp_path_factory.mktemp(task)
    save_model(folder / "model", adaptive, dense, "random", torch.float32)
    splits = data(task, dense)
    source = load_folder(folder / "model", task)
    export_bundle(source, folder / "bundle", calibration=splits, points=4, evaluations=40)
    return task, folder / "bundle", splits


def test_the_bundle_says_what_it_is_for(exported: tuple[str, Path, DataSplits]) -> None:
    task, folder, _ = exported
    model = load(folder)
    bundle = model.bundle
    assert bundle.task == task and bundle.quality_metric == TASKS[task].metric
    assert {spec.name for spec in bundle.outputs} == {*TASKS[task].outputs, "macs_fraction"}
    assert bundle.dense.quality == pytest.approx(1.0, abs=1e-5)  # the targets are its own answers
    assert len(bundle.curve) >= 4 and all(point.quality is not None for point in bundle.curve)
    verify_bundle(folder)


def test_budgets_are_obeyed_and_quality_is_the_tasks(exported: tuple[str, Path, DataSplits]) -> None:
    task, folder, splits = exported
    model = load(folder)
    inputs = splits.test.named("tokens")
    everything = model.run(inputs, budget=Budget.full())
    less = model.run(inputs, budget=Budget.fraction(0.5))
    assert less.macs_fraction.mean() < everything.macs_fraction.mean()
    judged = TASKS[task].judge(everything.outputs, splits.test.labels).quality.mean(dtype=np.float64)
    dearest = max(model.bundle.curve, key=lambda point: point.macs_fraction)
    assert judged >= (dearest.quality or 0) - 0.02
    name = TASKS[task].outputs[0]
    whole = less.outputs[name]
    for row in (0, 7):
        one = {key: array[row : row + 1] for key, array in inputs.items()}
        alone = model.run(one, budget=Budget.fraction(0.5)).outputs[name]
        np.testing.assert_allclose(alone[0], whole[row], atol=1e-4)


def test_targets_of_another_task_are_refused(exported: tuple[str, Path, DataSplits], tmp_path: Path) -> None:
    task, _, splits = exported
    labels = np.zeros(48, np.int64)
    wrong = [Split(part.inputs, labels, part.others, "tokens") for part in (splits.calibration, splits.test)]
    source = LoadedModel(task, network(task, **FAMILIES[task]), None, None)
    with pytest.raises(CalibrationError, match=r"shape \[48\]") as caught:
        export_bundle(source, tmp_path / "out", calibration=DataSplits("wrong", *wrong), points=2, evaluations=30)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
