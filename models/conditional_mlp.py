"""Learners in torch: the modules that compute ``adaptrt::ConditionalMLP`` and ``ConditionalLinear``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.ops import DOMAIN, OPSET_VERSION


class ConditionalMLP(nn.Module):
    """N small MLPs of which each token runs the first k (arXiv 2312.10193, section 3.1).

    In an ONNX export it becomes one ``adaptrt::ConditionalMLP`` node, whatever the example input was.
    """

    op = "ConditionalMLP"

    def __init__(self, learners: int, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.learners, self.width, self.hidden, self.out = learners, width, hidden, out
        self.w1 = nn.Parameter(torch.randn(learners, width, hidden) * width**-0.5)
        self.b1 = nn.Parameter(torch.zeros(learners, hidden))
        self.w2 = nn.Parameter(torch.randn(learners, hidden, out) * (learners * hidden) ** -0.5)
        self.b2 = nn.Parameter(torch.zeros(out))

    @property
    def macs_per_run(self) -> int:
        """Multiply-accumulates of one learner for one token."""
        return self.hidden * (self.width + self.out)

    def contributions(self, x: Tensor) -> Tensor:
        """Every learner's own output ``s_n(x)``: ``[T, D] -> [N, T, E]``, without ``b2``."""
        w1 = self.w1.transpose(0, 1).reshape(self.width, -1)
        hidden = functional.gelu(torch.addmm(self.b1.reshape(-1), x, w1))
        # Products of two matrices: on CPUs a batched one over strided parts is many times slower.
        parts = hidden.reshape(-1, self.learners, self.hidden).unbind(1)
        return torch.stack([part @ w2 for part, w2 in zip(parts, self.w2, strict=True)])

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """Output with learner n of token t weighted by ``mask[t, n]``; differentiable in both.

        One wide product over all learners: in training nothing is skipped, so this is the fastest form.
        """
        w1 = self.w1.transpose(0, 1).reshape(self.width, -1)
        hidden = functional.gelu(torch.addmm(self.b1.reshape(-1), x, w1))
        weighted = (hidden.reshape(-1, self.learners, self.hidden) * mask[:, :, None]).flatten(1)
        return torch.addmm(self.b2, weighted, self.w2.reshape(-1, self.out))

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        """Run the first ``k[t]`` learners of each token: ``x[T, D]``, ``k[T]`` int32 -> ``[T, E]``."""
        if torch.onnx.is_in_onnx_export():
            return torch.onnx.ops.symbolic(
                f"{DOMAIN}::{self.op}",
                (x, k, self.w1, self.b1, self.w2, self.b2),
                dtype=x.dtype,
                shape=(x.shape[0], self.out),
                version=OPSET_VERSION,
            )
        return self.masked(x, first_learners(k, self.learners).to(x.dtype))


class ConditionalLinear(nn.Module):
    """N low-rank linear learners of which each token runs the first k: an ACM in a projection."""

    op = "ConditionalLinear"

    def __init__(self, learners: int, width: int, rank: int, out: int) -> None:
        super().__init__()
        self.learners, self.width, self.hidden, self.out = learners, width, rank, out
        self.w1 = nn.Parameter(torch.randn(learners, width, rank) * width**-0.5)
        self.w2 = nn.Parameter(torch.randn(learners, rank, out) * (learners * rank) ** -0.5)
        self.b2 = nn.Parameter(torch.zeros(out))

    @property
    def macs_per_run(self) -> int:
        """Multiply-accumulates of one learner for one token."""
        return self.hidden * (self.width + self.out)

    def contributions(self, x: Tensor) -> Tensor:
        """Every learner's own output: ``[T, D] -> [N, T, E]``, without ``b2``."""
        return x.expand(self.learners, -1, -1) @ self.w1 @ self.w2

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """Output with learner n of token t weighted by ``mask[t, n]``; differentiable in both."""
        hidden = x @ self.w1.transpose(0, 1).reshape(self.width, -1)
        weighted = (hidden.reshape(-1, self.learners, self.hidden) * mask[:, :, None]).flatten(1)
        return torch.addmm(self.b2, weighted, self.w2.reshape(-1, self.out))

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        """Run the first ``k[t]`` learners of each token: ``x[T, D]``, ``k[T]`` int32 -> ``[T, E]``."""
        if torch.onnx.is_in_onnx_export():
            return torch.onnx.ops.symbolic(
                f"{DOMAIN}::{self.op}",
                (x, k, self.w1, self.w2, self.b2),
                dtype=x.dtype,
                shape=(x.shape[0], self.out),
                version=OPSET_VERSION,
            )
        return self.masked(x, first_learners(k, self.learners).to(x.dtype))


def first_learners(k: Tensor, learners: int) -> Tensor:
    """Mark the learners that run: ``k[T] -> [T, N]`` bool, true where n < k."""
    return torch.arange(learners, device=k.device) < k[:, None]
