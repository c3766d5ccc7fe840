"""Adaptive Computation Modules (arXiv 2312.10193): learners with their gate, in FFNs and projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from adaptrt.models.families.family import Family
from adaptrt.models.families.gate import GATES, ArgmaxGate, Decision, PriceGate
from adaptrt.models.macs import Layer
from adaptrt.models.staged_network import KnobSpec
from adaptrt.models.symbolic.conditional_mlp import ConditionalGLU, ConditionalLinear, ConditionalMLP
from adaptrt.models.tokens import Tokens
from adaptrt.models.work import WorkCount

if TYPE_CHECKING:
    from adaptrt.models.block import Block, DenseFFN
    from adaptrt.models.encoder_config import EncoderConfig
    from adaptrt.models.network import Network


@dataclass(frozen=True)
class ACMConfig(Family):
    """How ACMs replace a transformer's layers.

    Attributes:
        learners: N per module; the FFN's hidden width is divided among them.
        gate: "price" (one model for all budgets) or "argmax" (the paper's).
        gate_width: Width of a gate's hidden layer.
        projections: Whether attention projections become ACMs too. They seldom pay on CPUs.
    """

    name: ClassVar[str] = "acm"
    scale: ClassVar[str] = "acm"

    learners: int = 4
    gate: str = "price"
    gate_width: int = 16
    projections: bool = False

    def __post_init__(self) -> None:
        if self.gate not in GATES:
            raise ValueError(f"got gate {self.gate!r}, expected one of {', '.join(GATES)}")
        if type(self.learners) is not int or type(self.gate_width) is not int:
            raise ValueError(
                f"got {self.learners!r} learners and gate width {self.gate_width!r}, expected whole numbers"
            )
        if self.learners < 1 or self.gate_width < 1:
            raise ValueError(f"got {self.learners} learners and gate width {self.gate_width}, expected at least 1")

    def projection_rank(self, width: int) -> int:
        """Rank of one learner of a projection, so that all N cost what the dense projection does."""
        return width // (2 * self.learners)

    def check(self, shape: EncoderConfig) -> None:
        """Check that layers can be divided among the learners.

        Raises:
            ValueError: They cannot.
        """
        if shape.ffn_width % self.learners:
            raise ValueError(f"FFN width {shape.ffn_width} is no multiple of {self.learners} learners")
        if self.projections:
            if not self.projection_rank(shape.width):
                raise ValueError(f"width {shape.width} is too small for {self.learners} learners per projection")
            if (shape.attention_width, shape.key_width) != (shape.width, shape.width) or not shape.attention_bias:
                raise ValueError(
                    "got ACMs in projections of attention with other heads or without biases, expected square "
                    "projections with biases; set projections=False"
                )

    def price_limits(self, network: Network) -> tuple[float, float] | None:
        """The widest of all gates'."""
        limits = [gate.price_limits for gate in network.gates()]
        return min(low for low, _ in limits), max(high for _, high in limits)

    def number_knobs(self, network: Network) -> list[KnobSpec]:
        """``capacity``: learner runs per sample of each gate, where budgets may be hard."""
        if not network.hard_budgets:
            return []
        return [KnobSpec("capacity", "int32", (len(network.gates()),), -1, self.learners * network.tokens, -1)]

    def stands_in(self, block: Block) -> bool:
        """Wherever a block has gates."""
        return bool(block.gates())

    def costs(self, shape: EncoderConfig) -> tuple[float, float]:
        """Costs of a learner of an FFN and of one of the query, key and value projections; the larger is 1."""
        ffn = shape.ffn_macs // self.learners
        qkv = 3 * 2 * shape.width * self.projection_rank(shape.width)
        largest = max(ffn, qkv) if self.projections else ffn
        return ffn / largest, qkv / largest


class AdaptiveFFN(nn.Module):
    """A feed-forward network as an ACM.

    Attributes:
        own_price: The knob among ``Prices.others`` that it reads; empty: ``Prices.price``.
    """

    own_price: ClassVar[str] = ""

    def __init__(self, config: ACMConfig, shape: EncoderConfig) -> None:
        super().__init__()
        width, n = shape.width, config.learners
        kind = ConditionalGLU if shape.gated else ConditionalMLP
        self.learners: ConditionalMLP | ConditionalGLU = kind(n, width, shape.ffn_width // n, width, shape.activation)
        self.gate = GATES[config.gate](width, n, config.gate_width, config.costs(shape)[0])

    def layer(self, name: str, tokens: int, dense: int) -> Layer:
        """Count this layer for ``tokens`` tokens."""
        return Layer(name, dense, self.gate.macs_per_token * tokens, self.learners.macs_per_run)

    def count(self, work: WorkCount, tokens: Tokens, decision: Decision) -> None:
        """Count one run."""
        work.tokens(tokens, per_token=self.gate.macs_per_token)
        work.learners(tokens, decision.k, self.learners.macs_per_run)

    def take_over(self, source: DenseFFN, x: Tensor) -> None:
        """Divide a dense network among the learners, by what its units contribute for ``x`` ``[T, D]``."""
        source.split_into(self.learners, x)

    def gates(self) -> list[PriceGate | ArgmaxGate]:
        """The one gate."""
        return [self.gate]

    def forward(
        self, x: Tensor, price: Tensor, tokens: Tokens, capacity: Tensor | None = None
    ) -> tuple[Tensor, Decision]:
        """``[T, D]``, the price and, perhaps, a capacity -> ``[T, D]`` and what was decided.

        ``tokens`` says which of the T are padding (they run nothing), or absent in training.
        """
        decision: Decision = self.gate(x, per_token(price, tokens), tokens.valid, capacity, tokens.per_sample)
        if self.training:
            return self.learners.masked(x, decision.mask), decision._replace(present=presence_of(tokens))
        return self.learners(x, decision.k), decision


class AdaptiveProjections(nn.Module):
    """Attention projections as ACMs: one gate for queries, keys and values, one for the output.

    At least one learner runs in each, as in the paper: attention without queries means nothing.
    """

    def __init__(self, config: ACMConfig, width: int, qkv_cost: float) -> None:
        super().__init__()
        rank = config.projection_rank(width)
        self.query, self.key, self.value, self.out = (
            ConditionalLinear(config.learners, width, rank, width) for _ in range(4)
        )
        gate = GATES[config.gate]
        self.qkv_gate = gate(width, config.learners, config.gate_width, qkv_cost, at_least=1)
        self.out_gate = gate(width, config.learners, config.gate_width, qkv_cost / 3, at_least=1)

    def layers(self, block: str, tokens: int) -> list[Layer]:
        """Count both parts for ``tokens`` tokens."""
        run, dense = self.out.macs_per_run, tokens * self.out.width * self.out.out
        return [
            Layer(f"{block}.qkv", 3 * dense, self.qkv_gate.macs_per_token * tokens, 3 * run),
            Layer(f"{block}.out", dense, self.out_gate.macs_per_token * tokens, run),
        ]

    def gates(self) -> list[PriceGate | ArgmaxGate]:
        """The gate of queries, keys and values, and that of the output."""
        return [self.qkv_gate, self.out_gate]

    def project(self, x: Tensor, price: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Decision]:
        """``[T, D]`` -> queries, keys, values (each ``[T, D]``) and their common decision."""
        decision: Decision = self.qkv_gate(x, per_token(price, tokens), tokens.valid)
        query, key, value = (
            part.masked(x, decision.mask) if self.training else part(x, decision.k)
            for part in (self.query, self.key, self.value)
        )
        return query, key, value, decision._replace(present=presence_of(tokens))

    def output(self, x: Tensor, price: Tensor, tokens: Tokens) -> tuple[Tensor, Decision]:
        """``[T, D]`` of attended values -> ``[T, D]`` and the decision."""
        decision: Decision = self.out_gate(x, per_token(price, tokens), tokens.valid)
        y = self.out.masked(x, decision.mask) if self.training else self.out(x, decision.k)
        return y, decision._replace(present=presence_of(tokens))


def per_token(price: Tensor, tokens: Tokens) -> Tensor:
    """In training every sample has a price of its own, ``[B, 1]``: one for each of its tokens."""
    return price.repeat_interleave(tokens.per_sample, 0) if price.ndim == 2 else price


def presence_of(tokens: Tokens) -> Tensor | None:
    """In training, which tokens would not have been pruned before, ``[T]``; None: all are there."""
    return None if tokens.presence is None else tokens.presence.detach().reshape(-1)
