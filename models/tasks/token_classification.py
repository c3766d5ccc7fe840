"""One class for each token: ``logits`` ``[batch, tokens, classes]``, judged by the share of tokens that are right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from adaptrt.models.tasks.task import Array, Judged, Outputs, Task, TaskError, finite_output, log_probabilities

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""Target of a token that is not judged, as torch and transformers have it: padding, and later parts of a word."""


def judge(outputs: Outputs, targets: Array) -> Judged:
    """Share of the judged tokens whose likeliest class is their label, and their mean cross-entropy in nats.

    A sample without a judged token counts as right, with a loss of 0.

    Args:
        outputs: ``logits`` ``[n, tokens, classes]``.
        targets: int64 ``[n, tokens]``, from 0 to classes - 1, or ``IGNORED``.

    Raises:
        TaskError: Labels are missing or have no class, or the logits are not finite.
    """
    logits = outputs.get("logits", np.zeros(0))
    fits = targets.ndim == 2 and targets.dtype.kind in "iu" and logits.ndim == 3 and logits.shape[:2] == targets.shape
    judged = targets != IGNORED
    if not fits or ((targets < 0) & judged).any() or targets.max(initial=0) >= logits.shape[2]:
        raise TaskError(
            f"got labels of type {targets.dtype}, shape {list(targets.shape)} and up to {targets.max(initial=0)} for "
            f"logits of shape {list(logits.shape)}, expected logits [batch, tokens, classes] and for every token the "
            f"number of a class, or {IGNORED}; give data with the model's labels"
        )
    finite_output(outputs, "logits")
    rows = np.where(judged, targets, 0)
    losses = -np.take_along_axis(log_probabilities(logits), rows[:, :, None], axis=2)[:, :, 0]
    count = np.maximum(judged.sum(axis=1), 1)
    right = ((logits.argmax(axis=2) == targets) & judged).sum(axis=1) / count
    quality = np.where(judged.any(axis=1), right, 1.0)
    return Judged(quality.astype(np.float32), ((losses * judged).sum(axis=1) / count).astype(np.float32))


def agreement(one: Outputs, other: Outputs) -> npt.NDArray[np.float32]:
    """Share of the tokens whose likeliest class is the same."""
    logits = one["logits"]
    same = np.isfinite(logits).all(axis=2) & (logits.argmax(axis=2) == other["logits"].argmax(axis=2))
    return np.asarray(same.mean(axis=1), np.float32)


def loss(outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Cross-entropy, the mean over the tokens that are judged."""
    from torch.nn import functional

    return functional.cross_entropy(outputs["logits"].flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def answers(outputs: Outputs, real: Array | None) -> Array:
    """The likeliest class of each token, int64 ``[n, tokens]``; ``IGNORED`` at padding."""
    likeliest = finite_output(outputs, "logits").argmax(axis=2).astype(np.int64)
    return likeliest if real is None else np.where(real, likeliest, IGNORED)


TOKEN_CLASSIFICATION = Task(
    name="token-classification",
    outputs=("logits",),
    metric="token accuracy",
    judge=judge,
    agreement=agreement,
    answers=answers,
    loss=loss,
    head="adaptrt.models.heads:TokenHead",
    criteria=("max_softmax", "entropy", "certainty"),
    per_token=True,
    ranks=(3,),
)
