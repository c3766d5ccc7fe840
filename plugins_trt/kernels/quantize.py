"""Activations as int8 by a scale that was fixed before, in registers: what QuantizeLinear computes.

Steps are even about 0, as weights' are, so that products of both are those of tensor cores and need no correction.
"""

from __future__ import annotations

import triton
import triton.language as tl

EVEN = tl.constexpr(12582912.0)  # 1.5 * 2**23: a float32 near it has no fraction, so adding it rounds, ties to even


@triton.jit
def quantize(values, per_unit):
    """The nearest steps, int8, of float32 values of which 1 has ``per_unit``; beyond -128..127 these.

    Of NaN nothing is promised.
    """
    steps = tl.minimum(tl.maximum(values.to(tl.float32) * per_unit, -128.0), 127.0)
    return ((steps + EVEN) - EVEN).to(tl.int8)
