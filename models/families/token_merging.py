"""Token merging (ToMe, arXiv 2210.09461, section 3): the most similar tokens become one, their mean.

Tokens alternate between two sets; each of the first is joined with its most similar one in the second,
by the cosine of their keys, and the ``r`` most similar pairs are merged, weighted by how many original
tokens each stands for. Attention then adds the logarithm of that number to its scores. The class token
is never merged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.symbolic.graph_sizes import scalar
from adaptrt.models.symbolic.segment_reduce import segment_reduce
from adaptrt.models.tokens import Attention, Selection, Tokens


def merged_segments(keys: Tensor, merge: Tensor, class_token: bool) -> tuple[Tensor, Tensor]:
    """Which token each token becomes a part of, and how near that is to being another.

    Args:
        keys: ``[B, K, d]``.
        merge: int64 ``[]``: how many tokens are merged away, r; at most half of them are.
        class_token: Whether the first token stays as it is.

    Returns:
        int32 ``[B, K]``, numbers 0..K - r - 1 in the order of the tokens that stay; and ``[B]``, the least
        difference of two similarities that would change them.
    """
    batch, count, _ = keys.shape
    unit = functional.normalize(keys.float(), dim=2)
    source, target = unit[:, 0::2], unit[:, 1::2]
    # The last column is nobody's, less similar than anyone: a single token has no partner, and needs an answer.
    nobody = torch.full_like(source[:, :, :1], -3.0)
    similarity = torch.cat([source @ target.transpose(1, 2), nobody], 2)
    best, partner = similarity.max(2)
    if class_token:
        best = torch.cat([torch.full_like(best[:, :1], -2.0), best[:, 1:]], 1)
    # Rank by counting who is more similar: ties go to the lower index.
    place = torch.arange(best.shape[1], device=keys.device)
    ahead = (best[:, None] > best[:, :, None]) | ((best[:, None] == best[:, :, None]) & (place < place[:, None]))
    leaves = ahead.sum(2) < merge
    stays = torch.ones(batch, count, dtype=torch.bool, device=keys.device)
    every = torch.arange(count, device=keys.device)
    half = (every // 2).clamp(max=best.shape[1] - 1)
    stays = stays & ~(leaves[:, half] & (every % 2 == 0))
    number = stays.to(torch.int32).cumsum(1) - 1
    joined = torch.gather(number, 1, (2 * partner + 1).clamp(max=count - 1)[:, half])
    segment = torch.where(stays, number, joined).to(torch.int32)
    if torch.onnx.is_in_onnx_export():
        return segment, torch.ones_like(best[:, 0])
    two = similarity.topk(min(2, similarity.shape[2]), dim=2).values
    partners = torch.where(leaves, two[:, :, 0] - two[:, :, -1], 2.0).amin(1)
    leaving, staying = torch.where(leaves, best, 2.0).amin(1), torch.where(leaves, -2.0, best).amax(1)
    return segment, torch.minimum(partners, leaving - staying)


class MergingSelector(nn.Module):
    """Merges until ``keep`` tokens of every sample are left; at most half of them can be merged away."""

    def __init__(self, class_token: bool) -> None:
        super().__init__()
        self.class_token = class_token

    def macs(self, tokens: int, key_width: int) -> int:
        """Multiply-accumulates for one sample: every second token's key with those between, also if none is merged."""
        return (tokens - tokens // 2) * (tokens // 2) * key_width

    def forward(
        self, tokens: Tokens, attention: Attention, price: Tensor, keep: Tensor | None
    ) -> tuple[Tokens, Selection]:
        """Merge; every sample keeps the same number, so nothing is padded. -1, or no number, merges nothing."""
        del price
        count = tokens.per_sample
        most = scalar((count - int(self.class_token)) // 2)
        merge = torch.zeros_like(most)
        if keep is not None:
            wanted = keep.reshape(()).to(torch.int64)
            merge = torch.where(wanted < 0, 0, torch.minimum((scalar(count) - wanted).clamp(min=0), most))
        segment, margin = merged_segments(attention.keys.mean(1), merge, self.class_token)
        size = tokens.size if tokens.size is not None else torch.ones_like(segment, dtype=torch.float32)
        y, sizes = segment_reduce(tokens.grouped(), segment, size, scalar(count) - merge, "mean")
        after = Tokens(y.reshape(-1, y.shape[2]), y.shape[1], None, None, sizes)
        number = torch.full_like(segment[:, 0], y.shape[1])
        return after, Selection(segment, number, margin[:, None].expand_as(size), disclosed=False)
