"""A task without labels: how far answers are those of the dense network."""

from __future__ import annotations

from dataclasses import replace

from adaptrt.models.tasks.task import Task, TaskError

FOLLOWING = "with the dense model"
"""How the metric of a task ends whose labels are a dense network's answers."""


def following(task: Task) -> Task:
    """A task judged by the dense network's answers, which its metric says.

    Raises:
        TaskError: No targets can be made of its answers.
    """
    if task.answers is None:
        raise TaskError(f"got no labels for {task.name}, expected some: no targets can be made of its answers")
    kind = task.metric if "cosine" in task.metric else f"same {task.metric}"
    names = {"same accuracy": "agreement", "same token accuracy": "token agreement"}
    return replace(task, metric=f"{names.get(kind, kind)} {FOLLOWING}")
