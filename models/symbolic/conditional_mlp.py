"""Learners in torch: the modules that compute ``adaptrt::ConditionalMLP`` and ``ConditionalLinear``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.symbolic.call_record import LearnerCall, current_record
from adaptrt.models.symbolic.graph_sizes import in_onnx_export
from adaptrt.ops import DOMAIN, OPSET_VERSION


class _Learners(nn.Module):
    """N small networks ``D -> h -> E`` of which each token runs the first k.

    In an ONNX export one becomes one node of the domain ``adaptrt``, whatever the example input was.
    """

    op: str

    def __init__(self, learners: int, width: int, hidden: int, out: int, *, hidden_bias: bool) -> None:
        super().__init__()
        self.learners, self.width, self.hidden, self.out = learners, width, hidden, out
        self.w1 = nn.Parameter(torch.randn(learners, width, hidden) * width**-0.5)
        self.b1 = nn.Parameter(torch.zeros(learners, hidden)) if hidden_bias else None
        self.w2 = nn.Parameter(torch.randn(learners, hidden, out) * (learners * hidden) ** -0.5)
        self.b2 = nn.Parameter(torch.zeros(out))

    @property
    def macs_per_run(self) -> int:
        """Multiply-accumulates of one learner for one token."""
        return self.hidden * (self.width + self.out)

    def _hidden(self, x: Tensor) -> Tensor:
        """Hidden values of all learners, ``[T, D] -> [T, N, h]``.

        One wide product: in training nothing is skipped, so this is the fastest form.
        """
        hidden = x @ self.w1.transpose(0, 1).reshape(self.width, -1)
        return hidden.reshape(-1, self.learners, self.hidden)

    def contributions(self, x: Tensor) -> Tensor:
        """Every learner's own output ``s_n(x)``: ``[T, D] -> [N, T, E]``, without ``b2``."""
        # Products of two matrices: on CPUs a batched one over strided parts is many times slower.
        return torch.stack([part @ w2 for part, w2 in zip(self._hidden(x).unbind(1), self.w2, strict=True)])

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """Output with learner n of token t weighted by ``mask[t, n]``; differentiable in both."""
        weighted = (self._hidden(x) * mask[:, :, None]).flatten(1)
        return torch.addmm(self.b2, weighted, self.w2.reshape(-1, self.out))

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        """Run the first ``k[t]`` learners of each token: ``x[T, D]``, ``k[T]`` int32 -> ``[T, E]``."""
        record = current_record()
        if record is not None:
            record.learners.append(LearnerCall(k, self.learners))
        if not in_onnx_export(self.op):
            return self.masked(x, first_learners(k, self.learners).to(x.dtype))
        hidden = (self.w1,) if self.b1 is None else (self.w1, self.b1)
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{self.op}",
            (x, k, *hidden, self.w2, self.b2),
            dtype=x.dtype,
            shape=(x.shape[0], self.out),
            version=OPSET_VERSION,
        )


class ConditionalMLP(_Learners):
    """N small MLPs with exact GELU (arXiv 2312.10193): an ACM in a feed-forward network."""

    op = "ConditionalMLP"

    def __init__(self, learners: int, width: int, hidden: int, out: int) -> None:
        super().__init__(learners, width, hidden, out, hidden_bias=True)

    def _hidden(self, x: Tensor) -> Tensor:
        assert self.b1 is not None
        w1 = self.w1.transpose(0, 1).reshape(self.width, -1)
        hidden = functional.gelu(torch.addmm(self.b1.reshape(-1), x, w1))
        return hidden.reshape(-1, self.learners, self.hidden)


class ConditionalLinear(_Learners):
    """N low-rank linear learners, without hidden bias: an ACM in a projection."""

    op = "ConditionalLinear"

    def __init__(self, learners: int, width: int, rank: int, out: int) -> None:
        super().__init__(learners, width, rank, out, hidden_bias=False)


def first_learners(k: Tensor, learners: int) -> Tensor:
    """Mark the learners that run: ``k[T] -> [T, N]`` bool, true where n < k."""
    return torch.arange(learners, device=k.device) < k[:, None]
