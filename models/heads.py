"""The heads of the tasks: what stands at the end of each stage of a ``Network``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.encoder_config import EncoderConfig
from adaptrt.models.families.exit_head import ExitHead, HeadOutput, sureness
from adaptrt.models.tasks import TASKS
from adaptrt.models.tokens import Tokens
from adaptrt.models.work import WorkCount


class SampleHead(ExitHead):
    """Classes of a sample, from its class token or the mean of its tokens."""

    def averaged(self, hidden: Tensor, norm: nn.Module) -> Tensor:
        """What a mean is taken of, from the last block's ``[..., D]``: its norm comes after the mean."""
        del norm
        return hidden

    def read(self, tokens: Tokens, norm: nn.Module, class_token: bool, carried: dict[str, Tensor]) -> HeadOutput:
        """Answer for ``[B * K, D]``; ``carried`` is what the head before handed on."""
        answer: HeadOutput = self(norm(pooled(tokens, class_token)), carried)
        return answer

    def count(self, work: WorkCount, tokens: Tokens, *, last: bool) -> None:
        """Count one run."""
        del tokens
        work.constant(self.macs(last=last))

    def dense_macs(self, tokens: int) -> int:
        """Multiply-accumulates of the dense network's head, for a sample of so many tokens."""
        del tokens
        return self.width * self.classes


class TokenHead(nn.Module):
    """Classes of every token; as sure as its real tokens are in the mean."""

    def __init__(self, width: int, classes: int, criterion: str) -> None:
        super().__init__()
        self.width, self.classes, self.criterion = width, classes, criterion
        self.classifier = nn.Linear(width, classes)
        self.certainty = nn.Linear(width, 1) if criterion == "certainty" else None

    def read(self, tokens: Tokens, norm: nn.Module, class_token: bool, carried: dict[str, Tensor]) -> HeadOutput:
        """Answer for ``[B * K, D]``: logits ``[B, K, classes]``."""
        del carried
        features = norm(tokens.x)
        logits = self.classifier(features).reshape(-1, tokens.per_sample, self.classes)
        if self.certainty is not None:
            certainty = self.certainty(pooled(tokens._replace(x=features), class_token))[:, 0]
            return HeadOutput({"logits": logits}, torch.sigmoid(certainty), {}, certainty)
        sure = sureness(logits, self.criterion)
        return HeadOutput({"logits": logits}, over_tokens(sure, tokens.valid), {}, None)

    def count(self, work: WorkCount, tokens: Tokens, *, last: bool) -> None:
        """Count one run."""
        work.tokens(tokens, per_token=self.width * self.classes)
        if self.certainty is not None and not last:
            work.constant(self.width)

    def dense_macs(self, tokens: int) -> int:
        """Multiply-accumulates of the dense network's head, for a sample of so many tokens."""
        return tokens * self.width * self.classes


class EmbeddingHead(nn.Module):
    """The normalised class token, or the mean of the tokens, as the sample's vector; its certainty is learned."""

    def __init__(self, width: int, classes: int, criterion: str) -> None:
        super().__init__()
        del classes
        self.width = width
        self.early: EarlyMap | None = None
        self.certainty = nn.Linear(width, 1) if criterion == "certainty" else None

    def averaged(self, hidden: Tensor, norm: nn.Module) -> Tensor:
        """What a mean is taken of, from the last block's ``[..., D]``: its norm comes after the mean."""
        del norm
        return hidden

    def stand_early(self, inputs: int | None = None) -> None:
        """Get a map of its own, from vectors of another width if told."""
        self.early = EarlyMap(self.width, inputs)

    def macs(self, *, last: bool) -> int:
        """Multiply-accumulates for one sample; the last head's certainty is for training, and never computed else."""
        mapped = 0 if self.early is None else self.early.macs
        return mapped + (self.width if self.certainty is not None and not last else 0)

    def read(self, tokens: Tokens, norm: nn.Module, class_token: bool, carried: dict[str, Tensor]) -> HeadOutput:
        """Answer for ``[B * K, D]``: a vector ``[B, D]``."""
        answer: HeadOutput = self(norm(pooled(tokens, class_token)), carried)
        return answer

    def forward(self, vector: Tensor, carried: dict[str, Tensor]) -> HeadOutput:
        """Answer for what stands for each sample, ``[B, D]``: a vector ``[B, D]``."""
        del carried
        vector = vector if self.early is None else self.early(vector)
        outputs = {"sentence_embedding": vector}
        if self.certainty is None:
            return HeadOutput(outputs, torch.zeros_like(vector[:, 0]), {}, None)
        certainty = self.certainty(vector)[:, 0]
        return HeadOutput(outputs, torch.sigmoid(certainty), {}, certainty)

    def count(self, work: WorkCount, tokens: Tokens, *, last: bool) -> None:
        """Count one run."""
        del tokens
        work.constant(self.macs(last=last))

    def dense_macs(self, tokens: int) -> int:
        """None: the dense network's answer is there already."""
        del tokens
        return 0


class SpanHead(nn.Module):
    """Where an answer begins and ends among the tokens; as sure as both ends are in the mean."""

    def __init__(self, width: int, classes: int, criterion: str) -> None:
        super().__init__()
        del classes
        self.width, self.criterion = width, criterion
        self.ends = nn.Linear(width, 2)
        self.certainty = nn.Linear(width, 1) if criterion == "certainty" else None

    def read(self, tokens: Tokens, norm: nn.Module, class_token: bool, carried: dict[str, Tensor]) -> HeadOutput:
        """Answer for ``[B * K, D]``: logits ``[B, K]`` of either end."""
        del carried
        features = norm(tokens.x)
        ends = self.ends(features).reshape(-1, tokens.per_sample, 2)
        outputs = real_ends({"start_logits": ends[:, :, 0], "end_logits": ends[:, :, 1]}, tokens.valid)
        if self.certainty is not None:
            certainty = self.certainty(pooled(tokens._replace(x=features), class_token))[:, 0]
            return HeadOutput(outputs, torch.sigmoid(certainty), {}, certainty)
        return HeadOutput(outputs, span_sureness(outputs), {}, None)

    def count(self, work: WorkCount, tokens: Tokens, *, last: bool) -> None:
        """Count one run."""
        work.tokens(tokens, per_token=2 * self.width)
        if self.certainty is not None and not last:
            work.constant(self.width)

    def dense_macs(self, tokens: int) -> int:
        """Multiply-accumulates of the dense network's head, for a sample of so many tokens."""
        return 2 * tokens * self.width


class FeatureHead(nn.Module):
    """The normalised tokens themselves; their certainty is learned."""

    def __init__(self, width: int, classes: int, criterion: str) -> None:
        super().__init__()
        del classes
        self.width = width
        self.certainty = nn.Linear(width, 1) if criterion == "certainty" else None

    def read(self, tokens: Tokens, norm: nn.Module, class_token: bool, carried: dict[str, Tensor]) -> HeadOutput:
        """Answer for ``[B * K, D]``: vectors ``[B, K, D]``."""
        del carried
        features = norm(tokens.x)
        outputs = {"last_hidden_state": features.reshape(-1, tokens.per_sample, self.width)}
        vector = pooled(tokens._replace(x=features), class_token)
        if self.certainty is None:
            return HeadOutput(outputs, torch.zeros_like(vector[:, 0]), {}, None)
        certainty = self.certainty(vector)[:, 0]
        return HeadOutput(outputs, torch.sigmoid(certainty), {}, certainty)

    def count(self, work: WorkCount, tokens: Tokens, *, last: bool) -> None:
        """Count one run."""
        del tokens
        if self.certainty is not None and not last:
            work.constant(self.width)

    def dense_macs(self, tokens: int) -> int:
        """None: the dense network's answer is there already."""
        del tokens
        return 0


class EarlyMap(nn.Module):
    """From the vector of an early block to that of the last: a linear map and a small network, nothing at first.

    It runs once for each sample, where blocks run for each token: its cost hardly counts. Without it blocks would have
    to make their states look like the last one's.

    Args:
        width: Of the last block's vector.
        inputs: Of the early block's; None: the same.
    """

    WIDER = 4

    def __init__(self, width: int, inputs: int | None = None) -> None:
        super().__init__()
        inputs = width if inputs is None else inputs
        hidden = self.WIDER * inputs
        self.linear = nn.Linear(inputs, width)
        self.up, self.down = nn.Linear(inputs, hidden), nn.Linear(hidden, width)
        self.macs = inputs * width + inputs * hidden + hidden * width
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(width, inputs))
            for zero in (self.linear.bias, self.down.weight, self.down.bias):
                zero.zero_()

    def forward(self, vector: Tensor) -> Tensor:
        """``[B, inputs] -> [B, width]``."""
        mapped: Tensor = self.linear(vector) + self.down(functional.gelu(self.up(vector)))
        return mapped


def make_head(config: EncoderConfig) -> Any:
    """A head for a network's task and exit criterion, with the methods of ``SampleHead``."""
    criterion = "max_softmax" if config.exits is None else config.exits.criterion
    return task_head(config.task, config.width, config.classes, criterion)


def task_head(task: str, width: int, classes: int, criterion: str) -> Any:
    """A head for a task that reads vectors of a width."""
    module, _, name = TASKS[task].head.partition(":")
    return getattr(importlib.import_module(module), name)(width, classes, criterion)


def over_tokens(sure: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over the tokens there are: ``[B, K]`` and perhaps ``[B, K]`` -> ``[B]``."""
    if weight is None:
        return sure.mean(1)
    weight = weight.to(sure.dtype)
    mean: Tensor = (sure * weight).sum(1) / weight.sum(1)
    return mean


def real_ends(outputs: Mapping[str, Tensor], weight: Tensor | None) -> dict[str, Tensor]:
    """Logits of tokens as ends of a span, ``[B, K]`` each, padding being none."""
    if weight is None:
        return dict(outputs)
    # As low as half precision still holds as a number.
    return {name: torch.where(weight > 0, logits, -1e4) for name, logits in outputs.items()}


def span_sureness(outputs: Mapping[str, Tensor]) -> Tensor:
    """Largest probability of either end, in the mean: logits ``[B, K]`` each -> ``[B]``."""
    return torch.stack([sureness(logits, "max_softmax") for logits in outputs.values()]).mean(0)


def pooled(tokens: Tokens, class_token: bool) -> Tensor:
    """What stands for a sample, ``[B, D]``: its class token, or the mean of the tokens there are."""
    grouped = tokens.grouped()
    if class_token:
        return grouped[:, 0]
    weight = tokens.valid if tokens.presence is None else tokens.presence
    if tokens.size is not None:
        weight = tokens.size
    if weight is None:
        return grouped.mean(1)
    weight = weight.to(grouped.dtype)[:, :, None]
    total, count = (grouped * weight).sum(1), weight.sum(1)
    if tokens.dropped is not None:
        total, count = tokens.dropped.added_to(total, count)
    mean: Tensor = total / count
    return mean
