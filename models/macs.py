"""Counting multiply-accumulates, layer by layer.

What is counted: the products of linear layers, learners, gates and attention. What is not, in any
model here or in the papers' figures: normalisation, activations, softmax, additions, the ordering of
tokens by k.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """Multiply-accumulates of one layer for one input.

    Attributes:
        name: Where it is in the model.
        dense: What the layer costs in the dense model.
        gate: What its gate costs, whatever it decides.
        per_run: What one learner run costs for one token; 0 for a layer that is not adaptive.
    """

    name: str
    dense: int
    gate: int = 0
    per_run: int = 0

    @property
    def fixed(self) -> int:
        """What the layer costs when no learner runs."""
        return self.gate if self.per_run else self.dense
