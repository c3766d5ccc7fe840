"""What a network gives when nobody leaves early."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from adaptrt.models.families.gate import Decision
from adaptrt.models.staged_network import StageOutput
from adaptrt.models.tokens import Selection


class NetworkOutput(NamedTuple):
    """Output of a network when nobody leaves early.

    Attributes:
        outputs: The task's, ``[B, ...]`` each.
        macs_fraction: float32 ``[B]``: multiply-accumulates as a share of the dense model's.
        decisions: One per gate, in the order of ``Network.gates()``; each over B * K tokens.
        selections: One per token selection.
        stages: What each stage gave, the last one's outputs and share being those above.
    """

    outputs: dict[str, Tensor]
    macs_fraction: Tensor
    decisions: list[Decision]
    selections: list[Selection]
    stages: list[StageOutput]

    @property
    def logits(self) -> Tensor:
        """The output of that name, which classifiers have."""
        return self.outputs["logits"]
