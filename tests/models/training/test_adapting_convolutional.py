"""Exits of a convolutional network learn from the dense network: heads come nearer, and a resumed run is the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adaptrt.models.adaptation import adapt
from adaptrt.models.data.samples import Samples
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.training.adapting import JOINT_FILE, LOG_FILE, AdaptSettings, adapt_network
from adaptrt.models.training.first_maps import fit_first_maps
from adaptrt.models.training.phase import Progress
from tests.models.adapters.pretrained.tiny_models import pretrained_network

pytestmark = pytest.mark.slow("builds models of transformers")

EXITS = ExitConfig((1, 3))
SETTINGS = AdaptSettings(exits=EXITS, joint_steps=40, batch=16, joint_rate=1e-3)


def quiet(_: Progress) -> None:
    """Nobody looks."""


def images(count: int, seed: int) -> Tensor:
    """Noise of some contrast about a colour, so that answers differ between them."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.randn(count, 3, 1, 1, generator=generator)
    contrast = torch.rand(count, 1, 1, 1, generator=generator)
    return 2 * colour + contrast * torch.randn(count, 3, 24, 24, generator=generator)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples({"pixel_values": images(96, 1).numpy()})


def network(task: str = "classification") -> Any:
    return pretrained_network("resnet_basic", image_size=24, task="embedding" if task == "embedding" else None)


def distances(adaptive: Any, dense: Any) -> list[float]:
    """Of every head from the dense network's answer, on images that nothing was trained on."""
    from adaptrt.models.training import teacher

    inputs = {"pixel_values": images(64, 2)}
    with torch.no_grad():
        wanted = dense.eval().run(inputs, {}).outputs
        return [float(teacher.distance(out.outputs, wanted)) for out in adaptive.eval().run(inputs, {}).stages]


def agreements(adaptive: Any, dense: Any) -> list[float]:
    inputs = {"pixel_values": images(256, 3)}
    with torch.no_grad():
        wanted = dense.eval().run(inputs, {}).logits.argmax(1)
        stages = adaptive.eval().run(inputs, {}).stages
        return [float((stage.logits.argmax(1) == wanted).float().mean()) for stage in stages]


def test_heads_come_nearer_to_the_dense_network(samples: Samples, tmp_path: Path) -> None:
    dense = network()
    torch.manual_seed(0)
    fresh = adapt(dense, {}, exits=EXITS)
    untrained, far = agreements(fresh, dense), distances(fresh, dense)
    fit_first_maps(fresh, samples)
    started, fitted = agreements(fresh, dense), distances(fresh, dense)
    adaptive = adapt_network(dense, samples, SETTINGS, tmp_path, quiet)
    trained, near = agreements(adaptive, dense), distances(adaptive, dense)
    for stage in (0, 1):
        assert started[stage] > untrained[stage] + 0.1 and trained[stage] > untrained[stage] + 0.1
        assert fitted[stage] < 0.5 * far[stage] and near[stage] < 0.5 * far[stage]
    assert untrained[2] == 1 and trained[2] > 0.9
    assert not adaptive.training
    # The stem and all statistics are the checkpoint's still; the blocks are not.
    for name, value in dense.state_dict().items():
        same = torch.equal(value, adaptive.state_dict()[name])
        assert same == ("running" in name or "num_batches" in name or name.startswith("stem.")), name


def test_training_alone_brings_heads_nearer(samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the least squares, which find most of it where networks are small."""
    monkeypatch.setattr("adaptrt.models.training.adapting.fit_first_maps", lambda *_, **__: None)
    dense = network()
    torch.manual_seed(0)
    far = distances(adapt(dense, {}, exits=EXITS), dense)
    near = distances(adapt_network(dense, samples, SETTINGS, tmp_path, quiet), dense)
    assert near[0] < 0.8 * far[0] and near[1] < 0.8 * far[1]
    losses = json.loads((tmp_path / LOG_FILE).read_text())["joint"]
    assert losses[-1][0] == 40 and losses[-1][1] < losses[0][1]


def test_early_vectors_come_nearer(samples: Samples, tmp_path: Path) -> None:
    dense = network("embedding")
    exits = ExitConfig((1, 3), "certainty")
    torch.manual_seed(0)
    far = distances(adapt(dense, {}, exits=exits), dense)
    settings = dataclasses.replace(SETTINGS, exits=exits, joint_steps=20)
    near = distances(adapt_network(dense, samples, settings, tmp_path, quiet), dense)
    assert near[0] < 0.5 * far[0] and near[1] < 0.5 * far[1]


class StoppedError(Exception):
    """An interruption."""


def test_a_resumed_run_is_the_uninterrupted_one(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(SETTINGS, joint_steps=6)
    whole = adapt_network(network(), samples, settings, tmp_path / "whole", quiet)
    monkeypatch.setattr("adaptrt.models.training.steps.CHECKPOINT_SECONDS", 0.0)

    def interrupt(progress: Progress) -> None:
        if progress.phase == "joint" and progress.step == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        adapt_network(network(), samples, settings, tmp_path / "cut", interrupt)
    assert (tmp_path / "cut" / JOINT_FILE).exists()
    steps: list[int] = []
    again = adapt_network(network(), samples, settings, tmp_path / "cut", lambda told: steps.append(told.step))
    assert steps == [4, 5, 6]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_time_is_planned_for(samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptrt.models.training.time_plan._seconds", lambda *_: 1.0)
    settings = dataclasses.replace(SETTINGS, hours=24 / 3600)
    adapt_network(network(), samples, settings, tmp_path, quiet)
    assert 20 <= json.loads((tmp_path / "plan.json").read_text())["joint_steps"] <= 24
