"""Training: it learns, it is deterministic, and an interrupted run resumes where it was."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptrt.models import ACMConfig, Recipe, ViT, train
from adaptrt.models.augment import Augmentation
from adaptrt.models.data import DataError, DataSplits
from adaptrt.models.phase import CheckpointError, Progress
from tests.models.conftest import TINY

RECIPE = Recipe(
    data="stripes",
    vit=TINY,
    acm=ACMConfig(learners=2, gate_width=4),
    dense_epochs=12,
    distil_epochs=3,
    gate_epochs=3,
    joint_epochs=6,
    batch=16,
    dense_rate=5e-3,
    joint_rate=2e-3,
    prices=4,
    augmentation=Augmentation(rotation=2, scale=0.02, shift=0.0, shear=0.0, noise=0.02),
)


def ignore(_: Progress) -> None:
    return None


def weights(model: ViT) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("acm", [RECIPE.acm, ACMConfig(learners=2, gate="argmax", projections=True, gate_width=4)])
def test_it_learns_and_the_price_steers_it(acm: ACMConfig, stripes: DataSplits, tmp_path: Path) -> None:
    seen: list[Progress] = []
    dense, adaptive = train(dataclasses.replace(RECIPE, acm=acm), stripes, tmp_path, seen.append)
    images, labels = torch.from_numpy(stripes.test.inputs), stripes.test.labels
    low, high = adaptive.price_limits()
    with torch.no_grad():
        everything = adaptive(images, torch.tensor([low]))
        nothing = adaptive(images, torch.tensor([high]))
        assert (dense(images).logits.argmax(1).numpy() == labels).mean() > 0.8
    assert (everything.logits.argmax(1).numpy() == labels).mean() > 0.8
    assert everything.macs_fraction.mean() > nothing.macs_fraction.mean()
    assert list(dict.fromkeys(progress.phase for progress in seen)) == [
        "dense",
        "distil",
        "gates",
        "joint",
    ]
    assert seen[-1].step == seen[-1].steps and seen[-1].accuracy is not None
    assert all(np.isfinite(progress.loss) and progress.seconds_left >= 0 for progress in seen)


class Interrupt:
    """Stops a run like Ctrl-C would, at the given step of a phase."""

    def __init__(self, phase: str, step: int) -> None:
        self.phase, self.step = phase, step

    def __call__(self, progress: Progress) -> None:
        if (progress.phase, progress.step) == (self.phase, self.step):
            raise KeyboardInterrupt


def test_an_interrupted_run_resumes_to_the_same_weights(stripes: DataSplits, tmp_path: Path) -> None:
    _, whole = train(RECIPE, stripes, tmp_path / "whole", ignore)
    for phase, step in (("dense", 20), ("joint", 20)):
        with pytest.raises(KeyboardInterrupt):
            train(RECIPE, stripes, tmp_path / "parts", Interrupt(phase, step))
        assert (tmp_path / "parts" / f"{phase}.pt").exists()
    steps: list[Progress] = []
    _, resumed = train(RECIPE, stripes, tmp_path / "parts", steps.append)
    assert steps[0].phase == "joint" and steps[0].step > 1  # nothing done is done again
    assert torch.equal(weights(whole), weights(resumed))


def test_another_seed_gives_another_model(stripes: DataSplits, tmp_path: Path) -> None:
    short = dataclasses.replace(RECIPE, dense_epochs=1, distil_epochs=1, gate_epochs=1, joint_epochs=1)
    _, first = train(short, stripes, tmp_path / "first", ignore)
    _, same = train(short, stripes, tmp_path / "same", ignore)
    _, other = train(dataclasses.replace(short, seed=1), stripes, tmp_path / "other", ignore)
    assert torch.equal(weights(first), weights(same))
    assert not torch.equal(weights(first), weights(other))


def test_checkpoints_of_another_recipe_are_refused(stripes: DataSplits, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, stripes, tmp_path, Interrupt("dense", 10))
    with pytest.raises(CheckpointError, match="checkpoints of another recipe; remove the folder"):
        train(dataclasses.replace(RECIPE, batch=8), stripes, tmp_path, ignore)


def test_a_damaged_checkpoint_is_named(stripes: DataSplits, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, stripes, tmp_path, Interrupt("dense", 10))
    checkpoint = tmp_path / "dense.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"cannot go on from .*dense\.pt"):
        train(RECIPE, stripes, tmp_path, ignore)


def test_data_without_a_training_part_is_refused(stripes: DataSplits, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training part"):
        train(RECIPE, dataclasses.replace(stripes, train=None), tmp_path, ignore)
