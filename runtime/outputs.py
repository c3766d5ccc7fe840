"""Checks what an engine gave against what the bundle declares, cheaply enough for every call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adaptrt.runtime.bundle.curve_validation import MAX_FRACTION
from adaptrt.runtime.bundle.schema import MACS_OUTPUT, TensorSpec
from adaptrt.runtime.errors import OutputError
from adaptrt.runtime.inputs import FEW

Array = np.ndarray[Any, Any]

_ANY = -1


class OutputContract:
    """The outputs of a bundle; immutable.

    An engine that answers with something of another size has not answered, whatever it says itself.
    """

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in specs}
        self._latest: tuple[dict[str, int], tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]] = ({}, ())

    def check(self, outputs: Mapping[str, Array], sizes: dict[str, int]) -> None:
        """Check every array.

        Args:
            outputs: by name.
            sizes: of every named axis of the inputs.

        Raises:
            OutputError: one is missing, or has another dtype, number of axes or size than declared.
        """
        known, expected = self._latest  # calls of the same sizes follow each other
        if known != sizes or not expected:
            expected = tuple(
                (name, self._dtypes[name], tuple(self._size(size, sizes) for size in spec.shape))
                for name, spec in self._specs.items()
            )
            self._latest = dict(sizes), expected
        for name, dtype, shape in expected:
            array = outputs.get(name)
            if array is None or array.dtype != dtype:
                raise self._wrong(name, array, sizes)
            if array.shape != shape and not _fits(array.shape, shape):
                raise self._wrong(name, array, sizes)
        self._check_share(outputs[MACS_OUTPUT])

    @staticmethod
    def _check_share(share: Array) -> None:
        """Refuse a share of work that is none: the answer beside it came from numbers that overflowed."""
        if share.size == 1 and 0 <= share.item() <= MAX_FRACTION:
            return
        few = share.tolist() if share.size <= FEW else [share.min(), share.max()]  # NaN shows in both
        for value in few:
            if not 0 <= value <= MAX_FRACTION:
                raise OutputError(
                    f"output {MACS_OUTPUT!r}: got {value}, expected 0 to {MAX_FRACTION:g}; the inputs are too large "
                    "for the network to compute with, or the engine is broken: feed numbers like those of its training"
                )

    @staticmethod
    def _size(size: int | str, sizes: Mapping[str, int]) -> int:
        """A size as a number; of an axis that no input has it is not known."""
        return size if isinstance(size, int) else sizes.get(size, _ANY)

    def _wrong(self, name: str, array: Array | None, sizes: Mapping[str, int]) -> OutputError:
        spec = self._specs[name]
        wanted = [sizes.get(size, size) if isinstance(size, str) else size for size in spec.shape]
        got = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
        return OutputError(
            f"output {name!r} came out as {got}, expected {spec.dtype} [{', '.join(map(str, wanted))}]; "
            "call it again, and if it stays so run `adaptrt verify` on the bundle"
        )


def _fits(got: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(got) == len(expected) and all(want in (size, _ANY) for size, want in zip(got, expected, strict=True))
