"""Gates: how many learners a token runs, given the price.

``PriceGate`` serves every price with one set of weights. ``ArgmaxGate`` is the gate of the paper
(arXiv 2312.10193, section 3.2), with the price taken off its logits, for comparison.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.symbolic.conditional_mlp import first_learners
from adaptrt.models.symbolic.graph_sizes import scalar


class Decision(NamedTuple):
    """What an adaptive module decided for its T tokens.

    Attributes:
        k: Learners run, int32 ``[T]``.
        margin: In evaluation, how far every compared quantity is from its threshold, ``[T, N]`` (price
            gate) or ``[T, 1]`` (argmax gate: best against second best); 0 is a tie. In training, noise
            included, it says nothing about ties.
        mask: Learners as weights, ``[T, N]``: exactly 0 or 1 in value, and in training with the
            gradient of their soft version (straight-through).
        gains: What the gate gives out: ``[T, N]`` gains, or ``[T, N + 1]`` scores of the argmax gate.
        present: In training, 1 for tokens that would not have been pruned before, else 0, ``[T]``; None: all are.
        costs: What each place of the mask adds to the work, as a share of a whole run, ``[N]``; None: all alike.
    """

    k: Tensor
    margin: Tensor
    mask: Tensor
    gains: Tensor
    present: Tensor | None = None
    costs: Tensor | None = None


def logistic_noise(like: Tensor) -> Tensor:
    """Difference of two Gumbel variables: the noise of a binary Gumbel-softmax."""
    uniform = torch.rand_like(like).clamp(1e-6, 1 - 1e-6)
    return torch.logit(uniform)


class PriceGate(nn.Module):
    """Marginal gains ``1 > u_1 >= ... >= u_N > 0``, non-increasing by construction.

    ``u_n = exp(-step * sum over j <= n of sigmoid(r_j))`` with r from two small layers, and
    ``k = #{n : u_n > price * cost}``. A price of 0 runs every learner and a price of 1 none
    (for a cost of 1); for a given input k never rises with the price. Steps through a sigmoid, where
    a softplus would do, because engines fuse it into the product before it and compute it in vectors;
    an exponential at the end, because the sigmoid of ONNX Runtime is exactly 0 from about -18 on, and
    a gain of 0 would not run at a price of 0.

    Args:
        width: Width D of the tokens.
        learners: N.
        hidden: Width of the gate's hidden layer (16 in the paper).
        cost: Cost of one learner relative to the model's largest, in (0, 1].
        at_least: Learners that run at any price.
    """

    STEP = 12.0
    LOWEST_LOG = -80.0  # exp of it is still a normal float32
    TEMPERATURE = 0.8  # of the Gumbel-softmax, as in the paper

    def __init__(self, width: int, learners: int, hidden: int, cost: float = 1.0, at_least: int = 0) -> None:
        super().__init__()
        self.learners, self.cost, self.at_least = learners, cost, at_least
        step = min(self.STEP, -self.LOWEST_LOG / learners)
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, learners)
        # Start with u from 0.8 down to 0.2, so that prices in the middle of the scale divide them.
        log_gains = torch.linspace(0.8, 0.2, learners).log() if learners > 1 else torch.tensor([0.5]).log()
        steps = -torch.diff(log_gains, prepend=torch.zeros(1))
        with torch.no_grad():
            self.outer.bias.copy_(torch.logit(steps / step))
        descend = -step * torch.triu(torch.ones(learners, learners))
        self.register_buffer("descend", descend, persistent=False)
        self.descend: Tensor

    @property
    def price_limits(self) -> tuple[float, float]:
        """Prices at which every learner runs, and as few as may be."""
        return 0.0, 1.0 / self.cost

    @property
    def macs_per_token(self) -> int:
        """Multiply-accumulates of the gate for one token."""
        return self.inner.out_features * (self.inner.in_features + self.learners) + self.learners**2

    def log_gains(self, x: Tensor) -> Tensor:
        """Logarithm of the gains: ``[T, D] -> [T, N]``, non-increasing along N, below 0."""
        steps = torch.sigmoid(self.outer(functional.relu(self.inner(x))))
        return steps @ self.descend

    def logits(self, x: Tensor) -> Tensor:
        """Gains on the logit scale: ``[T, D] -> [T, N]``, non-increasing along N."""
        log_gains = self.log_gains(x).clamp(max=-1e-6)
        return log_gains - torch.log(-torch.expm1(log_gains))

    def forward(
        self,
        x: Tensor,
        price: Tensor,
        valid: Tensor | None = None,
        capacity: Tensor | None = None,
        per_sample: int = 1,
    ) -> Decision:
        """Decide for every token.

        Args:
            x: Tokens, ``[T, D]``.
            price: float32 ``[1]``, or ``[T, 1]`` in training.
            valid: bool ``[B, K]`` with B * K = T, false for padding, which runs nothing; None: all are valid.
            capacity: int32 ``[1]``: exactly that many learners run per sample, those of most gain, ties
                to the lower token and learner; -1, or None, leaves it to the price.
            per_sample: K, read for a capacity.
        """
        if self.training:
            return self._sampled(x, price)
        threshold = price if self.cost == 1 else price * self.cost
        gains = torch.exp(self.log_gains(x))
        # No price is below 0: padding runs nothing.
        priced = gains if valid is None else torch.where(valid.reshape(-1, 1), gains, -1.0)
        if capacity is None:
            runs, margin = priced > threshold, gains - threshold
        else:
            runs, margin = self._within(priced, threshold, capacity, per_sample)
        k = runs.to(torch.int32).sum(1, dtype=torch.int32)
        if self.at_least:
            k = k.clamp(min=self.at_least)
            if valid is not None:
                k = k * valid.reshape(-1).to(torch.int32)
        return Decision(k, margin, first_learners(k, self.learners).to(x.dtype), gains)

    def _within(self, gains: Tensor, threshold: Tensor, capacity: Tensor, per_sample: int) -> tuple[Tensor, Tensor]:
        """Let the ``capacity`` largest gains of each sample run; what the price decides where that is off.

        The gain in the last place becomes the threshold, and as many of its equals run as there is room
        for. That is found by value, not by position: engines differ in how their TopK breaks ties. Gains
        fall along N, so of a token's learners always the first ones are among the largest; padding has
        gains below 0.
        """
        ranked = gains.reshape(-1, per_sample * self.learners)
        off = capacity < 0
        # A row more: the TopK of ONNX Runtime 1.23 kills the process where it gets none.
        spare = torch.cat([ranked, ranked.new_zeros(1, ranked.shape[1])])
        descending = spare.topk(ranked.shape[1], dim=1).values[:-1]
        last = (capacity - 1).clamp(min=0).minimum(scalar(ranked.shape[1] - 1))
        cut = torch.where(off, threshold, descending.index_select(1, last).clamp(min=0.0))
        higher, level = ranked > cut, (ranked == cut).to(torch.int32)
        left = capacity - higher.sum(1, keepdim=True, dtype=torch.int32)  # below 0 where it is off
        within = higher | ((level != 0) & (level.cumsum(1, dtype=torch.int32) <= left))
        margin = gains - threshold
        if not torch.onnx.is_in_onnx_export():
            worst_in = torch.where(within, ranked, 2.0).amin(1, keepdim=True)
            best_out = torch.where(within, -1.0, ranked).amax(1, keepdim=True)
            distance = ranked - torch.where(within, best_out, worst_in)
            margin = torch.where(off, margin, distance.reshape(gains.shape))
        return within.reshape(gains.shape), margin

    def _sampled(self, x: Tensor, price: Tensor) -> Decision:
        """Decide with one noise per token, so that the sampled learners stay the first k."""
        with torch.autocast(x.device.type, enabled=False):  # a bfloat16 gate flips several percent of its decisions
            logits = self.logits(x.float())
        threshold = torch.logit((price * self.cost).clamp(1e-4, 1 - 1e-4))
        margin = logits - threshold + self.TEMPERATURE * logistic_noise(logits[:, :1])
        soft = torch.sigmoid(margin / self.TEMPERATURE)
        hard = (margin > 0).to(soft.dtype)
        if self.at_least:
            hard = torch.cat([torch.ones_like(hard[:, : self.at_least]), hard[:, self.at_least :]], 1)
        mask = hard + soft - soft.detach()
        return Decision(hard.sum(1).to(torch.int32), margin, mask, torch.sigmoid(logits))


class ArgmaxGate(nn.Module):
    """The published gate: ``k = argmax_n (g_n - price * cost * n)`` over N + 1 scores g.

    Scores are bounded, so that the limits of the price run all learners and none. Ties go to the
    smaller k. The price is in units of score per learner.
    """

    BOUND = 10.0
    TEMPERATURE = 0.8
    BEYOND = 32.0  # a price per learner that outweighs any difference of scores, which is at most 2 * BOUND

    def __init__(self, width: int, learners: int, hidden: int, cost: float = 1.0, at_least: int = 0) -> None:
        super().__init__()
        self.learners, self.cost, self.at_least = learners, cost, at_least
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, learners + 1)
        self.register_buffer("counts", torch.arange(learners + 1, dtype=torch.float32), persistent=False)
        self.counts: Tensor

    @property
    def price_limits(self) -> tuple[float, float]:
        """Prices at which every learner runs, and as few as may be."""
        return -self.BEYOND / self.cost, self.BEYOND / self.cost

    @property
    def macs_per_token(self) -> int:
        """Multiply-accumulates of the gate for one token."""
        return self.inner.out_features * (self.inner.in_features + self.learners + 1)

    def logits(self, x: Tensor) -> Tensor:
        """Scores of running n = 0..N learners: ``[T, D] -> [T, N + 1]``, within ±BOUND."""
        raw = self.outer(functional.gelu(self.inner(x)))
        return self.BOUND * torch.tanh(raw / self.BOUND)

    def paid(self, price: Tensor) -> Tensor:
        """What a price takes off the scores: ``[1]`` or ``[T, 1]`` -> ``[N + 1]`` or ``[T, N + 1]``."""
        return price * self.cost * self.counts

    def forward(
        self,
        x: Tensor,
        price: Tensor,
        valid: Tensor | None = None,
        capacity: Tensor | None = None,
        per_sample: int = 1,
    ) -> Decision:
        """Decide for every token; ``price`` is float32 ``[1]``, or ``[T, 1]`` in training.

        Raises:
            ValueError: A capacity is given: these scores have no order that it could follow.
        """
        del per_sample
        if capacity is not None:
            raise ValueError("got a capacity for an argmax gate, expected none; use the price gate")
        scores = self.logits(x)
        priced = scores - self.paid(price)
        if self.at_least:
            allowed = self.counts >= self.at_least
            priced = torch.where(allowed, priced, torch.full_like(priced, -1e6))
        if self.training:
            soft = functional.gumbel_softmax(priced, tau=self.TEMPERATURE)
            choice = soft.argmax(1)
            # P(n < k) for each learner n: the mass of all larger choices.
            tail = soft[:, 1:].flip(1).cumsum(1).flip(1)
            hard = (self.counts[1:] <= choice[:, None]).to(tail.dtype)
            return Decision(choice.to(torch.int32), priced, hard + tail - tail.detach(), scores)
        k = priced.argmax(1).to(torch.int32)
        if valid is not None:
            k = k * valid.reshape(-1).to(torch.int32)
        best = priced.topk(2, dim=1).values if not torch.onnx.is_in_onnx_export() else priced
        margin = best[:, :1] - best[:, 1:2]
        return Decision(k, margin, (self.counts[1:] <= k[:, None]).to(x.dtype), scores)


GATES: dict[str, type[PriceGate] | type[ArgmaxGate]] = {"price": PriceGate, "argmax": ArgmaxGate}
