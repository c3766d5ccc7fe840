"""Sizes that only the running graph knows, while torch traces it.

How many tokens a selection keeps is known when the graph runs. Tracing needs a size for it: each call that
makes such a size takes the next *stand-in* of the context that tracing opened, a tensor of one dynamic dimension
of which nothing but the length is used. ``export.graph.kept_tokens`` takes them out of the traced graph again.
How many are needed is counted in a run outside of tracing, under the same context.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

from torch import Tensor

_current: ContextVar[DynamicSizes | None] = ContextVar("adaptrt_dynamic_sizes", default=None)


class DynamicSizes:
    """The stand-ins of one trace, handed out in the order of the calls; without any, calls are only counted."""

    def __init__(self, stand_ins: Sequence[Tensor] = ()) -> None:
        self._stand_ins = list(stand_ins)
        self.calls = 0

    def next(self, caller: str) -> int:
        """Length of the next stand-in.

        Raises:
            RuntimeError: All have been handed out: the traced run makes more sizes than the counted one.
        """
        if self.calls >= len(self._stand_ins):
            raise RuntimeError(
                f"{caller} makes size {self.calls + 1} that depends on the data, expected {len(self._stand_ins)} such "
                "sizes in all; a network must make the same calls whatever its inputs"
            )
        stand_in = self._stand_ins[self.calls]
        self.calls += 1
        return stand_in.shape[0]


@contextlib.contextmanager
def dynamic_sizes(stand_ins: Sequence[Tensor] = ()) -> Iterator[DynamicSizes]:
    """Give stand-ins to the calls made in the block, or count those calls."""
    sizes = DynamicSizes(stand_ins)
    token = _current.set(sizes)
    try:
        yield sizes
    finally:
        _current.reset(token)


def size_in_graph(caller: str) -> int:
    """While tracing: the size that stands for the one that this call makes.

    Raises:
        RuntimeError: Nothing gives one, or there are no more.
    """
    sizes = _current.get()
    if sizes is None:
        raise RuntimeError(
            f"{caller} is traced outside of adaptrt's export, expected stand-ins for sizes that depend on the data; "
            "export with adaptrt.export, or trace within dynamic_sizes(...)"
        )
    return sizes.next(caller)


def count_size() -> None:
    """Outside of tracing: this call makes a size that depends on the data."""
    sizes = _current.get()
    if sizes is not None:
        sizes.calls += 1
