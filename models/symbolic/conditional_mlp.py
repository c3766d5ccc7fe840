"""Learners in torch: the modules that compute ``adaptrt``'s ConditionalMLP, gated ones and ConditionalLinear."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adaptrt.models.symbolic.call_record import LearnerCall, current_record
from adaptrt.models.symbolic.graph_sizes import in_onnx_export
from adaptrt.ops import DOMAIN, OPSET_VERSION
from adaptrt.ops.activations import activation_named


class _Learners(nn.Module):
    """N small networks ``D -> h -> E`` of which each token runs the first k.

    In an ONNX export one becomes one node of the domain ``adaptrt``, whatever the example input was.

    Attributes:
        op: Name of the op.
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

    def _first_layers(self) -> tuple[Tensor, ...]:
        """Weights that ``_hidden`` reads, in the op's order."""
        return (self.w1,) if self.b1 is None else (self.w1, self.b1)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``x[T, D]`` by the weights ``[N, D, h]`` of all learners: ``[T, N * h]``.

        One wide product: in training nothing is skipped, so this is the fastest form.
        """
        wide = weight.transpose(0, 1).reshape(self.width, -1)
        return x @ wide if bias is None else torch.addmm(bias.reshape(-1), x, wide)

    def _hidden(self, x: Tensor) -> Tensor:
        """Hidden values of all learners, ``[T, D] -> [T, N * h]``."""
        return self._linear(x, self.w1, self.b1)

    def _by_learner(self, x: Tensor) -> Tensor:
        return self._hidden(x).reshape(-1, self.learners, self.hidden)

    def contributions(self, x: Tensor) -> Tensor:
        """Every learner's own output ``s_n(x)``: ``[T, D] -> [N, T, E]``, without ``b2``."""
        # Products of two matrices: on CPUs a batched one over strided parts is many times slower.
        return torch.stack([part @ w2 for part, w2 in zip(self._by_learner(x).unbind(1), self.w2, strict=True)])

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """Output with learner n of token t weighted by ``mask[t, n]``; differentiable in both."""
        weighted = (self._by_learner(x) * mask[:, :, None]).flatten(1)
        return torch.addmm(self.b2, weighted, self.w2.reshape(-1, self.out))

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        """Run the first ``k[t]`` learners of each token; in the dense network of a user's own all of them run.

        Args:
            x: Tokens of all samples, one sample after the other, ``[T, D]``.
            k: int32 ``[T]``; 0 for padding, which then costs nothing.

        Returns:
            ``[T, E]``.

        Raises:
            ValueError: They are of another shape or dtype.
        """
        if x.ndim != 2 or k.ndim != 1 or k.dtype != torch.int32:
            raise ValueError(
                f"got x {list(x.shape)} and k {list(k.shape)} in {str(k.dtype).removeprefix('torch.')}, expected x "
                "[tokens, width] and k [tokens] in int32, the tokens of all samples one after the other; flatten and "
                "convert them"
            )
        record = current_record()
        if record is not None and record.dense:
            return torch.addmm(self.b2, self._hidden(x), self.w2.reshape(-1, self.out))
        if record is not None:
            record.learners.append(LearnerCall(k, self.learners))
        if not in_onnx_export(self.op):
            return self.masked(x, first_learners(k, self.learners).to(x.dtype))
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{self.op}",
            (x, k, *self._first_layers(), self.w2, self.b2),
            dtype=x.dtype,
            shape=(x.shape[0], self.out),
            version=OPSET_VERSION,
        )


class _ActivatedLearners(_Learners):
    """Learners whose hidden layer has an activation of ``ops/activations.py``."""

    def __init__(self, learners: int, width: int, hidden: int, out: int, activation: str) -> None:
        super().__init__(learners, width, hidden, out, hidden_bias=True)
        self.activation = activation

    def _activate(self, z: Tensor) -> Tensor:
        active: Tensor = activation_named(self.activation).torch(torch, z)
        return active

    def _hidden(self, x: Tensor) -> Tensor:
        return self._activate(self._linear(x, self.w1, self.b1))

    def _take(
        self, hidden: Tensor, down: nn.Linear, weights: dict[str, Tensor], biases: dict[str, Tensor | None]
    ) -> None:
        """Sort hidden units ``[T, N * h]`` by contribution and divide what belongs to them among the learners."""
        contribution = hidden.square().mean(0).sqrt() * down.weight.norm(dim=0)
        order = contribution.argsort(descending=True)
        n, h = self.learners, self.hidden
        for name, weight in weights.items():
            getattr(self, name).copy_(weight[order].reshape(n, h, -1).transpose(1, 2))
        for name, bias in biases.items():
            getattr(self, name).copy_(torch.zeros(n, h) if bias is None else bias[order].reshape(n, h))
        self.w2.copy_(down.weight[:, order].T.reshape(n, h, -1))
        self.b2.copy_(torch.zeros(self.out) if down.bias is None else down.bias)


class ConditionalMLP(_ActivatedLearners):
    """N small MLPs (arXiv 2312.10193): an ACM in a feed-forward network.

    Args:
        learners: N.
        width: D.
        hidden: h, of one learner.
        out: E.
        activation: A name of ``ops/activations.py``; the op follows from it. The default is the exact GELU.

    Raises:
        ValueError: The activation is unknown.
    """

    def __init__(self, learners: int, width: int, hidden: int, out: int, activation: str = "gelu") -> None:
        op = activation_named(activation).mlp
        super().__init__(learners, width, hidden, out, activation)
        self.op = op

    @torch.no_grad()
    def split_dense(self, up: nn.Linear, down: nn.Linear, x: Tensor) -> None:
        """Take over a dense network ``down(act(up(x)))`` of ``N * h`` hidden units; all learners then compute it.

        Units are sorted by how much they contribute, so that the first learners have the most.

        Args:
            up: ``D -> N * h``, with or without bias.
            down: ``N * h -> E``, with or without bias.
            x: Inputs to measure the contributions on, ``[T, D]``.
        """
        self._take(self._activate(up(x)), down, {"w1": up.weight}, {"b1": up.bias})


class ConditionalGLU(_ActivatedLearners):
    """N small gated MLPs (arXiv 2002.05202): an ACM in a gated feed-forward network.

    Parameters ``w1`` and ``b1`` are the gate's, ``v1`` and ``c1`` those of what is gated.

    Args:
        learners: N.
        width: D.
        hidden: h, of one learner.
        out: E.
        activation: Of the gate, a name of ``ops/activations.py`` whose row has a gated op; that op follows from it.

    Raises:
        ValueError: No op is gated by that activation.
    """

    def __init__(self, learners: int, width: int, hidden: int, out: int, activation: str = "silu") -> None:
        op = activation_named(activation, gated=True).glu
        super().__init__(learners, width, hidden, out, activation)
        self.op = op
        self.v1 = nn.Parameter(torch.randn(learners, width, hidden) * width**-0.5)
        self.c1 = nn.Parameter(torch.zeros(learners, hidden))

    @property
    def macs_per_run(self) -> int:
        """Multiply-accumulates of one learner for one token."""
        return self.hidden * (2 * self.width + self.out)

    def _first_layers(self) -> tuple[Tensor, ...]:
        return (*super()._first_layers(), self.v1, self.c1)

    def _hidden(self, x: Tensor) -> Tensor:
        return super()._hidden(x) * self._linear(x, self.v1, self.c1)

    @torch.no_grad()
    def split_gated(self, gate: nn.Linear, up: nn.Linear, down: nn.Linear, x: Tensor) -> None:
        """Take over a dense network ``down(act(gate(x)) * up(x))``, as ``split_dense`` does one without gates.

        Args:
            gate: ``D -> N * h``, with or without bias.
            up: As gate.
            down: ``N * h -> E``, with or without bias.
            x: Inputs to measure the contributions on, ``[T, D]``.
        """
        hidden = self._activate(gate(x)) * up(x)
        self._take(hidden, down, {"w1": gate.weight, "v1": up.weight}, {"b1": gate.bias, "c1": up.bias})


class ConditionalLinear(_Learners):
    """N low-rank linear learners, without hidden bias: an ACM in a projection."""

    op = "ConditionalLinear"

    def __init__(self, learners: int, width: int, rank: int, out: int) -> None:
        super().__init__(learners, width, rank, out, hidden_bias=False)


def first_learners(k: Tensor, learners: int) -> Tensor:
    """Mark the learners that run: ``k[T] -> [T, N]`` bool, true where n < k."""
    return torch.arange(learners, device=k.device) < k[:, None]
