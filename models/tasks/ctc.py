"""Speech to text: ``logits`` ``[batch, frames, symbols]``, judged by the symbols that a greedy transcript has right.

Connectionist temporal classification (Graves et al., ICML 2006); symbol 0 is the blank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from adaptrt.models.tasks.task import Array, Judged, Outputs, Task, TaskError, finite_output, log_probabilities

if TYPE_CHECKING:
    from torch import Tensor

BLANK = 0
IGNORED = -100
"""Behind a transcript that is shorter than others."""


def judge(outputs: Outputs, targets: Array) -> Judged:
    """1 minus the edits per symbol, at least 0, and the negative log-likelihood per symbol in nats.

    Args:
        outputs: ``logits`` ``[n, frames, symbols]``.
        targets: int64 ``[n, length]``, numbers of symbols from 1 on, behind them ``IGNORED``.

    Raises:
        TaskError: The targets are no transcripts of such symbols, or the logits are not finite.
    """
    logits = outputs.get("logits", np.zeros(0))
    fits = targets.ndim == 2 and targets.dtype.kind in "iu" and logits.ndim == 3 and len(logits) == len(targets)
    if not fits or ((targets < 1) & (targets != IGNORED)).any() or targets.max(initial=0) >= logits.shape[2]:
        raise TaskError(
            f"got transcripts of type {targets.dtype} and shape {list(targets.shape)} for logits of shape "
            f"{list(logits.shape)}, expected logits [batch, frames, symbols] and numbers of symbols from 1 on, behind "
            f"them {IGNORED}; give data with the model's symbols"
        )
    probabilities = log_probabilities(finite_output(outputs, "logits"))
    quality, losses = [], []
    for transcript, wanted, frames in zip(_transcripts(logits), targets, probabilities, strict=True):
        symbols = wanted[wanted != IGNORED]
        edits = _edits(transcript, symbols)
        quality.append(max(0.0, 1.0 - edits / max(len(symbols), 1)))
        losses.append(-_log_likelihood(frames, symbols) / max(len(symbols), 1))
    return Judged(np.asarray(quality, np.float32), np.asarray(losses, np.float32))


def agreement(one: Outputs, other: Outputs) -> npt.NDArray[np.float32]:
    """1 minus the edits per symbol between the two transcripts, at least 0."""
    finite = np.isfinite(one["logits"]).all(axis=(1, 2))
    pairs = zip(_transcripts(one["logits"]), _transcripts(other["logits"]), strict=True)
    same = [max(0.0, 1.0 - _edits(a, b) / max(len(a), len(b), 1)) for a, b in pairs]
    return np.where(finite, same, 0.0).astype(np.float32)


def loss(outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Negative log-likelihood per symbol, the mean over the samples."""
    from torch.nn import functional

    logits = outputs["logits"]
    real = targets != IGNORED
    frames = logits.new_full((len(logits),), logits.shape[1]).long()
    return functional.ctc_loss(
        logits.log_softmax(2).transpose(0, 1), targets.clamp(min=0), frames, real.sum(1), BLANK, zero_infinity=True
    )


def _transcripts(logits: Array) -> list[npt.NDArray[np.int64]]:
    """Greedy: the likeliest symbol of each frame, repeats and blanks left out."""
    best = logits.argmax(axis=2)
    kept = (best != BLANK) & np.pad(best[:, 1:] != best[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return [row[keep] for row, keep in zip(best, kept, strict=True)]


def _edits(one: Array, other: Array) -> int:
    """Levenshtein distance."""
    row = np.arange(len(other) + 1)
    for count, symbol in enumerate(one, 1):
        cheapest = np.minimum(row[1:] + 1, row[:-1] + (other != symbol))
        row = np.concatenate([[count], cheapest])
        steps = np.arange(len(row))
        row = np.minimum.accumulate(row - steps) + steps  # symbols put in, one after the other
    return int(row[-1])


def _log_likelihood(frames: npt.NDArray[np.float64], symbols: Array) -> float:
    """Of a transcript, over all its alignments (equation 6 of the paper), at worst a large finite number."""
    states = np.full(2 * len(symbols) + 1, BLANK)
    states[1::2] = symbols
    # A state may be reached from two before where no repeated symbol would be lost.
    skip = np.zeros(len(states), bool)
    skip[3::2] = symbols[1:] != symbols[:-1]
    path = np.full(len(states), -np.inf)
    path[:2] = frames[0, states[:2]] if len(frames) else 0.0
    for frame in frames[1:]:
        one = np.concatenate([[-np.inf], path[:-1]])
        two = np.where(skip, np.concatenate([[-np.inf, -np.inf], path[:-2]])[: len(path)], -np.inf)
        path = np.logaddexp(np.logaddexp(path, one), two) + frame[states]
    return float(max(np.logaddexp.reduce(path[-2:]), -1e4))


def answers(outputs: Outputs, real: Array | None) -> Array:
    """The greedy transcripts, int64 ``[n, longest]``, ``IGNORED`` behind their end."""
    del real
    transcripts = _transcripts(finite_output(outputs, "logits"))
    longest = max([1, *map(len, transcripts)])
    return np.stack([np.pad(row, (0, longest - len(row)), constant_values=IGNORED) for row in transcripts])


CTC = Task(
    name="automatic-speech-recognition",
    outputs=("logits",),
    metric="symbol accuracy",
    judge=judge,
    agreement=agreement,
    answers=answers,
    loss=loss,
    head="adaptrt.models.heads:TokenHead",
    criteria=("max_softmax", "entropy", "certainty"),
    per_token=True,
    ranks=(3,),
)
