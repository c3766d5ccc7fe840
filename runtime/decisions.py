"""What a network decided for each sample, put together from what its stages tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptrt.runtime.bundle.schema import Bundle, DecisionSpec
from adaptrt.runtime.errors import BackendError, InputError

Array = np.ndarray[Any, Any]
_GONE = -1


@dataclass(frozen=True)
class TokenDecisions:
    """What was decided about one set of tokens, by the position that a token had before any selection.

    Attributes:
        learners: int32 [B, gates, tokens], how many learners each gate ran; -1 where the token was gone
            or the sample had left.
        kept: bool [B, selections, tokens], which tokens each selection selected; false too where the
            sample had left.
    """

    learners: Array
    kept: Array


@dataclass(frozen=True)
class Decisions:
    """What was decided in one call.

    Attributes:
        sets: by the name of each set of tokens that decisions were about; gates and selections in their order.
    """

    sets: dict[str, TokenDecisions]

    @property
    def learners(self) -> Array:
        """Those of the only set of tokens; see ``TokenDecisions``."""
        return self._only().learners

    @property
    def kept(self) -> Array:
        """Those of the only set of tokens; see ``TokenDecisions``."""
        return self._only().kept

    def _only(self) -> TokenDecisions:
        if len(self.sets) != 1:
            names = ", ".join(map(repr, self.sets))
            raise InputError(
                f"got decisions about {len(self.sets)} sets of tokens, expected one; look in sets: {names}"
            )
        return next(iter(self.sets.values()))


class DecisionRecorder:
    """Follows the tokens of one call through the stages.

    Args:
        bundle: whose stages tell their decisions.
        batch: number of samples.
        tokens: that each has at first, by the set; None where the first decision is of a gate of the first stage,
            which tells.
    """

    def __init__(self, bundle: Bundle, batch: int, tokens: Mapping[str, int | None]) -> None:
        self._rows = np.arange(batch)  # of the caller's samples, those still there
        decisions = [decision for stage in bundle.stages for decision in stage.decisions]
        self._sets = {
            name: _TokenSet([one for one in decisions if one.of == name], batch, tokens.get(name))
            for name in dict.fromkeys(decision.of for decision in decisions)
        }
        self._masks = {spec.valid: name for name, spec in bundle.tokens.items()}

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
        given = {name: spec.size for name, spec in bundle.tokens.items()}
        tokens = {name: sizes[size] if isinstance(size, str) else size for name, size in given.items()}
        return cls(bundle, sizes[batch], tokens)

    def record(self, decisions: Sequence[DecisionSpec], arrays: Mapping[str, Array]) -> None:
        """Take in one stage's decisions, in the order in which they happened.

        Args:
            decisions: which they are.
            arrays: the outputs that they name.

        Raises:
            BackendError: they contradict each other or what earlier ones said.
        """
        for decision in decisions:
            outputs = {role: arrays[name] for role, name in decision.outputs.items()}
            if decision.kind == "learners":
                self._sets[decision.of].record_learners(decision, outputs["runs"], self._rows)
            else:
                self._sets[decision.of].record_selection(decision, outputs["index"], outputs["count"], self._rows)

    def compact(self, rows: Array, widths: Mapping[str, int]) -> None:
        """Go on with some of the samples, and with the first ``widths`` tokens of those sets whose mask is named."""
        self._rows = self._rows[rows]
        named = {self._masks[mask]: width for mask, width in widths.items()}
        for name, tokens in self._sets.items():
            tokens.compact(rows, named.get(name))

    def result(self) -> Decisions:
        """Everything recorded."""
        return Decisions({name: tokens.result() for name, tokens in self._sets.items()})


class _TokenSet:
    """One set of tokens, and what was decided about it.

    Args:
        decisions: about it, of all stages.
        batch: number of samples.
        tokens: that each has; None: the first decision tells.
    """

    def __init__(self, decisions: Sequence[DecisionSpec], batch: int, tokens: int | None) -> None:
        self._batch = batch
        self._place = {
            (kind, one.number): place
            for kind in ("learners", "selection")
            for place, one in enumerate(one for one in decisions if one.kind == kind)
        }
        self._record: TokenDecisions | None = None
        # The first position of each token that is still there, -1 for padding: [samples there, width].
        self._index: Array = np.empty((batch, 0), np.int64)
        if tokens is not None:
            self._record = self._begin(tokens)

    def result(self) -> TokenDecisions:
        return self._record or self._begin(0)

    def compact(self, rows: Array, width: int | None) -> None:
        self._index = self._index[rows] if width is None else self._index[rows, :width]

    def record_learners(self, decision: DecisionSpec, learners: Array, rows: Array) -> None:
        name, samples = decision.outputs["runs"], len(rows)
        if self._record is None:
            self._record = self._begin(learners.size // max(samples, 1))
        there = self._index >= 0
        expected = (there.size,) if decision.flat else there.shape
        between = " * " if decision.flat else ", "
        wanted = f"[{samples} samples{between}{there.shape[1]} tokens]"
        _expect(learners.shape == expected, name, learners.shape, wanted)
        row, column = np.nonzero(there)
        place = self._place["learners", decision.number]
        self._record.learners[rows[row], place, self._index[row, column]] = learners.reshape(there.shape)[row, column]

    def record_selection(self, decision: DecisionSpec, index: Array, count: Array, rows: Array) -> None:
        name, (samples, width) = decision.outputs["index"], self._index.shape
        _expect(index.ndim == 2 and len(index) == samples, name, index.shape, f"[{samples} samples, tokens]")
        fine = count.shape == (samples,) and bool((count >= 0).all() and (count <= index.shape[1]).all())
        _expect(fine, name, index.shape, "a count for each sample, not above the positions given")
        row, column = np.nonzero(np.arange(index.shape[1]) < count[:, None])
        position = index[row, column]
        fine = bool(((position >= 0) & (position < width)).all())
        first = self._index[row, position] if fine else position
        _expect(fine and bool((first >= 0).all()), name, index.shape, f"positions of some of the {width} tokens there")
        if decision.nested:
            self._index = np.full(index.shape, _GONE, np.int64)
            self._index[row, column] = first
        if self._record is not None:
            self._record.kept[rows[row], self._place["selection", decision.number], first] = True

    def _begin(self, tokens: int) -> TokenDecisions:
        numbers = [sum(kind == which for which, _ in self._place) for kind in ("learners", "selection")]
        self._index = np.tile(np.arange(tokens), (self._batch, 1))
        return TokenDecisions(
            np.full((self._batch, numbers[0], tokens), _GONE, np.int32),
            np.zeros((self._batch, numbers[1], tokens), bool),
        )


def _expect(fine: bool, name: str, shape: Sequence[int], expected: str) -> None:
    if not fine:
        raise BackendError(
            f"decisions: {name!r} {list(shape)} does not follow from those before it, expected {expected}; "
            "run `adaptrt verify` on the bundle, or leave decisions out"
        )
