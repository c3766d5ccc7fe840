"""A vector for each token: ``last_hidden_state`` ``[batch, tokens, width]``, judged by cosines with wanted ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from adaptrt.models.tasks.task import Array, Judged, Outputs, Task, TaskError, finite_output

if TYPE_CHECKING:
    from torch import Tensor

_OUTPUT = "last_hidden_state"


def _cosines(one: Array, other: Array) -> npt.NDArray[np.float64]:
    """Mean cosine over the tokens whose wanted vector is not zero, ``[n]``; 1 where there are none."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    wanted = (other != 0).any(axis=2)
    lengths = np.sqrt((one * one).sum(axis=2) * (other * other).sum(axis=2))
    cosines = (one * other).sum(axis=2) / np.maximum(lengths, 1e-12)
    count = wanted.sum(axis=1)
    return np.where(count > 0, (cosines * wanted).sum(axis=1) / np.maximum(count, 1), 1.0)


def judge(outputs: Outputs, targets: Array) -> Judged:
    """Mean cosine with the wanted vectors, and 1 minus it as loss.

    Args:
        outputs: ``last_hidden_state`` ``[n, tokens, width]``.
        targets: Fractions of the same shape, what the dense network or another teacher gives; a vector of zeros is
            not judged, as padding is.

    Raises:
        TaskError: The targets are no such vectors, or the hidden states are not finite.
    """
    hidden = outputs.get(_OUTPUT, np.zeros(0))
    if hidden.ndim != 3 or targets.shape != hidden.shape or targets.dtype.kind != "f":
        raise TaskError(
            f"got targets of type {targets.dtype} and shape {list(targets.shape)} for hidden states of shape "
            f"{list(hidden.shape)}, expected a vector of fractions for every token; give what a teacher gives on the "
            "same inputs"
        )
    cosine = _cosines(finite_output(outputs, _OUTPUT), targets)
    return Judged(cosine.astype(np.float32), (1 - cosine).astype(np.float32))


def agreement(one: Outputs, other: Outputs) -> npt.NDArray[np.float32]:
    """The mean cosine of the tokens, at least 0."""
    hidden = one[_OUTPUT]
    finite = np.asarray(np.isfinite(hidden).all(axis=(1, 2)))
    cosine = _cosines(np.where(finite[:, None, None], hidden, 0.0), other[_OUTPUT])
    return np.where(finite, cosine.clip(0.0, 1.0), 0.0).astype(np.float32)


def loss(outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """1 minus the cosine, the mean over the tokens whose wanted vector is not zero."""
    from torch.nn import functional

    wanted = (targets != 0).any(2)
    cosine = functional.cosine_similarity(outputs[_OUTPUT], targets, dim=2)
    return 1 - (cosine * wanted).sum() / wanted.sum().clamp(min=1)


def answers(outputs: Outputs, real: Array | None) -> Array:
    """The hidden states, zero at padding."""
    hidden = finite_output(outputs, _OUTPUT)
    return hidden if real is None else np.where(real[:, :, None], hidden, np.float32(0))


FEATURE_EXTRACTION = Task(
    name="feature-extraction",
    outputs=(_OUTPUT,),
    metric="token cosine",
    judge=judge,
    agreement=agreement,
    answers=answers,
    loss=loss,
    head="adaptrt.models.heads:FeatureHead",
    criteria=("certainty",),  # a vector has no probability
    per_token=True,
    ranks=(3,),
)
