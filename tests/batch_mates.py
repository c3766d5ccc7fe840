"""How far a sample's answers depend on what else is in its batch, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptrt.models.data.padding import InputShape

Array = npt.NDArray[Any]
Inputs = dict[str, Array]

MOST = 1e-6
"""Difference of a sample's answer alone from that in a batch, relative to the answer's largest magnitude."""


def random_inputs(specs: Sequence[InputShape], samples: int, length: int = 7) -> Inputs:
    """Inputs by name: pictures of noise, or texts of 1 to ``length`` tokens, the first of them that long."""
    generator, inputs = np.random.default_rng(0), {}
    real = generator.integers(1, length + 1, (samples, 1))
    real[:1] = length
    for spec in specs:
        shape = [size if isinstance(size, int) else {"batch": samples}.get(size, length) for size in spec.shape]
        if "mask" in spec.name:
            inputs[spec.name] = (np.arange(length) < real).astype(spec.dtype)
        elif spec.dtype == "float32":
            inputs[spec.name] = generator.random(shape, dtype=np.float32)
        else:
            inputs[spec.name] = generator.integers(0, 9, shape).astype(spec.dtype)
    return inputs


def alone(inputs: Mapping[str, Array], sample: int) -> Inputs:
    """One sample by itself; a text without the padding that longer ones beside it need."""
    mask = next((array for name, array in inputs.items() if "mask" in name), None)
    end = None if mask is None else int(mask[sample].sum())
    rows = {name: array[sample : sample + 1] for name, array in inputs.items()}
    return rows if end is None else {name: np.ascontiguousarray(array[:, :end]) for name, array in rows.items()}


def dependence(run: Callable[[Inputs], Array], inputs: Inputs) -> float:
    """Largest difference of a sample's answer alone from that among all, relative to its largest magnitude.

    Args:
        run: Gives an answer for each sample, float ``[B, ...]``.
        inputs: Arrays ``[B, ...]`` by name, at least two samples.
    """
    together = run(inputs)
    assert len(together) > 1 and np.isfinite(together).all() and np.ptp(together) > 0
    differences = []
    for sample, beside in enumerate(together):
        (by_itself,) = run(alone(inputs, sample))
        differences.append(float(np.abs(by_itself - beside).max() / np.abs(beside).max()))
    return max(differences)
