"""Tasks judge outputs, compare answers, train, and refuse targets that do not fit."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from adaptrt.models.tasks import CLASSIFICATION, EMBEDDING, TASKS, TOKEN_CLASSIFICATION, Task, TaskError, task_of
from adaptrt.models.tasks.task import closeness


def drawn(task: Task) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Outputs and targets of five samples."""
    generator = np.random.default_rng(3)
    if task is CLASSIFICATION:
        return {"logits": generator.standard_normal((5, 4)).astype(np.float32)}, np.array([0, 1, 2, 3, 0])
    if task is TOKEN_CLASSIFICATION:
        logits = generator.standard_normal((5, 6, 4)).astype(np.float32)
        return {"logits": logits}, np.where(generator.random((5, 6)) < 0.3, -100, generator.integers(0, 4, (5, 6)))
    vectors = generator.standard_normal((5, 8)).astype(np.float32)
    return {"sentence_embedding": vectors}, vectors + generator.standard_normal((5, 8)).astype(np.float32)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_loss_in_torch_is_the_loss_that_calibration_judges_by(task: Task) -> None:
    outputs, targets = drawn(task)
    judged = task.judge(outputs, targets)
    assert judged.quality.dtype == judged.loss.dtype == np.float32 and judged.loss.shape == (5,)
    assert task.loss is not None
    loss = float(task.loss({name: torch.from_numpy(array) for name, array in outputs.items()}, torch.tensor(targets)))
    weight = (targets != -100).sum(1) if task is TOKEN_CLASSIFICATION else np.ones(5)
    assert loss == pytest.approx(np.average(judged.loss, weights=weight), rel=1e-5)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_perfect_answer_has_full_quality_and_agrees_with_itself(task: Task) -> None:
    outputs, targets = drawn(task)
    name = task.outputs[0]
    perfect = targets if task is EMBEDDING else 30 * np.eye(4, dtype=np.float32)[np.where(targets < 0, 0, targets)]
    np.testing.assert_allclose(task.judge({name: perfect.astype(np.float32)}, targets).quality, 1.0, rtol=1e-6)
    np.testing.assert_allclose(task.agreement(outputs, outputs), 1.0, rtol=1e-6)
    broken = {name: np.full_like(outputs[name], np.nan)}
    assert task.agreement(broken, outputs).max() == 0.0
    with pytest.raises(TaskError, match="NaN or infinite"):
        task.judge(broken, targets)


def test_quality_is_what_it_says() -> None:
    logits = np.array([[[0, 1], [1, 0], [0, 1]], [[1, 0], [1, 0], [1, 0]]], np.float32)
    judged = TOKEN_CLASSIFICATION.judge({"logits": logits}, np.array([[1, 1, -100], [-100, -100, -100]]))
    assert judged.quality.tolist() == [0.5, 1.0] and judged.loss[1] == 0.0
    right = CLASSIFICATION.judge({"logits": logits[:, 0]}, np.array([1, 1]))
    assert right.quality.tolist() == [1.0, 0.0]
    vectors = np.array([[1, 0], [0, 2]], np.float32)
    cosine = EMBEDDING.judge({"sentence_embedding": vectors}, np.array([[1, 1], [0, -1]], np.float32))
    np.testing.assert_allclose(cosine.quality, [0.5**0.5, -1.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("task", "targets", "message"),
    [
        (CLASSIFICATION, np.array([0, 1, 2, 4, 0]), r"labels up to 4 for logits of shape \[5, 4\]"),
        (CLASSIFICATION, np.array([0, 1, 2, -1, 0]), "the label -1"),
        (CLASSIFICATION, np.zeros((5, 2)), r"labels of type float64 and shape \[5, 2\]"),
        (TOKEN_CLASSIFICATION, np.zeros((5, 7), np.int64), r"shape \[5, 7\]"),
        (TOKEN_CLASSIFICATION, np.full((5, 6), -2), "expected logits"),
        (EMBEDDING, np.zeros((5, 3), np.float32), r"shape \[5, 3\] for embeddings of shape \[5, 8\]"),
        (EMBEDDING, np.zeros((5, 8), np.int64), "of type int64"),
    ],
)
def test_targets_that_do_not_fit_are_refused(task: Task, targets: np.ndarray, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task.judge(drawn(task)[0], targets)
    with pytest.raises(TaskError):
        task.judge({"other": np.zeros((5, 4), np.float32)}, targets)


def test_the_task_of_a_bundle() -> None:
    assert task_of("embedding", {}) is EMBEDDING
    assert task_of(None, {"logits": ["batch", 10]}) is CLASSIFICATION
    assert task_of(None, {"logits": ["batch", "tokens", 3]}) is None and task_of("a network's own", {}) is None


def test_outputs_without_a_meaning_agree_where_they_are_close() -> None:
    one = {"map": np.ones((3, 2, 2), np.float32), "count": np.arange(3)}
    other = {name: array.copy() for name, array in one.items()}
    other["map"][1] *= 1.02
    other["count"][2] = 9
    assert closeness(other, one).tolist() == [1.0, 0.0, 0.0]
    with pytest.raises(TaskError, match="no outputs"):
        closeness({}, {})


def test_judging_needs_no_torch() -> None:
    code = "import sys, adaptrt.models.tasks; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
