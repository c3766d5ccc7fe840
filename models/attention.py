"""Attention within each sample: positions, windows, masks, tokens that stand for several."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.encoder_config import EncoderConfig
from adaptrt.models.tokens import Attention, Tokens

MASKED = -1e9
"""Score of a key that is padding: large and finite, so that no row of a softmax is NaN."""
_LARGEST_ABSENT = 5.0
"""In training, how far the score of an absent key counts above the largest of the present ones."""


class SoftmaxAttention(nn.Module):
    """Softmax attention (arXiv 1706.03762) with a block's options.

    Positions, where scores depend on them, are those that tokens had before any selection. It has weights only where
    positions are relative: ``bias`` ``[heads, 2 * reach + 1]``, by distance, those beyond the reach sharing the last;
    or ``[heads, rows, rows]``, by query and key, where each pair has its own. A rotary table is ``cosine`` and ``sine``
    ``[rows, head width / 2]``.

    Args:
        config: The network's shape.
        number: Of the block, which says what its window is.
    """

    def __init__(self, config: EncoderConfig, number: int) -> None:
        super().__init__()
        self.heads, self.key_heads = config.heads, config.key_heads or config.heads
        self.head_width, self.causal = config.head_width, config.causal
        self.window = config.windows[number % len(config.windows)] if config.windows else 0
        self.rotary_base = config.rotary_base if config.positions == "rotary" else None
        self.reach = config.relative_reach
        self.by_pair, rows = config.positions == "pair", config.position_rows
        sizes = {"relative": (2 * self.reach + 1,), "pair": (rows, rows)}.get(config.positions)
        self.bias = None if sizes is None else nn.Parameter(torch.zeros(config.heads, *sizes))
        self.cosine: Tensor | None
        self.sine: Tensor | None
        table = torch.zeros(rows, self.head_width // 2) if config.positions == "table" else None
        self.register_buffer("cosine", None if table is None else table + 1)
        self.register_buffer("sine", table)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, tokens: Tokens) -> tuple[Tensor, Attention]:
        """``[B * K, heads * d]``, twice ``[B * K, key_heads * d]`` -> ``[B * K, heads * d]``."""
        size = (-1, tokens.per_sample)
        q = query.reshape((*size, self.heads, self.head_width)).transpose(1, 2)
        k, v = (part.reshape((*size, self.key_heads, self.head_width)).transpose(1, 2) for part in (key, value))
        if self.rotary_base is not None:
            position = _positions(tokens, query)
            q, k = _rotated(q, position, self.rotary_base), _rotated(k, position, self.rotary_base)
        if self.cosine is not None and self.sine is not None:
            position = _positions(tokens, query)
            cosine, sine = (functional.embedding(position, table)[:, None] for table in (self.cosine, self.sine))
            q, k = turned(q, cosine, sine), turned(k, cosine, sine)
        if self.key_heads != self.heads:
            k, v = (part.repeat_interleave(self.heads // self.key_heads, dim=1) for part in (k, v))
        scores = q @ k.transpose(2, 3) * self.head_width**-0.5
        scores = self._placed(scores, tokens)
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
        return attended.transpose(1, 2).reshape(-1, self.heads * self.head_width), Attention(probabilities, k)

    def _placed(self, scores: Tensor, tokens: Tokens) -> Tensor:
        """Scores ``[B, H, K, K]`` with what distances add to them."""
        if self.bias is None and not self.window and not self.causal:
            return scores
        position = _positions(tokens, scores)
        if self.by_pair and self.bias is not None:
            scores = scores + self._pair_bias(self.bias, tokens, position)
            if not self.window and not self.causal:
                return scores
        distance = position[:, None, :] - position[:, :, None]  # of the key from the query
        if self.bias is not None and not self.by_pair:
            place = distance.clamp(-self.reach, self.reach) + self.reach
            # A look-up of rows: indexing would become a GatherND.
            scores = scores + functional.embedding(place, self.bias.T).permute(0, 3, 1, 2)
        seen = distance <= 0 if self.causal else None
        if self.window:
            near = distance.abs() <= self.window // 2
            seen = near if seen is None else seen & near
        return scores if seen is None else scores + torch.where(seen, 0.0, MASKED)[:, None]

    @staticmethod
    def _pair_bias(bias: Tensor, tokens: Tokens, position: Tensor) -> Tensor:
        """What each pair of tokens adds to its score: ``[1, H, K, K]``, or ``[B, H, K, K]`` after a selection."""
        heads, rows, _ = bias.shape
        if tokens.position is None and tokens.per_sample == rows:
            return bias[None]
        # One look-up of whole numbers: indexing by two tensors would become a GatherND.
        pair = position[:, :, None] * rows + position[:, None, :]
        by_pair = functional.embedding(pair, bias.reshape(heads, rows * rows).T)
        return by_pair.permute(0, 3, 1, 2)


def _positions(tokens: Tokens, like: Tensor) -> Tensor:
    """Where each token was before any selection: int64 ``[B, K]``, or ``[1, K]`` where all are in place."""
    if tokens.position is not None:
        return tokens.position.to(torch.int64)
    return torch.arange(tokens.per_sample, device=like.device)[None]


def _rotated(x: Tensor, position: Tensor, base: float) -> Tensor:
    """Rotate pairs of dimensions, one of each half, by angles that grow with the position (arXiv 2104.09864).

    Args:
        x: ``[B, H, K, d]``.
        position: int64 ``[B or 1, K]``.
        base: Of the angles' speeds.
    """
    half = x.shape[3] // 2
    speed = base ** (-torch.arange(half, dtype=torch.float32, device=x.device) / half)
    angle = (position[:, :, None].to(torch.float32) * speed)[:, None]
    return turned(x, angle.cos().to(x.dtype), angle.sin().to(x.dtype))


def turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate ``[B, H, K, d]`` by angles whose cosines and sines are ``[B or 1, 1, K, d / 2]``."""
    half = x.shape[3] // 2
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)
