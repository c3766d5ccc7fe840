"""What int8 means here: activations as bytes, columns of weights as int8 with a scale each.

Activations have a scale for each row, which comes from the row alone, or one that was fixed before for all rows: in
both a token's result does not depend on what else is in its batch, as it does with ``DynamicQuantizeLinear``, which
takes one scale for a whole tensor. Bytes are unsigned; those of rows have 128 for zero, fixed ones what fits their
range, which is rarely even about 0 (GELU gives no less than -0.17). Products of unsigned with signed bytes are those
that CPUs have instructions for. On x86 without VNNI such an instruction adds two products in 16 bits and saturates;
columns then use a part of the range (``REDUCED``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from adaptrt.ops.record import Array

ZERO_POINT = 128
"""The byte that stands for zero in activations."""
FULL, REDUCED = 127, 63
"""Largest magnitude of a weight: of all CPUs whose products are exact, and of those that add pairs in 16 bits."""
LEAST_SCALE = np.float32(1e-12)
"""Of a row: one of zeros has no scale of its own."""
_STEPS = np.float32(1 / 127)


class Quantized(NamedTuple):
    """Integers and what one step of each is worth.

    Attributes:
        values: uint8 rows ``[..., D]`` or int8 columns ``[D, E]``.
        scale: float32, ``[..., 1]`` of rows, ``[E]`` of columns.
    """

    values: Array
    scale: Array


def quantize_rows(x: Array) -> Quantized:
    """Quantise activations ``[..., D]``, each row by its largest magnitude; in float32, as graphs do."""
    x = x.astype(np.float32)
    scale = np.maximum(np.abs(x).max(-1, keepdims=True, initial=0.0) * _STEPS, LEAST_SCALE)
    return Quantized(np.clip(np.rint(x / scale) + ZERO_POINT, 0, 255).astype(np.uint8), scale)


class ByteScale(NamedTuple):
    """What bytes of a whole tensor stand for, fixed before it is seen: ``scale * (byte - zero)``."""

    scale: np.float32
    zero: np.uint8


def byte_scale(low: float, high: float) -> ByteScale:
    """The bytes of numbers between two, 0 among them, which one of the bytes stands for exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.maximum(np.float32((high - low) / 255), LEAST_SCALE)
    return ByteScale(scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255)))


def quantize_fixed(x: Array, fixed: ByteScale) -> Array:
    """Quantise activations ``[..., D]`` to uint8 by a fixed scale; what is out of its range becomes the nearest."""
    values = np.rint(x.astype(np.float32) / fixed.scale) + np.float32(fixed.zero)
    clipped: Array = np.clip(values, 0, 255).astype(np.uint8)
    return clipped


def even_steps(x: Array, scale: np.float32) -> Array:
    """Activations ``[..., D]`` as int8 by a fixed scale that is even about 0, as GPUs take them: QuantizeLinear's."""
    clipped: Array = np.clip(np.rint(x.astype(np.float32) / scale), -128, 127).astype(np.int8)
    return clipped


def quantize_columns(weight: Array, largest: int) -> Quantized:
    """Quantise weights ``[D, E]``, each column by its largest magnitude.

    Args:
        weight: Finite numbers.
        largest: ``FULL`` or ``REDUCED``.

    Raises:
        ValueError: There are numbers that are not finite.
    """
    if not np.isfinite(weight).all():
        raise ValueError(f"got weights {list(weight.shape)} with NaN or infinite numbers, expected finite ones")
    scale = np.abs(weight.astype(np.float32)).max(0, initial=0.0) / np.float32(largest)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    return Quantized(np.clip(np.rint(weight / scale), -largest, largest).astype(np.int8), scale)


def int8_product(x: Array, weight: Array, largest: int = FULL) -> Array:
    """The product of activations ``[T, D]`` and weights ``[D, E]`` in int8, in float64."""
    rows, columns = quantize_rows(x), quantize_columns(weight, largest)
    integers = (rows.values.astype(np.int64) - ZERO_POINT) @ columns.values.astype(np.int64)
    product: Array = integers * rows.scale.astype(np.float64) * columns.scale.astype(np.float64)
    return product


def fixed_product(x: Array, weight: Array, fixed: ByteScale, largest: int = FULL) -> Array:
    """The product of activations ``[T, D]`` by a fixed scale and weights ``[D, E]`` in int8, in float64."""
    columns = quantize_columns(weight, largest)
    integers = (quantize_fixed(x, fixed).astype(np.int64) - int(fixed.zero)) @ columns.values.astype(np.int64)
    product: Array = integers * np.float64(fixed.scale) * columns.scale.astype(np.float64)
    return product


def saturating_product(values: Array, weight: Array) -> Array:
    """What x86 without VNNI gives for bytes ``[T, D]`` and int8 ``[D, E]``: pairs added in 16 bits (``vpmaddubsw``)."""
    depth = values.shape[1] + values.shape[1] % 2
    bytes_, weights = np.zeros((len(values), depth), np.int64), np.zeros((depth, weight.shape[1]), np.int64)
    bytes_[:, : values.shape[1]], weights[: len(weight)] = values, weight
    products = bytes_[:, :, None] * weights
    pairs = np.clip(products[:, ::2] + products[:, 1::2], -(2**15), 2**15 - 1)
    total: Array = pairs.sum(1) - ZERO_POINT * weights.sum(0)
    return total
