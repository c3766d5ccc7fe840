"""Tasks judged by the dense network's own answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adaptrt.models.tasks import TASKS, TaskError
from adaptrt.models.tasks.following import following

DRAW = np.random.default_rng(0)
REAL = np.array([[True, True, False], [True, True, True]])
OUTPUTS: dict[str, dict[str, Any]] = {
    "classification": {"logits": DRAW.standard_normal((2, 4)).astype(np.float32)},
    "embedding": {"sentence_embedding": DRAW.standard_normal((2, 5)).astype(np.float32)},
    "token-classification": {"logits": DRAW.standard_normal((2, 3, 4)).astype(np.float32)},
    "feature-extraction": {"last_hidden_state": DRAW.standard_normal((2, 3, 5)).astype(np.float32)},
    "question-answering": {
        "start_logits": DRAW.standard_normal((2, 3)).astype(np.float32),
        "end_logits": DRAW.standard_normal((2, 3)).astype(np.float32),
    },
    "automatic-speech-recognition": {"logits": DRAW.standard_normal((2, 6, 4)).astype(np.float32)},
}


def test_every_task_is_here() -> None:
    assert set(OUTPUTS) == set(TASKS)


@pytest.mark.parametrize("name", list(OUTPUTS))
def test_its_own_answers_are_right(name: str) -> None:
    task = following(TASKS[name])
    assert task.answers is not None and task.metric.endswith("with the dense model")
    # Networks put the scores of padding far down where an answer is a place in the text; these are of no network.
    labels = task.answers(OUTPUTS[name], REAL if name in ("token-classification", "feature-extraction") else None)
    judged = task.judge(OUTPUTS[name], labels)
    np.testing.assert_allclose(judged.quality, 1, atol=1e-6)


@pytest.mark.parametrize("name", list(OUTPUTS))
def test_other_answers_are_not(name: str) -> None:
    task = following(TASKS[name])
    assert task.answers is not None
    labels = task.answers(OUTPUTS[name], None)
    other = {key: -value for key, value in OUTPUTS[name].items()}
    assert task.judge(other, labels).quality.mean() < 0.9


def test_padding_is_not_judged() -> None:
    for name, output in (("token-classification", "logits"), ("feature-extraction", "last_hidden_state")):
        task = following(TASKS[name])
        assert task.answers is not None
        labels = task.answers(OUTPUTS[name], REAL)
        changed = OUTPUTS[name][output].copy()
        changed[0, 2] = -changed[0, 2]
        np.testing.assert_allclose(task.judge({output: changed}, labels).quality, 1, atol=1e-6)


def test_a_task_without_answers() -> None:
    from dataclasses import replace

    with pytest.raises(TaskError, match="got no labels for classification"):
        following(replace(TASKS["classification"], answers=None))
