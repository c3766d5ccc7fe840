"""The answer for no samples, made without the graph: not every operator takes empty tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from adaptrt.runtime.bundle.schema import Bundle

Array = np.ndarray[Any, Any]


def outputs_of_empty_batch(bundle: Bundle, batch: str | None, sizes: Mapping[str, int]) -> dict[str, Array] | None:
    """Every output of the bundle with no samples in it.

    Args:
        bundle: what declares the outputs.
        batch: the axis that counts samples; None where the bundle has none.
        sizes: of every named axis, as the call's inputs have them.

    Returns:
        Arrays by name, or None where there are samples, or an output's shape does not follow from the
        inputs: the graph is run then.
    """
    if batch is None or sizes.get(batch) != 0:
        return None
    outputs = {}
    for spec in bundle.outputs:
        shape = [sizes.get(size, -1) if isinstance(size, str) else size for size in spec.shape]
        if batch not in spec.shape or -1 in shape:
            return None
        outputs[spec.name] = np.empty(shape, dtype=spec.dtype)
    return outputs
