"""What a network decided for each sample, put together from what its stages tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptrt.runtime.bundle.schema import Bundle
from adaptrt.runtime.errors import BackendError, InputError

Array = np.ndarray[Any, Any]
_GONE = -1


@dataclass(frozen=True)
class Decisions:
    """What was computed for each token, by the position that it had before any selection.

    Attributes:
        learners: int32 [B, gates, tokens], how many learners each gate ran; -1 where the token was gone
            or the sample had left.
        kept: bool [B, selections, tokens], which tokens each selection let stay; false too where the
            sample had left.
    """

    learners: Array
    kept: Array


class DecisionRecorder:
    """Follows the tokens of one call through the stages.

    Args:
        bundle: whose stages tell their decisions.
        batch: number of samples.
        tokens: that each has at first; None if the first decision is a gate of the first stage, which tells.
    """

    def __init__(self, bundle: Bundle, batch: int, tokens: int | None) -> None:
        names = [name for stage in bundle.stages for name in stage.decisions]
        self._gates = sum(name.startswith("learners_") for name in names)
        self._selections = sum(name.startswith("kept_") for name in names)
        self._rows = np.arange(batch)  # of the caller's samples, those still there
        self._decisions: Decisions | None = None
        self._index: Array = np.empty((batch, 0), np.int64)
        if tokens is not None:
            self._decisions = self._begin(tokens)

    @classmethod
    def of(cls, bundle: Bundle, sizes: Mapping[str, int], batch: str) -> DecisionRecorder:
        """For one call.

        Args:
            bundle: that is run.
            sizes: of every named axis of the inputs.
            batch: the axis that counts samples.

        Raises:
            InputError: the bundle tells no decisions.
        """
        if not any(stage.decisions for stage in bundle.stages):
            raise InputError(
                f"got decisions=True, but bundle {bundle.name!r} tells none; leave it out, or export a model "
                "with gates or token selection again"
            )
        tokens = bundle.tokens
        return cls(bundle, sizes[batch], sizes[tokens] if isinstance(tokens, str) else tokens)

    def record(self, told: Mapping[str, Array]) -> None:
        """Take in one stage's decisions, in the order in which they happened.

        Raises:
            BackendError: they contradict each other or what earlier ones said.
        """
        for name, array in told.items():
            kind, _, number = name.partition("_")
            if kind == "learners":
                self._record_learners(name, int(number), array)
            elif kind == "kept":
                self._record_kept(name, int(number), array, told[f"count_{number}"])

    def compact(self, rows: Array, width: int | None) -> None:
        """Go on with some of the samples, and with the first ``width`` tokens; None: with all."""
        self._rows = self._rows[rows]
        self._index = self._index[rows] if width is None else self._index[rows, :width]

    def result(self) -> Decisions:
        """Everything recorded."""
        return self._decisions or self._begin(0)

    def _begin(self, tokens: int) -> Decisions:
        batch = len(self._rows)
        # The first position of each token that is still there, -1 for padding: [samples there, width].
        self._index = np.tile(np.arange(tokens), (batch, 1))
        return Decisions(
            np.full((batch, self._gates, tokens), _GONE, np.int32),
            np.zeros((batch, self._selections, tokens), bool),
        )

    def _record_learners(self, name: str, gate: int, learners: Array) -> None:
        samples = len(self._rows)
        if self._decisions is None:
            self._decisions = self._begin(learners.size // max(samples, 1))
        there = self._index >= 0
        _expect(learners.shape == (there.size,), name, learners.shape, f"[{samples} samples * {there.shape[1]} tokens]")
        row, column = np.nonzero(there)
        learners = learners.reshape(there.shape)
        self._decisions.learners[self._rows[row], gate, self._index[row, column]] = learners[row, column]

    def _record_kept(self, name: str, selection: int, kept: Array, count: Array) -> None:
        samples, width = self._index.shape
        _expect(kept.ndim == 2 and len(kept) == samples, name, kept.shape, f"[{samples} samples, tokens]")
        fine = count.shape == (samples,) and bool((count >= 0).all() and (count <= kept.shape[1]).all())
        _expect(fine, name, kept.shape, "a count for each sample, not above the positions given")
        row, column = np.nonzero(np.arange(kept.shape[1]) < count[:, None])
        position = kept[row, column]
        fine = bool(((position >= 0) & (position < width)).all())
        first = self._index[row, position] if fine else position
        _expect(fine and bool((first >= 0).all()), name, kept.shape, f"positions of some of the {width} tokens there")
        self._index = np.full(kept.shape, _GONE, np.int64)
        self._index[row, column] = first
        if self._decisions is not None:
            self._decisions.kept[self._rows[row], selection, first] = True


def _expect(fine: bool, name: str, shape: Sequence[int], expected: str) -> None:
    if not fine:
        raise BackendError(
            f"decisions: {name!r} {list(shape)} does not follow from those before it, expected {expected}; "
            "run `adaptrt verify` on the bundle, or leave decisions out"
        )
