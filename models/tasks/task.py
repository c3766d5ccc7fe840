"""What a network is for: its outputs, its loss, its metric, and what its targets must be.

Judging is numpy alone, so that a bundle is calibrated where there is no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from adaptrt import AdaptrtError

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]
"""A network's outputs by name; the first axis of each is the samples."""


class TaskError(AdaptrtError):
    """Targets that do not fit a network's outputs, or outputs that cannot be judged."""


class Judged(NamedTuple):
    """How good each of n samples is.

    Attributes:
        quality: The task's metric, float32 ``[n]``; higher is better.
        loss: What training descends, float32 ``[n]``, computed in float64.
    """

    quality: npt.NDArray[np.float32]
    loss: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """What a network is for.

    Attributes:
        name: As bundles and Optimum's TasksManager call it, without the modality.
        outputs: Names of the outputs as Optimum's exports name them, the judged one first.
        metric: What quality is.
        judge: ``judge(outputs, targets)`` gives quality and loss of each sample.

            Raises ``TaskError`` where the targets do not fit, or outputs are not finite.
        agreement: ``agreement(one, other)`` gives how far the answers of two runs on the same inputs are the same,
            float32 ``[n]`` in 0..1; answers made of NaN or infinity agree with none.
        loss: ``loss(outputs, targets)`` in torch, for training: the mean over the samples. None: not trained here.
        head: Class of the head that a ``Network`` has for it, as ``module:class``; see ``models/heads.py``. Empty: a
            network's own.
        criteria: Exit criteria that its head can compute.
        per_token: Whether every token needs an answer, so that none may be cut out.
        ranks: Dimensions of each output, the batch included; empty: any.
        answers: ``answers(outputs, real)`` makes targets of a dense network's outputs, where there are no labels;
            ``real`` bool ``[n, tokens]`` says which tokens are no padding, None: all. None: it cannot be done.
    """

    name: str
    outputs: tuple[str, ...]
    metric: str
    judge: Callable[[Outputs, Array], Judged]
    agreement: Callable[[Outputs, Outputs], npt.NDArray[np.float32]]
    loss: Callable[[Mapping[str, Tensor], Tensor], Tensor] | None = None
    head: str = ""
    criteria: tuple[str, ...] = ("max_softmax", "entropy", "certainty", "patience")
    per_token: bool = False
    ranks: tuple[int, ...] = ()
    answers: Callable[[Outputs, Array | None], Array] | None = None


def finite_output(outputs: Outputs, name: str) -> Array:
    """An output that is judged.

    Raises:
        TaskError: It is not there, or not finite.
    """
    if name not in outputs:
        raise TaskError(
            f"got the outputs {', '.join(outputs)}, expected {name} among them; calibrate with its own task"
        )
    array = outputs[name]
    if not np.isfinite(array).all():
        raise TaskError(f"got {name} that are NaN or infinite, expected finite ones; mend the model")
    return array


def log_probabilities(logits: Array) -> npt.NDArray[np.float64]:
    """Logarithms of the softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def closeness(one: Outputs, other: Outputs) -> npt.NDArray[np.float32]:
    """The agreement of outputs without a meaning that is known: 1 where all of them are within 1% of their size.

    Args:
        one: Outputs, ``[n, ...]``.
        other: Of the same names and shapes; what sizes are taken of.
    """
    same: npt.NDArray[np.bool_] | None = None
    for name, wanted in other.items():
        rows = wanted.reshape(len(wanted), -1).astype(np.float64)
        distance = np.abs(one[name].reshape(len(wanted), -1).astype(np.float64) - rows).max(axis=1, initial=0.0)
        near = distance <= 0.01 * np.abs(rows).max(axis=1, initial=1e-12)
        same = near if same is None else same & near
    if same is None:
        raise TaskError("got no outputs to compare, expected at least one")
    return same.astype(np.float32)
