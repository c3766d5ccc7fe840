"""The activations of learners, one row each: all that any room must know of one is read from its row.

A new activation is a new row here and its function in ``plugins_trt/kernels/activations.py``. Its op, and the gated
op if the row names one, then have records, bodies, torch modules, kernels and plugins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptrt.ops.record import Array

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(z: Array) -> Array:
    """In a form that does not overflow."""
    return 0.5 * (1 + np.tanh(0.5 * z))


@dataclass(frozen=True)
class Activation:
    """One activation.

    Attributes:
        name: As modules take it, and as the kernels' constant ``ACTIVATION``.
        mlp: Name of the op whose learners have it.
        formula: For summaries, of ``z``.
        reference: In numpy, on float64.
        body: ONNX text that computes ``{y}`` from ``{z}``; ``{n}`` makes names between them unique.
        torch: ``torch(library, z)`` computes it with the library that it is given; ``ops`` imports none.
        glu: Name of the op whose learners are gated by it; empty where there is none.
        constants: ONNX text that stands once before all uses of ``body``; may use the op's inputs.
    """

    name: str
    mlp: str
    formula: str
    reference: Callable[[Array], Array]
    body: str
    torch: Callable[[Any, Any], Any]
    glu: str = ""
    constants: str = ""

    def __reduce__(self) -> tuple[Callable[[str], Activation], tuple[str]]:
        """Packed for another process by its name: the functions of a row cannot be packed."""
        return activation_named, (self.name,)


GELU = Activation(
    name="gelu",
    mlp="ConditionalMLP",
    glu="ConditionalGeGLU",
    formula="gelu({z})",
    reference=lambda z: 0.5 * z * (1 + _erf(z / math.sqrt(2))),
    body="  {y} = Gelu ({z})",
    torch=lambda library, z: library.nn.functional.gelu(z),
)
"""The exact GELU, by the error function: arXiv 1606.08415, section 2."""

GELU_TANH = Activation(
    name="gelu_tanh",
    mlp="ConditionalMLPGeluTanh",
    glu="ConditionalGeGLUTanh",
    formula="gelu_tanh({z})",
    reference=lambda z: 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    body='  {y} = Gelu <approximate = "tanh"> ({z})',
    torch=lambda library, z: library.nn.functional.gelu(z, approximate="tanh"),
)
"""The GELU by a hyperbolic tangent: arXiv 1606.08415, section 2, first approximation. GPT-2, Gemma."""

QUICK_GELU = Activation(
    name="quick_gelu",
    mlp="ConditionalMLPQuickGelu",
    formula="{z} sigmoid(1.702 {z})",
    reference=lambda z: z * _sigmoid(1.702 * z),
    constants="""
  slope = Constant <value = float {1.702}> ()
  slope_x = CastLike (slope, x)
""",
    body="""  steeper{n} = Mul ({z}, slope_x)
  passed{n} = Sigmoid (steeper{n})
  {y} = Mul ({z}, passed{n})""",
    torch=lambda library, z: z * library.sigmoid(1.702 * z),
)
"""The GELU by a logistic function: arXiv 1606.08415, section 2, second approximation. CLIP."""

RELU = Activation(
    name="relu",
    mlp="ConditionalMLPRelu",
    formula="max({z}, 0)",
    reference=lambda z: np.maximum(z, 0),
    body="  {y} = Relu ({z})",
    torch=lambda library, z: library.relu(z),
)

SILU = Activation(
    name="silu",
    mlp="ConditionalMLPSilu",
    glu="ConditionalSwiGLU",
    formula="{z} sigmoid({z})",
    reference=lambda z: z * _sigmoid(z),
    body="""  passed{n} = Sigmoid ({z})
  {y} = Mul ({z}, passed{n})""",
    torch=lambda library, z: library.nn.functional.silu(z),
)
"""Swish with a slope of 1: arXiv 1702.03118; as a gate arXiv 2002.05202."""

ACTIVATIONS: dict[str, Activation] = {row.name: row for row in (GELU, GELU_TANH, QUICK_GELU, RELU, SILU)}
"""Every activation, by name."""


def activation_named(name: str, *, gated: bool = False) -> Activation:
    """Give a row of the table.

    Args:
        name: Of the activation.
        gated: Whether there must be an op that is gated by it.

    Raises:
        ValueError: There is none.
    """
    known = [row.name for row in ACTIVATIONS.values() if row.glu or not gated]
    if name not in known:
        kind = "gate" if gated else "activation"
        raise ValueError(f"got {kind} {name!r}, expected one of {', '.join(known)}")
    return ACTIVATIONS[name]
