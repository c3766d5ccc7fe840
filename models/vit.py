"""A vision transformer whose FFNs, and optionally attention projections, may be ACMs.

Tokens of the whole batch stay flat, ``[B * T, D]``, from embedding to head: that is the shape the
``adaptrt`` ops work on, and it spares the graph a reshape around every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.acm import ACMConfig, AdaptiveFFN, AdaptiveProjections
from adaptrt.models.gate import ArgmaxGate, Decision, PriceGate
from adaptrt.models.macs import Layer


@dataclass(frozen=True)
class ViTConfig:
    """Shape of a vision transformer; ``acm`` is None for the dense model.

    Images are float32 ``[B, channels, image_size, image_size]`` in 0..1, normalised inside the model
    by ``mean`` and ``std``. Without ``class_token`` the head reads the mean of the tokens.
    """

    image_size: int = 8
    patch_size: int = 1
    channels: int = 1
    width: int = 192
    depth: int = 6
    heads: int = 3
    ffn_width: int = 768
    classes: int = 10
    class_token: bool = False
    mean: float = 0.0
    std: float = 1.0
    acm: ACMConfig | None = field(default=None)

    def __post_init__(self) -> None:
        sizes = (self.image_size, self.patch_size, self.channels, self.width, self.depth, self.heads, self.ffn_width)
        if min(*sizes, self.classes) < 1 or self.std <= 0:
            raise ValueError(f"got {self}, expected sizes of at least 1 and a std above 0")
        if self.image_size % self.patch_size or self.width % self.heads:
            raise ValueError(
                f"image size {self.image_size} and width {self.width} must be multiples of "
                f"patch size {self.patch_size} and heads {self.heads}"
            )
        if self.acm is not None:
            if self.ffn_width % self.acm.learners:
                raise ValueError(f"FFN width {self.ffn_width} is no multiple of {self.acm.learners} learners")
            if self.acm.projections and not self.acm.projection_rank(self.width):
                raise ValueError(f"width {self.width} is too small for {self.acm.learners} learners per projection")

    @property
    def tokens(self) -> int:
        """Tokens per image, the class token included."""
        return (self.image_size // self.patch_size) ** 2 + int(self.class_token)


class ViTOutput(NamedTuple):
    """Output of a ViT.

    Attributes:
        logits: ``[B, classes]``.
        macs_fraction: float32 ``[B]``: multiply-accumulates as a share of the dense model's.
        decisions: One per gate, in the order of ``ViT.gates()``; each over B * T tokens.
    """

    logits: Tensor
    macs_fraction: Tensor
    decisions: list[Decision]


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
    """Pre-norm transformer block over flat tokens."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, acm = config.width, config.acm
        self.tokens, self.heads = config.tokens, config.heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.projections: DenseProjections | AdaptiveProjections
        self.ffn: DenseFFN | AdaptiveFFN
        if acm is None:
            self.projections, self.ffn = DenseProjections(width), DenseFFN(width, config.ffn_width)
            return
        # The larger of the two kinds of learner costs 1, the other its share of that.
        ffn_macs = 2 * width * (config.ffn_width // acm.learners)
        qkv_macs = 3 * 2 * width * acm.projection_rank(width)
        largest = max(ffn_macs, qkv_macs) if acm.projections else ffn_macs
        if acm.projections:
            self.projections = AdaptiveProjections(acm, width, qkv_cost=qkv_macs / largest)
        else:
            self.projections = DenseProjections(width)
        self.ffn = AdaptiveFFN(acm, width, config.ffn_width, cost=ffn_macs / largest)

    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Softmax attention within each image: three times ``[B * T, D]`` -> ``[B * T, D]``."""
        width = query.shape[1]
        size = (-1, self.tokens, self.heads, width // self.heads)
        q, k, v = (part.reshape(size).transpose(1, 2) for part in (query, key, value))
        scores = q @ k.transpose(2, 3) * (width // self.heads) ** -0.5
        attended: Tensor = scores.softmax(-1) @ v
        return attended.transpose(1, 2).reshape(-1, width)

    def ffn_input(self, x: Tensor, price: Tensor | None) -> tuple[Tensor, Tensor, list[Decision]]:
        """Run the attention half: the FFN's normed input, the residual stream, the decisions made."""
        decisions: list[Decision] = []
        normed, p = self.norm1(x), self.projections
        if isinstance(p, AdaptiveProjections):
            q, k, v, decision = p.project(normed, _required(price))
            decisions.append(decision)
            attended, decision = p.output(self.attention(q, k, v), _required(price))
            decisions.append(decision)
            x = x + attended
        else:
            x = x + p.out(self.attention(p.query(normed), p.key(normed), p.value(normed)))
        return self.norm2(x), x, decisions

    def forward(self, x: Tensor, price: Tensor | None) -> tuple[Tensor, list[Decision]]:
        """``[B * T, D]`` and the price (float32 ``[1]``, in training ``[B * T, 1]``) -> the same, decisions."""
        normed, x, decisions = self.ffn_input(x, price)
        if isinstance(self.ffn, AdaptiveFFN):
            y, decision = self.ffn(normed, _required(price))
            decisions.append(decision)
        else:
            y = self.ffn(normed)
        return x + y, decisions


def _required(price: Tensor | None) -> Tensor:
    if price is None:
        raise ValueError("an adaptive model needs a price: give float32 [1]")
    return price


class ViT(nn.Module):
    """Vision transformer (arXiv 2010.11929), dense or with ACMs, chosen by its configuration."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.channels * config.patch_size**2, config.width)
        # As large as the embedded pixels: with the customary 0.02 a pixel token hardly knows where it is.
        self.position = nn.Parameter(torch.randn(config.tokens, config.width) * 0.5)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width)) if config.class_token else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, config.classes)
        self._macs_fixed, per_run = self._macs_shares()
        self.register_buffer("macs_per_run", torch.tensor(per_run), persistent=False)
        self.macs_per_run: Tensor

    @property
    def adaptive(self) -> bool:
        """Whether any module's work depends on its input."""
        return self.config.acm is not None

    def gates(self) -> list[PriceGate | ArgmaxGate]:
        """Every gate, in the order of the decisions in ``ViTOutput``."""
        found: list[PriceGate | ArgmaxGate] = []
        for block in self.blocks:
            assert isinstance(block, Block)
            for part in (block.projections, block.ffn):
                if isinstance(part, (AdaptiveProjections, AdaptiveFFN)):
                    found += part.gates()
        return found

    def price_limits(self) -> tuple[float, float]:
        """Prices at which every learner of every module runs, and at which as few as may be do.

        Raises:
            ValueError: The model is dense.
        """
        limits = [gate.price_limits for gate in self.gates()]
        if not limits:
            raise ValueError("got a dense model, expected one with gates")
        return min(low for low, _ in limits), max(high for _, high in limits)

    def layers(self) -> list[Layer]:
        """Multiply-accumulates of every layer for one image; see ``adaptrt.models.macs``."""
        c = self.config
        patches = c.tokens - int(c.class_token)
        found = [Layer("embed", patches * self.embed.in_features * c.width)]
        for index, block in enumerate(self.blocks):
            found.append(Layer(f"blocks.{index}.attention", 2 * c.tokens**2 * c.width))
            dense_projections, dense_ffn = c.tokens * 4 * c.width**2, c.tokens * 2 * c.width * c.ffn_width
            if isinstance(block.projections, AdaptiveProjections):
                found += block.projections.layers(f"blocks.{index}", c.tokens)
            else:
                found.append(Layer(f"blocks.{index}.projections", dense_projections))
            if isinstance(block.ffn, AdaptiveFFN):
                found.append(block.ffn.layer(f"blocks.{index}.ffn", c.tokens, dense_ffn))
            else:
                found.append(Layer(f"blocks.{index}.ffn", dense_ffn))
        found.append(Layer("head", c.width * c.classes))
        return found

    def _macs_shares(self) -> tuple[float, list[float]]:
        layers = self.layers()
        dense = sum(layer.dense for layer in layers)
        fixed = sum(layer.fixed for layer in layers) / dense
        return fixed, [layer.per_run / dense for layer in layers if layer.per_run]

    def dense_macs(self) -> int:
        """Multiply-accumulates of the dense model for one image."""
        return sum(layer.dense for layer in self.layers())

    def embed_images(self, pixels: Tensor) -> Tensor:
        """``[B, C, H, W]`` in 0..1 -> flat tokens ``[B * T, D]``."""
        c = self.config
        side, p = c.image_size // c.patch_size, c.patch_size
        patches = pixels.reshape(-1, c.channels, side, p, side, p).permute(0, 2, 4, 1, 3, 5)
        patches = (patches.reshape(-1, side * side, c.channels * p * p) - c.mean) / c.std
        x = self.embed(patches)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], 1)
        tokens: Tensor = x + self.position
        return tokens.reshape(-1, c.width)

    def forward(self, pixels: Tensor, price: Tensor | None = None) -> ViTOutput:
        """Classify images.

        Args:
            pixels: float32 ``[B, channels, image_size, image_size]`` in 0..1.
            price: float32 ``[1]``, or in training one per image, ``[B, 1]``. Not read by a dense model.
        """
        c = self.config
        if price is not None and price.ndim == 2:
            price = price.repeat_interleave(c.tokens, 0)
        x = self.embed_images(pixels)
        decisions: list[Decision] = []
        for block in self.blocks:
            x, made = block(x, price)
            decisions += made
        images = x.reshape(-1, c.tokens, c.width)
        pooled = images[:, 0] if c.class_token else images.mean(1)
        logits = self.head(self.norm(pooled))
        return ViTOutput(logits, self.macs_fraction(decisions, logits), decisions)

    def macs_fraction(self, decisions: list[Decision], like: Tensor) -> Tensor:
        """Share of the dense model's multiply-accumulates each image used, float32 ``[B]``."""
        if not decisions:
            return torch.full_like(like[:, 0], self._macs_fixed)
        runs = torch.cat([decision.k for decision in decisions]).reshape(len(decisions), -1, self.config.tokens)
        return self.macs_per_run @ runs.to(torch.float32).sum(2) + self._macs_fixed
