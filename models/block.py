"""The canonical transformer block over flat tokens: dense or with ACMs, with or without a token selection inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from adaptrt.models.attention import SoftmaxAttention
from adaptrt.models.encoder_config import EncoderConfig
from adaptrt.models.families.acm import AdaptiveFFN, AdaptiveProjections
from adaptrt.models.families.gate import ArgmaxGate, Decision, PriceGate
from adaptrt.models.families.routed_ffn import RoutedFFN, RoutedFFNConfig
from adaptrt.models.families.token_merging import MergingSelector
from adaptrt.models.families.token_pruning import FixedCountSelector, PriceSelector
from adaptrt.models.macs import Layer
from adaptrt.models.tokens import Attention, Selection, Tokens
from adaptrt.models.work import WorkCount
from adaptrt.ops.activations import activation_named


class Prices(NamedTuple):
    """What the decisions of one run compare with or obey; None where it is not given.

    Attributes:
        price: Of ACMs, on their gates' scale; float32 ``[1]``, in training ``[B, 1]``.
        token_price: Of selectors, on their scale; likewise.
        capacity: int32 ``[gates]``: learner runs per sample; -1 leaves them to the price.
        keep: int32 ``[selections]``: tokens that stay; -1 leaves it to the price, or keeps all.
        others: Knobs of further families, by name.
    """

    price: Tensor | None = None
    token_price: Tensor | None = None
    capacity: Tensor | None = None
    keep: Tensor | None = None
    others: Mapping[str, Tensor] = {}


def make_norm(config: EncoderConfig) -> nn.LayerNorm | nn.RMSNorm:
    """The normalisation of a network's kind."""
    kind = nn.LayerNorm if config.norm == "layer" else nn.RMSNorm
    return kind(config.width, eps=config.epsilon)


def make_final_norm(config: EncoderConfig) -> nn.Module:
    """What stands between the last block and a head: a normalisation, or nothing."""
    return make_norm(config) if config.final_norm else nn.Identity()


class DenseProjections(nn.Module):
    """Queries, keys, values and output of attention as four linear layers."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, bias = config.width, config.attention_bias
        self.query = nn.Linear(width, config.attention_width, bias)
        self.key = nn.Linear(width, config.key_width, bias)
        self.value = nn.Linear(width, config.key_width, bias)
        self.out = nn.Linear(config.attention_width, width, bias)


class DenseFFN(nn.Module):
    """The feed-forward network that an ACM replaces: linear, activation, linear; or gated (arXiv 2002.05202)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, hidden, bias = config.width, config.ffn_width, config.ffn_bias
        self.activation = activation_named(config.activation, gated=config.gated)
        self.up, self.down = nn.Linear(width, hidden, bias), nn.Linear(hidden, width, bias)
        self.gate_up = nn.Linear(width, hidden, bias) if config.gated else None

    def forward(self, x: Tensor) -> Tensor:
        """``[T, D] -> [T, D]``."""
        hidden: Tensor
        if self.gate_up is None:
            hidden = self.activation.torch(torch, self.up(x))
        else:
            hidden = self.activation.torch(torch, self.gate_up(x)) * self.up(x)
        y: Tensor = self.down(hidden)
        return y

    def split_into(self, learners: nn.Module, x: Tensor) -> None:
        """Give its weights to an ACM's learners, by what its hidden units contribute for inputs ``x`` ``[T, D]``."""
        if self.gate_up is None:
            learners.split_dense(self.up, self.down, x)  # type: ignore[operator]
        else:
            learners.split_gated(self.gate_up, self.up, self.down, x)  # type: ignore[operator]


class Block(nn.Module):
    """Transformer block: attention, perhaps a token selection, FFN.

    ``gate_offset`` and ``selection`` number its gates and its selection through the network.
    """

    def __init__(self, config: EncoderConfig, number: int) -> None:
        super().__init__()
        acm, self.config = config.acm, config
        self.post_norm = config.post_norm
        self.norm1: nn.Module = make_norm(config) if number or config.first_norm else nn.Identity()
        self.norm2 = make_norm(config)
        self.projections: DenseProjections | AdaptiveProjections
        self.ffn: DenseFFN | AdaptiveFFN
        self.gate_offset = 0 if acm is None else number * (3 if acm.projections else 1)
        if acm is not None and acm.projections:
            self.projections = AdaptiveProjections(acm, config.width, qkv_cost=acm.costs(config)[1])
        else:
            self.projections = DenseProjections(config)
        routed = next((family for family in config.families if isinstance(family, RoutedFFNConfig)), None)
        if routed is not None:
            self.ffn = RoutedFFN(routed, config)
        else:
            self.ffn = DenseFFN(config) if acm is None else AdaptiveFFN(acm, config)
        self.attention = SoftmaxAttention(config, number)
        self.scale1 = nn.Parameter(torch.ones(config.width)) if config.layer_scale else None
        self.scale2 = nn.Parameter(torch.ones(config.width)) if config.layer_scale else None
        self.selector, self.selection = _selector(config, number)
        parts = {family.name: family.part(config, number) for family in config.families}
        self.parts = nn.ModuleDict({name: part for name, part in parts.items() if part is not None})

    def attention_half(self, tokens: Tokens, prices: Prices) -> tuple[Tokens, Attention, list[Decision]]:
        """Attention and its residual sum, the decisions made in it."""
        decisions: list[Decision] = []
        x, p = tokens.x, self.projections
        normed = x if self.post_norm else self.norm1(x)
        if isinstance(p, AdaptiveProjections):
            q, k, v, decision = p.project(normed, required(prices.price), tokens)
            decisions.append(decision)
            attended, attention = self.attention(q, k, v, tokens)
            attended, decision = p.output(attended, required(prices.price), tokens)
            decisions.append(decision)
        else:
            attended, attention = self.attention(p.query(normed), p.key(normed), p.value(normed), tokens)
            attended = p.out(attended)
        x = x + (attended if self.scale1 is None else attended * self.scale1)
        return tokens._replace(x=self.norm1(x) if self.post_norm else x), attention, decisions

    def ffn_sum(self, x: Tensor, y: Tensor) -> Tensor:
        """The residual sum of the second half: ``[T, D]`` twice -> ``[T, D]``."""
        x = x + (y if self.scale2 is None else y * self.scale2)
        return self.norm2(x) if self.post_norm else x

    def forward(self, tokens: Tokens, prices: Prices) -> tuple[Tokens, list[Decision | Selection]]:
        """Run the block on ``[B * K, D]``; the decisions in the order in which they were made."""
        tokens, attention, attention_decisions = self.attention_half(tokens, prices)
        decisions: list[Decision | Selection] = [*attention_decisions]
        if self.selector is not None:
            keep = None if prices.keep is None else prices.keep[self.selection : self.selection + 1]
            token_price = torch.zeros(1, device=tokens.x.device) if prices.token_price is None else prices.token_price
            tokens, selection = self.selector(tokens, attention, token_price, keep)
            decisions.append(selection)
        x = tokens.x
        normed = x if self.post_norm else self.norm2(x)
        if isinstance(self.ffn, AdaptiveFFN):
            number = self.gate_offset + len(attention_decisions)
            capacity = None if prices.capacity is None else prices.capacity[number : number + 1]
            price = prices.others.get(self.ffn.own_price) if self.ffn.own_price else prices.price
            y, decision = self.ffn(normed, required(price), tokens, capacity)
            decisions.append(decision)
        else:
            y = self.ffn(normed)
        tokens = tokens._replace(x=self.ffn_sum(x, y))
        for part in self.parts.values():
            tokens, more = part(tokens, prices)
            decisions += more
        return tokens, decisions

    def gates(self) -> list[PriceGate | ArgmaxGate]:
        """Its gates, in the order in which they decide."""
        gates: list[PriceGate | ArgmaxGate] = []
        for part in (self.projections, self.ffn):
            if isinstance(part, (AdaptiveProjections, AdaptiveFFN)):
                gates += part.gates()
        return gates

    def count(self, work: WorkCount, before: Tokens, after: Tokens, decisions: Sequence[Decision | Selection]) -> None:
        """Count one run: projections and attention for the tokens before its selection, the FFN after."""
        c = self.config
        gates = [decision for decision in decisions if isinstance(decision, Decision)]
        if isinstance(self.projections, AdaptiveProjections):
            for part, decision in zip(self.projections.layers("", 1), gates, strict=False):
                work.tokens(before, per_token=part.gate)
                work.learners(before, decision.k, part.per_run)
            work.tokens(before, per_pair=2 * c.attention_width)
        else:
            work.tokens(before, per_token=c.projection_macs, per_pair=2 * c.attention_width)
        if self.selector is not None:
            work.constant(self.selector.macs(before.per_sample, c.head_width))
        if isinstance(self.ffn, AdaptiveFFN):
            self.ffn.count(work, after, gates[-1])
        else:
            work.tokens(after, per_token=c.ffn_macs)
        for more in self.parts.values():
            more.count(work, after)  # type: ignore[operator]

    def layers(self, name: str, tokens: int) -> list[Layer]:
        """Multiply-accumulates of its layers for one sample of so many tokens, none pruned."""
        c = self.config
        layers = [Layer(f"{name}.attention", 2 * tokens**2 * c.attention_width)]
        if isinstance(self.projections, AdaptiveProjections):
            layers += self.projections.layers(name, tokens)
        else:
            layers.append(Layer(f"{name}.projections", tokens * c.projection_macs))
        dense = tokens * c.ffn_macs
        if isinstance(self.ffn, AdaptiveFFN):
            return [*layers, self.ffn.layer(f"{name}.ffn", tokens, dense)]
        return [*layers, Layer(f"{name}.ffn", dense)]


def _selector(
    config: EncoderConfig, number: int
) -> tuple[PriceSelector | FixedCountSelector | MergingSelector | None, int]:
    pruning = config.pruning
    if pruning is None or number not in pruning.blocks:
        return None, -1
    selection = pruning.blocks.index(number)
    if pruning.rule == "price":
        return PriceSelector(config.width, config.class_token, pruning.averages_dropped), selection
    if pruning.rule == "fixed":
        return FixedCountSelector(config.class_token), selection
    return MergingSelector(config.class_token), selection


def required(price: Tensor | None) -> Tensor:
    """The price, which an adaptive module cannot do without.

    Raises:
        ValueError: It is None.
    """
    if price is None:
        raise ValueError("an adaptive model needs a price: give float32 [1]")
    return price
