"""What a network's own code asks of the ops, noted while it runs: how many learners ran, which tokens were selected.

A network that is described by its user says nothing of what it decides: the calls say it. Whoever runs it opens a
record, and each call that decides leaves what it decided there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

from torch import Tensor

from adaptrt.models.tokens import Selection

_current: ContextVar[CallRecord | None] = ContextVar("adaptrt_call_record", default=None)


@dataclass(frozen=True)
class LearnerCall:
    """Learners that ran: ``k`` int32 ``[B * K]`` of at most ``learners``."""

    k: Tensor
    learners: int


@dataclass(frozen=True)
class SelectionCall:
    """A call that selected tokens.

    Attributes:
        selection: What was decided.
        tokens: How many each sample had before, K.
        limited: Whether it said how many stay at most.
    """

    selection: Selection
    tokens: int
    limited: bool


@dataclass
class CallRecord:
    """What the calls in a block decided, each kind in order.

    Attributes:
        dense: Whether calls select everything instead, and all learners run.
        limits: Of ``select_tokens``, the same in all graphs of a network: "any", or "none" where no call says how
            many stay at most.
        learners: One for each call of learners.
        selections: One for each selection.
    """

    dense: bool = False
    limits: str = "any"
    learners: list[LearnerCall] = field(default_factory=list)
    selections: list[SelectionCall] = field(default_factory=list)


@contextlib.contextmanager
def calls_recorded(record: CallRecord) -> Iterator[CallRecord]:
    """Let the calls in the block leave what they decide in ``record``."""
    token = _current.set(record)
    try:
        yield record
    finally:
        _current.reset(token)


def current_record() -> CallRecord | None:
    """The record that is open, if any."""
    return _current.get()
