"""What a network is for, one task per file. Judging needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adaptrt.models.tasks.classification import CLASSIFICATION
from adaptrt.models.tasks.ctc import CTC
from adaptrt.models.tasks.embedding import EMBEDDING
from adaptrt.models.tasks.feature_extraction import FEATURE_EXTRACTION
from adaptrt.models.tasks.question_answering import QUESTION_ANSWERING
from adaptrt.models.tasks.task import Judged, Task, TaskError, closeness
from adaptrt.models.tasks.token_classification import TOKEN_CLASSIFICATION

_EVERY = (CLASSIFICATION, EMBEDDING, TOKEN_CLASSIFICATION, QUESTION_ANSWERING, FEATURE_EXTRACTION, CTC)
TASKS: dict[str, Task] = {task.name: task for task in _EVERY}
"""Every task that a bundle can name, by name."""


def task_of(name: str | None, outputs: Mapping[str, Sequence[int | str]]) -> Task | None:
    """The task that a bundle names; where it names none, classification if it has ``logits`` ``[batch, classes]``.

    Args:
        name: As the bundle has it.
        outputs: Shapes of the bundle's outputs by name.

    Returns:
        None where nothing here can judge the outputs: a network's own task, which travels with its code.
    """
    if name is None:
        return CLASSIFICATION if len(outputs.get("logits", ())) == 2 else None
    return TASKS.get(name)


__all__ = [
    "CLASSIFICATION",
    "CTC",
    "EMBEDDING",
    "FEATURE_EXTRACTION",
    "QUESTION_ANSWERING",
    "TASKS",
    "TOKEN_CLASSIFICATION",
    "Judged",
    "Task",
    "TaskError",
    "closeness",
    "task_of",
]
