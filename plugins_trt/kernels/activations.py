"""The activations of ``ops/activations.py`` for Triton, on float32 values in registers."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gelu(z):
    """The exact GELU."""
    return 0.5 * z * (1.0 + tl.math.erf(z * 0.7071067811865476))


@triton.jit
def gelu_tanh(z):
    """The GELU by a hyperbolic tangent, by way of ``(1 + tanh(u)) / 2 = sigmoid(2 u)``."""
    return z * tl.sigmoid(1.5957691216057308 * (z + 0.044715 * z * z * z))


@triton.jit
def quick_gelu(z):
    """The GELU by a logistic function."""
    return z * tl.sigmoid(1.702 * z)


@triton.jit
def relu(z):
    """The positive part; NaN stays."""
    return tl.where(z < 0, 0.0, z)


@triton.jit
def silu(z):
    """Swish with a slope of 1."""
    return z * tl.sigmoid(z)


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """The activation of that name in the table."""
    if ACTIVATION == "gelu":
        result = gelu(z)
    elif ACTIVATION == "gelu_tanh":
        result = gelu_tanh(z)
    elif ACTIVATION == "quick_gelu":
        result = quick_gelu(z)
    elif ACTIVATION == "relu":
        result = relu(z)
    else:
        tl.static_assert(ACTIVATION == "silu", "an activation of ops/activations.py that is not in this file")
        result = silu(z)
    return result
