"""Tasks judge outputs, compare answers, train, and refuse targets that do not fit."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from adaptrt.models.tasks import (
    CLASSIFICATION,
    CTC,
    EMBEDDING,
    FEATURE_EXTRACTION,
    QUESTION_ANSWERING,
    TASKS,
    TOKEN_CLASSIFICATION,
    Task,
    TaskError,
    task_of,
)
from adaptrt.models.tasks.task import closeness


def drawn(task: Task) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Outputs and targets of five samples."""
    generator = np.random.default_rng(3)
    if task is CLASSIFICATION:
        return {"logits": generator.standard_normal((5, 4)).astype(np.float32)}, np.array([0, 1, 2, 3, 0])
    if task is TOKEN_CLASSIFICATION:
        logits = generator.standard_normal((5, 6, 4)).astype(np.float32)
        return {"logits": logits}, np.where(generator.random((5, 6)) < 0.3, -100, generator.integers(0, 4, (5, 6)))
    if task is QUESTION_ANSWERING:
        ends = {name: generator.standard_normal((5, 7)).astype(np.float32) for name in task.outputs}
        return ends, np.sort(generator.integers(0, 7, (5, 2)), axis=1)
    if task is FEATURE_EXTRACTION:
        hidden = generator.standard_normal((5, 6, 8)).astype(np.float32)
        wanted = hidden + generator.standard_normal((5, 6, 8)).astype(np.float32)
        wanted[:, 4:] = 0
        return {"last_hidden_state": hidden}, wanted
    if task is CTC:
        logits = generator.standard_normal((5, 9, 4)).astype(np.float32)
        return {"logits": logits}, np.array([[1, 2, 3], [1, 1, -100], [3, -100, -100], [2, 1, 2], [3, 3, 3]])
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


def right_answer(task: Task, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs that say exactly what the targets do."""
    if task in (EMBEDDING, FEATURE_EXTRACTION):
        return {task.outputs[0]: targets}
    if task is QUESTION_ANSWERING:
        return {name: 30 * np.eye(7)[targets[:, side]] for side, name in enumerate(task.outputs)}
    symbols = np.where(targets < 0, 0, targets)
    if task is CTC:  # a blank behind every symbol, or repeated ones would become one
        symbols = np.stack([symbols, np.zeros_like(symbols)], 2).reshape(len(symbols), -1)
    return {task.outputs[0]: 30 * np.eye(4)[symbols]}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_perfect_answer_has_full_quality_and_agrees_with_itself(task: Task) -> None:
    outputs, targets = drawn(task)
    perfect = {name: array.astype(np.float32) for name, array in right_answer(task, targets).items()}
    np.testing.assert_allclose(task.judge(perfect, targets).quality, 1.0, rtol=1e-6)
    np.testing.assert_allclose(task.agreement(outputs, outputs), 1.0, rtol=1e-6)
    broken = {name: np.full_like(array, np.nan) for name, array in outputs.items()}
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
    start, end = 9 * np.eye(6, dtype=np.float32)[[1, 4]], 9 * np.eye(6, dtype=np.float32)[[3, 2]]
    span = QUESTION_ANSWERING.judge({"start_logits": start, "end_logits": end}, np.array([[2, 3], [0, 1]]))
    np.testing.assert_allclose(
        span.quality, [2 * 2 / (3 + 2), 0.0], rtol=1e-6
    )  # the second ends at its start or behind
    frames = 9 * np.eye(4, dtype=np.float32)[[[1, 1, 0, 1, 2, 0]]]
    heard = CTC.judge({"logits": frames}, np.array([[1, 1, 3, -100]]))
    np.testing.assert_allclose(heard.quality, [1 - 1 / 3], rtol=1e-6)  # 1 1 2
    assert CTC.agreement({"logits": frames}, {"logits": frames[:, ::-1]}).tolist() == [pytest.approx(1 - 2 / 3)]


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
