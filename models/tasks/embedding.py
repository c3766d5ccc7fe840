"""A vector for each sample: ``sentence_embedding`` ``[batch, width]``, judged by its cosine with the wanted one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from adaptrt.models.tasks.task import Array, Judged, Outputs, Task, TaskError, finite_output

if TYPE_CHECKING:
    from torch import Tensor

_OUTPUT = "sentence_embedding"


def _cosine(one: Array, other: Array) -> npt.NDArray[np.float64]:
    """Of each row, ``[n]``; 0 where a vector is zero."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
    return np.asarray((one * other).sum(axis=1) / np.maximum(lengths, 1e-12))


def judge(outputs: Outputs, targets: Array) -> Judged:
    """Cosine with the wanted vector, and 1 minus it as loss.

    Args:
        outputs: ``sentence_embedding`` ``[n, width]``.
        targets: Fractions, ``[n, width]``: what the dense network, or another teacher, gives.

    Raises:
        TaskError: The targets are no such vectors, or the embeddings are not finite.
    """
    embedding = outputs.get(_OUTPUT, np.zeros(0))
    if embedding.ndim != 2 or targets.shape != embedding.shape or targets.dtype.kind != "f":
        raise TaskError(
            f"got targets of type {targets.dtype} and shape {list(targets.shape)} for embeddings of shape "
            f"{list(embedding.shape)}, expected a vector of fractions as long as the embedding for every sample; give "
            "what a teacher gives on the same inputs"
        )
    cosine = _cosine(finite_output(outputs, _OUTPUT), targets)
    return Judged(cosine.astype(np.float32), (1 - cosine).astype(np.float32))


def agreement(one: Outputs, other: Outputs) -> npt.NDArray[np.float32]:
    """The cosine, at least 0."""
    vectors = one[_OUTPUT]
    finite = np.asarray(np.isfinite(vectors).all(axis=1))
    cosine = _cosine(np.where(finite[:, None], vectors, 0.0), other[_OUTPUT])
    return np.where(finite, cosine.clip(0.0, 1.0), 0.0).astype(np.float32)


def loss(outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """1 minus the cosine, the mean over the samples."""
    from torch.nn import functional

    return (1 - functional.cosine_similarity(outputs[_OUTPUT], targets, dim=1)).mean()


def answers(outputs: Outputs, real: Array | None) -> Array:
    """The vectors."""
    del real
    return finite_output(outputs, _OUTPUT)


EMBEDDING = Task(
    name="embedding",
    outputs=(_OUTPUT,),
    metric="cosine",
    judge=judge,
    agreement=agreement,
    answers=answers,
    loss=loss,
    head="adaptrt.models.heads:EmbeddingHead",
    criteria=("certainty",),  # a vector has no probability
    ranks=(2,),
)
