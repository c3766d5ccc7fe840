"""A decoder whose call gives out the new rows of its cache and never reads or writes a cache of its own.

What each token attends to is an input, so that a prompt, one token, a part of a prompt, padding, an evicted row and a
tree of drafted tokens are the same graph; the runtime keeps the rows of the tokens that stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from adaptrt.models.attention import turned
from adaptrt.models.block import DenseFFN, DenseProjections, make_norm
from adaptrt.models.decoder_config import DecoderConfig


class CacheRows(NamedTuple):
    """Of one layer: ``key`` (after rotation) and ``value``, each ``[B, key heads, rows, head width]``."""

    key: Tensor
    value: Tensor


class DecoderBlock(nn.Module):
    """Attention over the cache and the new tokens, then a gated feed-forward network, each normalised first."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.key_heads = config.heads, config.key_heads or config.heads
        self.head_width = config.head_width
        self.norm1, self.norm2 = make_norm(config), make_norm(config)
        self.attention, self.ffn = DenseProjections(config), DenseFFN(config)
        if config.query_bias and not config.attention_bias:
            for name, width in (
                ("query", config.attention_width),
                ("key", config.key_width),
                ("value", config.key_width),
            ):
                setattr(self.attention, name, nn.Linear(config.width, width))

    def forward(
        self, x: Tensor, past: CacheRows, bias: Tensor, cosine: Tensor, sine: Tensor
    ) -> tuple[Tensor, CacheRows]:
        """``[B, S, D]`` -> the same, and the new tokens' rows.

        Args:
            x: The new tokens.
            past: Of ``C`` rows, filled or not.
            bias: ``[B, 1, S, C + S]``, added to the scores.
            cosine: Of the rotation, ``[B, 1, S, head width / 2]``.
            sine: Likewise.
        """
        batch, new = x.shape[:2]
        normed = self.norm1(x)
        q = self.attention.query(normed).reshape(batch, new, self.heads, self.head_width).transpose(1, 2)
        k, v = (
            layer(normed).reshape(batch, new, self.key_heads, self.head_width).transpose(1, 2)
            for layer in (self.attention.key, self.attention.value)
        )
        rows = CacheRows(turned(k, cosine, sine), v)
        # Heads that share keys stay an axis of their own: at one token that is faster than rows of one product, and
        # nothing is repeated.
        grouped = (batch, self.key_heads, self.heads // self.key_heads, new, self.head_width)
        q = (turned(q, cosine, sine) * self.head_width**-0.5).reshape(grouped)
        # Two products each instead of one over joined rows: a joined cache would be copied in every call.
        scores = torch.cat([q @ part.key[:, :, None].transpose(3, 4) for part in (past, rows)], -1)
        probabilities = (scores + bias[:, :, None]).softmax(-1)
        filled = past.key.shape[2]
        old, own = probabilities[..., :filled], probabilities[..., filled:]
        attended = old @ past.value[:, :, None] + own @ rows.value[:, :, None]
        x = x + self.attention.out(attended.reshape(batch, self.heads, new, -1).transpose(1, 2).reshape(batch, new, -1))
        return x + self.ffn(self.norm2(x)), rows


class Decoder(nn.Module):
    """Ids to logits of the next ids.

    Args:
        config: Its shape.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.depth))
        self.norm = make_norm(config)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.tied:
            self.head.weight = self.embed.weight

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_bias: Tensor,
        logit_rows: Tensor,
        past: Sequence[CacheRows],
    ) -> tuple[Tensor, list[CacheRows]]:
        """Logits ``[B, L, V]`` and each layer's new rows.

        Args:
            input_ids: int64 ``[B, S]``.
            position_ids: int64 ``[B, S]``.
            attention_bias: ``[B, 1, S, C + S]``: 0 where a token attends, -1e9 where not.
            logit_rows: int64 ``[B, L]``, of the S new tokens those whose logits are wanted.
            past: Of each layer, C rows.
        """
        half = self.config.head_width // 2
        speed = self.config.rotary_base ** (-torch.arange(half, dtype=torch.float32, device=input_ids.device) / half)
        angle = (position_ids[:, :, None].to(torch.float32) * speed)[:, None]
        cosine, sine = angle.cos(), angle.sin()
        x, new = self.embed(input_ids), []
        for block, rows in zip(self.blocks, past, strict=True):
            x, added = block(x, rows, attention_bias, cosine, sine)
            new.append(added)
        wanted = x.gather(1, logit_rows[:, :, None].expand(-1, -1, x.shape[2]))
        return self.head(self.norm(wanted)), new

    def empty_cache(self, batch: int, rows: int) -> list[CacheRows]:
        """Zeros for every layer."""
        size = (batch, self.config.key_heads or self.config.heads, rows, self.config.head_width)
        return [CacheRows(torch.zeros(size), torch.zeros(size)) for _ in self.blocks]
