"""Checks what an engine gave against what the bundle declares, cheaply enough for every call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adaptrt.runtime.bundle_schema import TensorSpec
from adaptrt.runtime.errors import OutputError

Array = np.ndarray[Any, Any]


class OutputContract:
    """The outputs of a bundle; immutable.

    An engine that answers with something of another size has not answered, whatever it says itself.
    """

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._expected = tuple(
            (
                spec.name,
                np.dtype(spec.dtype),
                len(spec.shape),
                tuple((axis, size) for axis, size in enumerate(spec.shape) if isinstance(size, int)),
                tuple((axis, size) for axis, size in enumerate(spec.shape) if isinstance(size, str)),
            )
            for spec in specs
        )

    def check(self, outputs: Mapping[str, Array], sizes: Mapping[str, int]) -> None:
        """Check every array.

        Args:
            outputs: by name.
            sizes: of every named axis of the inputs.

        Raises:
            OutputError: one is missing, or has another dtype, number of axes or size than declared.
        """
        for name, dtype, rank, fixed, named in self._expected:
            array = outputs.get(name)
            if array is None or array.dtype != dtype or len(shape := array.shape) != rank:
                raise self._wrong(name, array, sizes)
            for axis, size in fixed:
                if shape[axis] != size:
                    raise self._wrong(name, array, sizes)
            for axis, counted in named:
                if shape[axis] != sizes.get(counted, shape[axis]):
                    raise self._wrong(name, array, sizes)

    def _wrong(self, name: str, array: Array | None, sizes: Mapping[str, int]) -> OutputError:
        spec = self._specs[name]
        wanted = [sizes.get(size, size) if isinstance(size, str) else size for size in spec.shape]
        got = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
        return OutputError(
            f"output {name!r} came out as {got}, expected {spec.dtype} [{', '.join(map(str, wanted))}]; "
            "call it again, and if it stays so run `adaptrt verify` on the bundle"
        )
