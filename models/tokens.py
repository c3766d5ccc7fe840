"""The tokens of a batch on their way through the blocks, and what attention and selections say of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

TOKENS = "tokens"
"""The set of tokens of our own networks."""


class Dropped(NamedTuple):
    """What the tokens that selections dropped still count in a sample's mean.

    Attributes:
        total: Sum of what stands for each of them, ``[B, D]``.
        number: How many they are, float32 ``[B]``; in training with gradients of the decisions.
    """

    total: Tensor
    number: Tensor

    def added_to(self, total: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Sum and number of the tokens that are still there, with those dropped: ``[B, D]`` and ``[B, 1]``."""
        return total + self.total.to(total.dtype), count + self.number[:, None].to(count.dtype)


class Tokens(NamedTuple):
    """The tokens of a batch on their way through the blocks. B samples of K tokens, padded to the largest.

    Attributes:
        x: ``[B * K, D]``.
        per_sample: K.
        valid: bool ``[B, K]``, false for padding; None where there is none.
        position: int32 ``[B, K]``, where each token was before any pruning; None where all are in place.
        size: float32 ``[B, K]``, how many original tokens were merged into each; None without merging.
        presence: In training, where nothing is cut out, 1 for tokens that would be there and 0 for
            others, ``[B, K]``, with the gradient of the soft decisions; None where all are.
        dropped: What stands for tokens that are gone; None: nothing does.
    """

    x: Tensor
    per_sample: int
    valid: Tensor | None = None
    position: Tensor | None = None
    size: Tensor | None = None
    presence: Tensor | None = None
    dropped: Dropped | None = None

    def counts(self) -> Tensor:
        """Tokens of each sample, float32 ``[B]``; needs ``valid``."""
        assert self.valid is not None
        return self.valid.sum(1, dtype=torch.int32).to(torch.float32)

    def grouped(self) -> Tensor:
        """``[B, K, D]``."""
        return self.x.reshape(-1, self.per_sample, self.x.shape[1])


@dataclass(frozen=True)
class Selection:
    """What a selector decided for B samples of K tokens each.

    Attributes:
        index: Positions kept, among the K, int32 ``[B, K']``, padded with 0.
        count: How many of these are real, int32 ``[B]``.
        margin: How far each token is from being decided the other way, ``[B, K]``; 0 is a tie.
        keeping: In training, 1 for tokens kept and 0 for others, with gradients, ``[B, K]``.
        present: In training, tokens that the selector could choose from, ``[B, K]``.
        of: Name of the set of tokens. Those of another name than ``TOKENS`` are not followed in parity.
        nested: Whether the tokens selected replace the set for what follows; else the others only skip some work.
        disclosed: Whether the decision is an output of exported graphs. It is not where tokens become others,
            fused or merged: positions then do not say what goes on.
    """

    index: Tensor
    count: Tensor
    margin: Tensor
    keeping: Tensor | None = None
    present: Tensor | None = None
    disclosed: bool = True
    of: str = TOKENS
    nested: bool = True


class Attention(NamedTuple):
    """What a block's attention computed: ``probabilities`` ``[B, H, K, K]``, ``keys`` ``[B, H, K, d]``."""

    probabilities: Tensor
    keys: Tensor
