"""Networks of every task are trained by their task's own loss."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptrt.models.adapters.text_encoder import TextEncoderConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.network import Network
from adaptrt.models.tasks import TASKS
from adaptrt.models.training.train_exits import ExitTraining, train_network

SHAPE = TextEncoderConfig(width=16, depth=2, heads=2, ffn_width=32, classes=3, vocabulary=12, length=6)


def problem(task: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Texts with what follows from their words: a class for each, or the mean of a vector for each."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(12, (96, 6), generator=generator)
    mask = torch.arange(6) < torch.randint(2, 7, (96, 1), generator=generator)
    if task == "token-classification":
        return {"tokens": tokens, "mask": mask}, torch.where(mask, tokens % 3, -100)
    if task == "question-answering":  # from the first of the words to the last real one that is the same
        first = (tokens == tokens[:, :1]) & mask
        last = (first * torch.arange(6)).amax(1)
        return {"tokens": tokens, "mask": mask}, torch.stack([torch.zeros_like(last), last], 1)
    table = torch.randn(12, 16, generator=generator)
    if task == "feature-extraction":
        return {"tokens": tokens, "mask": mask}, table[tokens] * mask[:, :, None]
    mean = (table[tokens] * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    return {"tokens": tokens, "mask": mask}, mean


@pytest.mark.parametrize("task", ["token-classification", "embedding", "question-answering", "feature-extraction"])
def test_heads_learn_their_task(task: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = dataclasses.replace(SHAPE, task=task, exits=ExitConfig((1,), "certainty"))
    network = Network.from_config(shape).eval()
    inputs, targets = problem(task)

    def quality() -> list[float]:
        with torch.no_grad():
            stages = network.run_stages(inputs, {})
        outputs: list[dict[str, Any]] = [{k: v.numpy() for k, v in stage.outputs.items()} for stage in stages]
        return [float(TASKS[task].judge(each, targets.numpy()).quality.mean()) for each in outputs]

    before, losses = quality(), []
    training = ExitTraining(epochs=6, batch=16, rate=5e-3)
    train_network(network, inputs, targets, training, tmp_path / "c.pt", lambda now: losses.append(now.loss))
    assert losses[-1] < losses[0]
    assert all(after > first + 0.1 for after, first in zip(quality(), before, strict=True))


def test_targets_of_another_task_are_refused(tmp_path: Path) -> None:
    network = Network.from_config(dataclasses.replace(SHAPE, task="embedding")).eval()
    inputs, _ = problem("embedding")
    with pytest.raises(ValueError, match=r"targets of type int64 and shape \[1\] for embeddings"):
        wrong = torch.from_numpy(np.zeros(96, np.int64))
        train_network(network, inputs, wrong, ExitTraining(epochs=1), tmp_path / "c.pt", lambda _: None)
