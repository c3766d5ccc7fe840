"""One class for each sample: ``logits`` ``[batch, classes]``, judged by accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from adaptrt.models.tasks.task import Array, Judged, Outputs, Task, TaskError, finite_output, log_probabilities

if TYPE_CHECKING:
    from torch import Tensor


def judge(outputs: Outputs, targets: Array) -> Judged:
    """Whether the likeliest class is the label, and the cross-entropy in nats.

    Args:
        outputs: ``logits`` ``[n, classes]``.
        targets: int64 ``[n]``, from 0 to classes - 1.

    Raises:
        TaskError: There is no class for a label, or the logits are not finite.
    """
    logits = outputs.get("logits", np.zeros(0))
    highest, lowest = targets.max(initial=0), targets.min(initial=0)
    fits = targets.ndim == 1 and targets.dtype.kind in "iu"
    if not fits or logits.ndim != 2 or highest >= logits.shape[1] or lowest < 0:
        got = f"labels up to {highest}" if lowest >= 0 else f"the label {lowest}"
        got = got if fits else f"labels of type {targets.dtype} and shape {list(targets.shape)}"
        raise TaskError(
            f"got {got} for logits of shape {list(logits.shape)}, expected logits [batch, classes] with a class for "
            "every label; give data with the model's labels"
        )
    log_probability = log_probabilities(finite_output(outputs, "logits"))
    loss = -log_probability[np.arange(len(targets)), targets]
    return Judged((logits.argmax(axis=1) == targets).astype(np.float32), loss.astype(np.float32))


def agreement(one: Outputs, other: Outputs) -> npt.NDArray[np.float32]:
    """Whether the likeliest class is the same."""
    logits = one["logits"]
    same = np.isfinite(logits).all(axis=1) & (logits.argmax(axis=1) == other["logits"].argmax(axis=1))
    return np.asarray(same, np.float32)


def loss(outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Cross-entropy, the mean over the samples."""
    from torch.nn import functional

    return functional.cross_entropy(outputs["logits"], targets)


def answers(outputs: Outputs, real: Array | None) -> Array:
    """The likeliest class, int64 ``[n]``."""
    del real
    return np.asarray(finite_output(outputs, "logits").argmax(axis=1), np.int64)


CLASSIFICATION = Task(
    name="classification",
    outputs=("logits",),
    metric="accuracy",
    judge=judge,
    agreement=agreement,
    answers=answers,
    loss=loss,
    head="adaptrt.models.heads:SampleHead",
    ranks=(2,),
)
