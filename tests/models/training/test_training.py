"""Training: it learns, it is deterministic, and an interrupted run resumes where it was."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptrt.models import ACMConfig, Network, Recipe, train
from adaptrt.models.data.split import DataError, DataSplits
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.training.augment import Augmentation
from adaptrt.models.training.phase import CheckpointError, Progress
from adaptrt.models.training.priced_losses import draw_shares
from adaptrt.models.training.train import time_phases
from tests.models.conftest import TINY

pytestmark = pytest.mark.slow("trains")

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


def weights(model: Network) -> torch.Tensor:
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


def test_less_effort_takes_part_of_every_epoch_and_is_another_training(stripes: DataSplits, tmp_path: Path) -> None:
    seen: list[Progress] = []
    recipe = dataclasses.replace(RECIPE, acm=None, dense_epochs=3)
    assert stripes.train is not None
    whole = len(stripes.train) // recipe.batch
    train(recipe, stripes, tmp_path, seen.append, effort=0.5)
    assert seen[-1].steps == len(seen) == 3 * round(0.5 * whole) and whole > 2
    with pytest.raises(CheckpointError, match="another recipe"):
        train(recipe, stripes, tmp_path, ignore)
    planned = time_phases(RECIPE, stripes, effort=0.5)
    assert [(each.phase, each.steps) for each in planned] == [
        (name, epochs * round(0.5 * whole))
        for name, epochs in (("dense", 12), ("distil", 3), ("gates", 3), ("joint", 6))
    ]
    assert all(each.seconds == each.steps * each.step_seconds > 0 for each in planned)


def test_a_teacher_is_followed(stripes: DataSplits, tmp_path: Path) -> None:
    """A network of the teacher's shape starts with its weights; another is nearer to it than one that has none."""
    recipe = dataclasses.replace(RECIPE, acm=None, dense_epochs=6)
    torch.manual_seed(5)
    teacher = Network.from_config(TINY).eval()
    still = dataclasses.replace(recipe, dense_rate=0.0, weight_decay=0.0, dense_epochs=1)
    same, _ = train(still, stripes, tmp_path / "same", ignore, teacher=teacher)
    assert torch.equal(weights(same), weights(teacher))
    shallow = dataclasses.replace(recipe, vit=dataclasses.replace(TINY, depth=1))
    images = torch.from_numpy(stripes.test.inputs)

    def distance(model: Network) -> float:
        with torch.no_grad():
            return float((model(images).logits.softmax(1) - teacher(images).logits.softmax(1)).abs().mean())

    taught, _ = train(shallow, stripes, tmp_path / "taught", ignore, teacher=teacher)
    alone, _ = train(shallow, stripes, tmp_path / "alone", ignore)
    assert distance(taught) < 0.8 * distance(alone)
    with pytest.raises(CheckpointError, match="another recipe"):
        train(shallow, stripes, tmp_path / "taught", ignore)  # without its teacher


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


def test_where_two_families_save_they_take_turns_and_some_images_see_the_whole_network() -> None:
    recipe = dataclasses.replace(RECIPE, prices=4, pruning=PruningConfig(blocks=(0,)))
    model = Network.from_config(dataclasses.replace(recipe.vit, acm=recipe.acm, pruning=recipe.pruning))
    generator = torch.Generator().manual_seed(0)
    seen = []
    for _ in range(50):
        share, kept = draw_shares(recipe, model, 8, generator)
        pairs = list(zip(share[::2].tolist(), kept[::2].tolist(), strict=True))
        assert sorted((s < 1, k < 1) for s, k in pairs) == [(False, False), (False, True), (True, False), (True, True)]
        seen += [s for s, _ in pairs if s < 1] + [k for _, k in pairs if k < 1]
    assert min(seen) < 0.1 and max(seen) > 0.9  # each family's whole range


def test_one_family_saves_for_every_image() -> None:
    tokens = dataclasses.replace(RECIPE, prices=4, acm=None, pruning=PruningConfig(blocks=(0,)))
    learners = dataclasses.replace(RECIPE, prices=4)
    generator = torch.Generator().manual_seed(0)
    model = Network.from_config(dataclasses.replace(tokens.vit, pruning=tokens.pruning))
    assert (draw_shares(tokens, model, 8, generator)[1] < 1).all()
    model = Network.from_config(dataclasses.replace(learners.vit, acm=learners.acm))
    share, kept = draw_shares(learners, model, 8, generator)
    assert (kept == 1).all()
    assert [int(4 * value) for value in share[::2]] == [0, 1, 2, 3]  # spread over the scale
