"""Where in a text an answer stands: ``start_logits`` and ``end_logits`` ``[batch, tokens]``, judged by the overlap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from adaptrt.models.tasks.task import Array, Judged, Outputs, Task, TaskError, finite_output, log_probabilities

if TYPE_CHECKING:
    from torch import Tensor

_START, _END = "start_logits", "end_logits"


def judge(outputs: Outputs, targets: Array) -> Judged:
    """F1 of the tokens of the answered span and the labelled one, and the mean cross-entropy of both ends in nats.

    The answer is the likeliest start with the likeliest end that is not before it.

    Args:
        outputs: ``start_logits`` and ``end_logits`` ``[n, tokens]``.
        targets: int64 ``[n, 2]``: first and last token of the span, the last not before the first.

    Raises:
        TaskError: The targets are no spans in such texts, or the logits are not finite.
    """
    start, end = outputs.get(_START, np.zeros(0)), outputs.get(_END, np.zeros(0))
    fits = targets.ndim == 2 and targets.shape[1:] == (2,) and targets.dtype.kind in "iu"
    fits = fits and start.ndim == 2 and start.shape == end.shape and len(start) == len(targets)
    if (
        not fits
        or targets.min(initial=0) < 0
        or (targets >= start.shape[1]).any()
        or (targets[:, 1] < targets[:, 0]).any()
    ):
        raise TaskError(
            f"got targets of type {targets.dtype} and shape {list(targets.shape)} for start and end logits of shapes "
            f"{list(start.shape)} and {list(end.shape)}, expected the first and the last token of a span for every "
            "sample; give data with such labels"
        )
    finite_output(outputs, _START), finite_output(outputs, _END)
    rows = np.arange(len(targets))
    losses = [-log_probabilities(part)[rows, targets[:, side]] for side, part in enumerate((start, end))]
    spans = _spans(start, end)
    common = np.minimum(spans[:, 1], targets[:, 1]) - np.maximum(spans[:, 0], targets[:, 0]) + 1
    sizes = (spans[:, 1] - spans[:, 0] + 1) + (targets[:, 1] - targets[:, 0] + 1)
    quality = 2 * np.maximum(common, 0) / sizes
    return Judged(quality.astype(np.float32), ((losses[0] + losses[1]) / 2).astype(np.float32))


def agreement(one: Outputs, other: Outputs) -> npt.NDArray[np.float32]:
    """Whether the span is the same."""
    finite = np.isfinite(one[_START]).all(axis=1) & np.isfinite(one[_END]).all(axis=1)
    same = (_spans(one[_START], one[_END]) == _spans(other[_START], other[_END])).all(axis=1)
    return np.asarray(finite & same, np.float32)


def loss(outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Cross-entropy of both ends, the mean over the samples."""
    from torch.nn import functional

    start = functional.cross_entropy(outputs[_START], targets[:, 0])
    return (start + functional.cross_entropy(outputs[_END], targets[:, 1])) / 2


def _spans(start: Array, end: Array) -> npt.NDArray[np.int64]:
    """Likeliest spans, ``[n, 2]``."""
    first = start.argmax(axis=1)
    behind = np.arange(end.shape[1]) >= first[:, None]
    return np.stack([first, np.where(behind, end, -np.inf).argmax(axis=1)], axis=1)


def answers(outputs: Outputs, real: Array | None) -> Array:
    """The likeliest spans, int64 ``[n, 2]``."""
    start, end = finite_output(outputs, _START), finite_output(outputs, _END)
    if real is not None:
        start, end = (np.where(real, part, -np.inf) for part in (start, end))
    return _spans(start, end)


QUESTION_ANSWERING = Task(
    name="question-answering",
    outputs=(_START, _END),
    metric="span F1",
    judge=judge,
    agreement=agreement,
    answers=answers,
    loss=loss,
    head="adaptrt.models.heads:SpanHead",
    criteria=("max_softmax", "certainty"),
    per_token=True,
    ranks=(2, 2),
)
