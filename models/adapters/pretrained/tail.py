"""transformers' own code behind the layers of a model with a task: its head, fed with hidden states of ours."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from adaptrt.models.adapters.pretrained.splice import replace_module, transformers
from adaptrt.models.tokens import Dropped


class StandIn(nn.Module):
    """Stands where the base model stood, and gives what it is given as the base model's output.

    Args:
        base: The base model, of which only the pooler is kept, where it has one.
        main_input: Name of its first argument.
    """

    def __init__(self, base: Any, main_input: str) -> None:
        super().__init__()
        self.main_input = main_input
        self.pooler = getattr(base, "pooler", None)
        self.pooler_activation = getattr(base, "pooler_activation", None)

    def forward(self, *given: Any, **named: Any) -> Any:
        """``[B, K, D]`` -> transformers' output with ``last_hidden_state`` and, perhaps, ``pooler_output``."""
        hidden: Tensor = given[0] if given else named[self.main_input]
        pooled = None
        if isinstance(self.pooler, nn.Linear):  # ALBERT's
            pooled = self.pooler_activation(self.pooler(hidden[:, 0]))  # type: ignore[misc]
        elif self.pooler is not None:
            pooled = self.pooler(hidden)
        outputs = transformers().modeling_outputs
        return outputs.BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)


class Tail(nn.Module):
    """A model with a task whose base model is a ``StandIn``: hidden states to the task's outputs.

    What it is called with as its first input are the hidden states; heads look at nothing of an input but its shape.
    """

    def __init__(self, model: nn.Module, main_input: str) -> None:
        super().__init__()
        self.model, self.main_input = model, main_input

    def train(self, mode: bool = True) -> Tail:
        """Stays in evaluation, without dropout."""
        super().train(mode)
        self.model.eval()
        return self

    @classmethod
    def of(cls, model: nn.Module, base: str, main_input: str) -> Tail:
        """The tail of a model, which stays as it is; ``base`` is the name of its base model."""
        module = getattr(model, base)
        shallow = copy.copy(model)
        shallow._modules = dict(model._modules)
        replace_module(shallow, base, StandIn(module, main_input))
        return cls(copy.deepcopy(shallow), main_input)

    def forward(self, hidden: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """``[B, K, D]`` -> outputs of these names."""
        given = self.model(**{self.main_input: hidden})
        return {name: given[name] for name in names}


def projection_of(model: nn.Module) -> nn.Linear | None:
    """What a tower's pooled vector goes through in a model of two towers; None: there is no such."""
    projection = getattr(model, "visual_projection", None)
    return projection if isinstance(projection, nn.Linear) else None


def reduced(
    hidden: Tensor,
    reads: str,
    weight: Tensor | None = None,
    prefix: int = 1,
    place: Tensor | None = None,
    dropped: Dropped | None = None,
) -> Tensor:
    """What a head reads of tokens, as a few tokens that it gives the same answer for.

    Heads that average give the same answer for the mean alone, which can leave out padding and tokens that are gone.

    Args:
        hidden: ``[B, K, D]``.
        reads: One of ``READS``, apart from "pooled".
        weight: Of each token in means, ``[B, K]``; None: all alike.
        prefix: Tokens in front that "first and mean" leaves out of the mean.
        place: Where each token was before any selection, ``[B, K]``; None: all are in place.
        dropped: What else counts in the mean.

    Returns:
        ``[B, 1 or 2 or prefix + 1 or K, D]``.
    """
    if reads == "tokens":
        return hidden
    if reads == "first":
        return hidden[:, :1]
    if reads == "first two":
        return hidden[:, :2]
    if reads == "mean":
        return weighted_mean(hidden, weight, dropped)[:, None]
    if place is None:
        others = None if weight is None else weight[:, prefix:]
        mean = weighted_mean(hidden[:, prefix:], others)
    else:
        behind = (place >= prefix).to(hidden.dtype)
        mean = weighted_mean(hidden, behind if weight is None else behind * weight)
    # The head skips the prefix: it has to be as long as it was.
    return torch.stack([hidden[:, 0]] * prefix + [mean], 1)


def weighted_mean(hidden: Tensor, weight: Tensor | None, dropped: Dropped | None = None) -> Tensor:
    """``[B, K, D] -> [B, D]``; zero where no token has a weight."""
    if weight is None:
        return hidden.mean(1)
    weight = weight.to(hidden.dtype)[:, :, None]
    total, count = (hidden * weight).sum(1), weight.sum(1)
    if dropped is not None:
        total, count = dropped.added_to(total, count)
    mean: Tensor = total / count.clamp(min=1e-6)
    return mean
