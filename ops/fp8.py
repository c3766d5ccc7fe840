"""What fp8 means here: numbers of 8 bits with a sign, 4 bits of exponent and 3 of mantissa, E4M3, and a scale.

Source: FP8 Formats for Deep Learning, arXiv 2209.05433, table 1: the largest number is 448, there is no infinity, the
least normal number is 2**-6 and what lies below is evenly spaced. As with int8, a scale is fixed for all rows of
activations, so that a token's result does not depend on what else is in its batch; columns of weights have one each.
Products accumulate in float32.
"""

from __future__ import annotations

import numpy as np

from adaptrt.ops.int8 import LEAST_SCALE, Quantized
from adaptrt.ops.record import Array

MOST = np.float32(448)
"""Largest magnitude of E4M3."""
MANTISSA_BITS = 3
LEAST_EXPONENT = -6
"""Of numbers that have all bits of their mantissa; those below are multiples of ``LEAST_STEP``."""
LEAST_STEP = np.float32(2.0 ** (LEAST_EXPONENT - MANTISSA_BITS))


def round_e4m3(x: Array) -> Array:
    """The nearest numbers of E4M3, of two the one whose last bit is 0; beyond the largest one that. float32 ``[...]``.

    NaN stays NaN.
    """
    clipped = np.clip(x.astype(np.float32), -MOST, MOST)
    _, exponent = np.frexp(clipped)  # of a magnitude in 0.5..1, hence one more than that of the leading bit
    steps = np.ldexp(np.float32(1), np.maximum(exponent - 1, LEAST_EXPONENT) - MANTISSA_BITS)
    rounded: Array = (np.rint(clipped / steps) * steps).astype(np.float32)
    return rounded


def e4m3_scale(reach: float) -> np.float32:
    """What a tensor is divided by whose largest magnitude is ``reach``, so that it becomes the largest of E4M3."""
    return np.float32(max(np.float32(reach) / MOST, LEAST_SCALE))


def e4m3_columns(weight: Array) -> Quantized:
    """Weights ``[D, E]`` in E4M3, each column by its largest magnitude.

    Args:
        weight: Finite numbers.

    Returns:
        Numbers of E4M3 as float32 ``[D, E]``, and scales ``[E]``.

    Raises:
        ValueError: There are numbers that are not finite.
    """
    if not np.isfinite(weight).all():
        raise ValueError(f"got weights {list(weight.shape)} with NaN or infinite numbers, expected finite ones")
    scale = np.abs(weight.astype(np.float32)).max(0, initial=0.0) / MOST
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    return Quantized(round_e4m3(weight / scale), scale)


def e4m3_product(x: Array, weight: Array, scale: np.float32) -> Array:
    """The product of activations ``[T, D]`` by a fixed scale and weights ``[D, E]`` in E4M3, in float64."""
    columns = e4m3_columns(weight)
    rows = round_e4m3(x.astype(np.float32) / scale).astype(np.float64)
    product: Array = (rows @ columns.values.astype(np.float64)) * np.float64(scale) * columns.scale.astype(np.float64)
    return product
