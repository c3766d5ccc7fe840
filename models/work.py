"""Counting the multiply-accumulates of each sample, inside the graph, as shares of the dense model's."""

from __future__ import annotations

import torch
from torch import Tensor

from adaptrt.models.tokens import Tokens


class WorkCount:
    """Adds up what one stage costs each sample.

    Between two token selections the number of tokens does not change, so everything in between is
    counted together: few nodes in the graph, whatever the depth.

    Args:
        dense: Multiply-accumulates of the dense model for one input, of which all are shares.
    """

    def __init__(self, dense: int) -> None:
        self._dense = dense
        self._constant = 0.0
        self._totals: list[Tensor] = []
        self._tokens: Tokens | None = None
        self._per_token, self._per_pair = 0.0, 0.0
        self._runs: list[Tensor] = []
        self._per_run: list[int] = []

    def constant(self, macs: int) -> None:
        """Count work that every sample has; while tracing, it may be made of sizes."""
        self._constant += macs / self._dense

    def tokens(self, tokens: Tokens, *, per_token: int = 0, per_pair: int = 0) -> None:
        """Count work for each of the tokens, and for each pair of a sample's tokens."""
        self._group(tokens)
        if tokens.valid is None:
            count = tokens.per_sample
            self._constant += (count * per_token + count * count * per_pair) / self._dense
        else:
            self._per_token += per_token / self._dense
            self._per_pair += per_pair / self._dense

    def learners(self, tokens: Tokens, k: Tensor, macs_per_run: int) -> None:
        """Count learners run: int32 ``[B * K]``."""
        self._group(tokens)
        self._runs.append(k)
        self._per_run.append(macs_per_run)

    def total(self, before: Tensor | None, like: Tensor) -> Tensor:
        """Everything counted and what was spent before, float32 ``[B]``; ``like`` is some ``[B, ...]``."""
        self._close()
        terms = self._totals if before is None else [before, *self._totals]
        if not terms:
            rows = like if like.ndim == 2 else like.flatten(1)
            return torch.full_like(rows[:, 0], self._constant)
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total + self._constant if self._constant else total

    def _group(self, tokens: Tokens) -> None:
        if self._tokens is not None and tokens.valid is not self._tokens.valid:
            self._close()
        self._tokens = tokens

    def _close(self) -> None:
        tokens = self._tokens
        if tokens is None:
            return
        if self._per_token or self._per_pair:
            count = tokens.counts()
            self._totals.append(count * (count * self._per_pair + self._per_token))
        if self._runs:
            runs = torch.cat(self._runs).reshape(len(self._runs), -1, tokens.per_sample)
            weights = torch.tensor([macs / self._dense for macs in self._per_run], device=runs.device)
            self._totals.append(weights @ runs.to(torch.float32).sum(2))
        self._tokens, self._per_token, self._per_pair = None, 0.0, 0.0
        self._runs, self._per_run = [], []
