"""Transformer block over flat tokens: dense or with ACMs, with or without a token selection inside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.families.acm import ACMConfig, AdaptiveFFN, AdaptiveProjections
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.gate import ArgmaxGate, Decision, PriceGate
from adaptrt.models.families.token_merging import MergingSelector
from adaptrt.models.families.token_pruning import FixedCountSelector, PriceSelector, PruningConfig
from adaptrt.models.tokens import Attention, Selection, Tokens

MASKED = -1e9
"""Score of a key that is padding: large and finite, so that no row of a softmax is NaN."""
_LARGEST_ABSENT = 5.0
"""In training, how far the score of an absent key counts above the largest of the present ones."""


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of a transformer encoder and what in it is adaptive; all of that None is the dense model.

    ``class_token``: whether the first token stands for the sample; otherwise heads read the tokens' mean.
    ``post_norm``: normalise after each half of a block, as BERT does, not before it.
    ``hard_budgets``: whether gates can also be told how many learners run per sample.
    """

    width: int = 192
    depth: int = 6
    heads: int = 3
    ffn_width: int = 768
    classes: int = 10
    class_token: bool = False
    post_norm: bool = False
    acm: ACMConfig | None = field(default=None)
    pruning: PruningConfig | None = field(default=None)
    exits: ExitConfig | None = field(default=None)
    hard_budgets: bool = False

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads, self.ffn_width, self.classes) < 1:
            raise ValueError(f"got {self}, expected sizes of at least 1")
        if self.width % self.heads:
            raise ValueError(f"got width {self.width}, expected a multiple of {self.heads} heads")
        if self.acm is not None:
            if self.ffn_width % self.acm.learners:
                raise ValueError(f"FFN width {self.ffn_width} is no multiple of {self.acm.learners} learners")
            if self.acm.projections and not self.acm.projection_rank(self.width):
                raise ValueError(f"width {self.width} is too small for {self.acm.learners} learners per projection")
            if self.hard_budgets and (self.acm.gate != "price" or self.acm.projections):
                raise ValueError("got hard budgets with an argmax gate or projections, expected price gates in FFNs")
        if self.pruning is not None and self.pruning.blocks[-1] >= self.depth:
            raise ValueError(f"got pruning in block {self.pruning.blocks[-1]}, expected 0 to {self.depth - 1}")
        if self.pruning is not None and self.pruning.rule != "price" and (self.acm or self.exits):
            raise ValueError(f"got pruning rule {self.pruning.rule!r} with ACMs or exits, expected 'price' beside them")
        if self.exits is not None:
            self.exits.require_depth(self.depth)

    @property
    def adaptive(self) -> bool:
        """Whether any module's work depends on its input or on a knob."""
        return any(part is not None for part in (self.acm, self.pruning, self.exits))


class Prices(NamedTuple):
    """What the decisions of one run compare with or obey; None where it is not given.

    Attributes:
        price: Of ACMs, on their gates' scale; float32 ``[1]``, in training ``[B, 1]``.
        token_price: Of selectors, on their scale; likewise.
        capacity: int32 ``[gates]``: learner runs per sample; -1 leaves them to the price.
        keep: int32 ``[selections]``: tokens that stay; -1 leaves it to the price, or keeps all.
    """

    price: Tensor | None = None
    token_price: Tensor | None = None
    capacity: Tensor | None = None
    keep: Tensor | None = None


class DenseProjections(nn.Module):
    """Queries, keys, values and output of attention as four linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)


class DenseFFN(nn.Module):
    """The feed-forward network that an ACM replaces: Linear, exact GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[T, D] -> [T, D]``."""
        y: Tensor = self.down(functional.gelu(self.up(x)))
        return y


class Block(nn.Module):
    """Transformer block: attention, perhaps a token selection, FFN.

    ``gate_offset`` and ``selection`` number its gates and its selection through the network.
    """

    def __init__(self, config: EncoderConfig, number: int) -> None:
        super().__init__()
        width, acm = config.width, config.acm
        self.heads, self.post_norm = config.heads, config.post_norm
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.projections: DenseProjections | AdaptiveProjections
        self.ffn: DenseFFN | AdaptiveFFN
        self.gate_offset = 0 if acm is None else number * (3 if acm.projections else 1)
        if acm is None:
            self.projections, self.ffn = DenseProjections(width), DenseFFN(width, config.ffn_width)
        else:
            # The larger of the two kinds of learner costs 1, the other its share of that.
            ffn_macs = 2 * width * (config.ffn_width // acm.learners)
            qkv_macs = 3 * 2 * width * acm.projection_rank(width)
            largest = max(ffn_macs, qkv_macs) if acm.projections else ffn_macs
            if acm.projections:
                self.projections = AdaptiveProjections(acm, width, qkv_cost=qkv_macs / largest)
            else:
                self.projections = DenseProjections(width)
            self.ffn = AdaptiveFFN(acm, width, config.ffn_width, cost=ffn_macs / largest)
        self.selector, self.selection = _selector(config, number)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, tokens: Tokens) -> tuple[Tensor, Attention]:
        """Softmax attention within each sample: three times ``[B * K, D]`` -> ``[B * K, D]``."""
        width = query.shape[1]
        size = (-1, tokens.per_sample, self.heads, width // self.heads)
        q, k, v = (part.reshape(size).transpose(1, 2) for part in (query, key, value))
        scores = q @ k.transpose(2, 3) * (width // self.heads) ** -0.5
        if tokens.size is not None:
            scores = scores + tokens.size.log()[:, None, None]
        if tokens.valid is not None:
            scores = scores + torch.where(tokens.valid, 0.0, MASKED)[:, None, None]
        if tokens.presence is None:
            probabilities = scores.softmax(-1)
        else:  # an absent token gets nothing, and its presence a gradient (DynamicViT, arXiv 2106.02034, eq. 11)
            presence = tokens.presence[:, None, None]
            # The largest score of those present: an absent one must neither hide them nor grow without limit.
            largest = torch.where(presence > 0.5, scores.detach(), MASKED).amax(-1, keepdim=True)
            weight = (scores - largest).clamp(max=_LARGEST_ABSENT).exp() * presence
            probabilities = weight / weight.sum(-1, keepdim=True)
        attended: Tensor = probabilities.to(v.dtype) @ v
        return attended.transpose(1, 2).reshape(-1, width), Attention(probabilities, k)

    def attention_half(self, tokens: Tokens, prices: Prices) -> tuple[Tokens, Attention, list[Decision]]:
        """Attention and its residual sum, the decisions made in it."""
        decisions: list[Decision] = []
        x, p = tokens.x, self.projections
        normed = x if self.post_norm else self.norm1(x)
        if isinstance(p, AdaptiveProjections):
            q, k, v, decision = p.project(normed, required(prices.price), tokens)
            decisions.append(decision)
            attended, attention = self.attend(q, k, v, tokens)
            attended, decision = p.output(attended, required(prices.price), tokens)
            decisions.append(decision)
        else:
            attended, attention = self.attend(p.query(normed), p.key(normed), p.value(normed), tokens)
            attended = p.out(attended)
        x = x + attended
        return tokens._replace(x=self.norm1(x) if self.post_norm else x), attention, decisions

    def forward(self, tokens: Tokens, prices: Prices) -> tuple[Tokens, list[Decision | Selection]]:
        """Run the block on ``[B * K, D]``; the decisions in the order in which they were made."""
        tokens, attention, made = self.attention_half(tokens, prices)
        decisions: list[Decision | Selection] = [*made]
        if self.selector is not None:
            keep = None if prices.keep is None else prices.keep[self.selection : self.selection + 1]
            token_price = torch.zeros(1) if prices.token_price is None else prices.token_price
            tokens, selection = self.selector(tokens, attention, token_price, keep)
            decisions.append(selection)
        x = tokens.x
        normed = x if self.post_norm else self.norm2(x)
        if isinstance(self.ffn, AdaptiveFFN):
            number = self.gate_offset + len(made)
            capacity = None if prices.capacity is None else prices.capacity[number : number + 1]
            y, decision = self.ffn(normed, required(prices.price), tokens, capacity)
            decisions.append(decision)
        else:
            y = self.ffn(normed)
        x = x + y
        return tokens._replace(x=self.norm2(x) if self.post_norm else x), decisions

    def gates(self) -> list[PriceGate | ArgmaxGate]:
        """Its gates, in the order in which they decide."""
        found: list[PriceGate | ArgmaxGate] = []
        for part in (self.projections, self.ffn):
            if isinstance(part, (AdaptiveProjections, AdaptiveFFN)):
                found += part.gates()
        return found


def _selector(
    config: EncoderConfig, number: int
) -> tuple[PriceSelector | FixedCountSelector | MergingSelector | None, int]:
    pruning = config.pruning
    if pruning is None or number not in pruning.blocks:
        return None, -1
    selection = pruning.blocks.index(number)
    if pruning.rule == "price":
        return PriceSelector(config.width, config.class_token), selection
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
