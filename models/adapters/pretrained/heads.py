"""Heads of networks made from transformers checkpoints: its own code behind an exit criterion, or a pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.adapters.pretrained.config import PretrainedConfig
from adaptrt.models.adapters.pretrained.tail import Tail, reduced, weighted_mean
from adaptrt.models.families.exit_head import HeadOutput, class_answer, sureness
from adaptrt.models.heads import EarlyMap, over_tokens, real_ends, span_sureness
from adaptrt.models.tasks import TASKS
from adaptrt.models.tokens import Dropped, Tokens
from adaptrt.models.work import WorkCount


class PretrainedHead(nn.Module):
    """A head with the methods of ``SampleHead``; ``tail`` is transformers' code, or a vector's projection, if any."""

    def __init__(self, shape: PretrainedConfig, tail: nn.Module | None) -> None:
        super().__init__()
        self.tail, self.width, self.macs = tail, shape.width, shape.head_macs
        self.outputs, self.reads, self.prefix = TASKS[shape.task].outputs, shape.reads, shape.prefix
        self.task, self.pooling, self.normalised = shape.task, shape.pooling, shape.normalised
        self.criterion = "max_softmax" if shape.exits is None else shape.exits.criterion
        self.early: EarlyMap | None = None
        self.certainty = nn.Linear(shape.width, 1) if self.criterion == "certainty" else None

    def read(self, tokens: Tokens, norm: nn.Module, class_token: bool, carried: dict[str, Tensor]) -> HeadOutput:
        """Answer for ``[B * K, D]``; ``carried`` is what the head before handed on."""
        grouped, weight = tokens.grouped(), token_weights(tokens)
        if self.reads == "first" or (self.reads == "pooled" and self.pooling == "first"):
            features = read = norm(grouped[:, :1])
        else:
            hidden = norm(grouped)
            if self.reads == "pooled":
                read = self.pool(hidden, weight, tokens.dropped)[:, None]
            else:
                read = reduced(hidden, self.reads, weight, self.prefix, tokens.position, tokens.dropped)
            features = read if self.reads != "tokens" else reduced(hidden, "first" if class_token else "mean", weight)
        certainty = None if self.certainty is None else self.certainty(features[:, 0])[:, 0]
        outputs = self.answer(read)
        if self.task == "question-answering":
            outputs = real_ends(outputs, weight)
        if self.task == "classification":
            return class_answer(outputs["logits"], self.criterion, certainty, carried)
        if certainty is not None:
            return HeadOutput(outputs, torch.sigmoid(certainty), {}, certainty)
        return HeadOutput(outputs, self.confidence(outputs, weight), {}, None)

    def averaged(self, hidden: Tensor, norm: nn.Module) -> Tensor:
        """What a mean is taken of, from the last block's ``[..., D]``."""
        normed: Tensor = norm(hidden)
        return normed

    def stand_early(self) -> None:
        """Where no weights stand between the tokens and the vector, get a map."""
        if self.tail is None and self.reads == "pooled":
            self.early = EarlyMap(self.width)

    def pool(self, hidden: Tensor, weight: Tensor | None, dropped: Dropped | None) -> Tensor:
        """One vector of the tokens, ``[B, K, D] -> [B, D]``."""
        if self.pooling == "mean":
            return weighted_mean(hidden, weight, dropped)
        if weight is not None:
            hidden = torch.where(weight[:, :, None] > 0, hidden, -1e9)
        return hidden.amax(1)

    def answer(self, read: Tensor) -> dict[str, Tensor]:
        """The task's outputs."""
        if isinstance(self.tail, Tail):
            given: dict[str, Tensor] = self.tail(read, self.outputs)
            return given
        if self.reads == "tokens":
            return {self.outputs[0]: read}
        vector = read[:, 0] if self.tail is None else self.tail(read[:, 0])
        if self.early is not None:
            vector = self.early(vector)
        return {self.outputs[0]: functional.normalize(vector, dim=1) if self.normalised else vector}

    def confidence(self, outputs: dict[str, Tensor], weight: Tensor | None) -> Tensor:
        """How sure the criterion is, ``[B]``: of a span where it begins and ends, of tokens in the mean."""
        first = outputs[self.outputs[0]]
        if TASKS[self.task].criteria == ("certainty",):
            return torch.zeros_like(first.flatten(1)[:, 0])
        if self.task == "question-answering":
            return span_sureness(outputs)
        return over_tokens(sureness(first, self.criterion), weight)

    def count(self, work: WorkCount, tokens: Tokens, *, last: bool) -> None:
        """Count one run."""
        if self.reads == "tokens":
            work.tokens(tokens, per_token=self.macs)
        else:
            work.constant(self.macs)
        if self.early is not None:
            work.constant(self.early.macs)
        if self.certainty is not None and not last:
            work.constant(self.width)

    def dense_macs(self, tokens: int) -> int:
        """Multiply-accumulates of the dense network's head, for a sample of so many tokens."""
        return self.macs * (tokens if self.reads == "tokens" else 1)


def token_weights(tokens: Tokens) -> Tensor | None:
    """What each token counts in a mean, ``[B, K]``; None: all alike."""
    if tokens.size is not None:
        return tokens.size
    return tokens.valid if tokens.presence is None else tokens.presence
