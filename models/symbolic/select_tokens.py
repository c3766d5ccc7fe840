"""Token selection in torch: the function that computes ``adaptrt::SelectTokens``.

Used by token pruning (ATP-LLaVA, EViT and others); ``ops/select_tokens.py`` says what it means exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adaptrt.models.symbolic.dynamic_sizes import count_size, size_in_graph
from adaptrt.models.symbolic.graph_sizes import in_onnx_export, scalar
from adaptrt.ops import DOMAIN, OPSET_VERSION

_INVALID_TIER = 4


@dataclass(frozen=True)
class Selected:
    """Kept tokens, in their original order and packed to the front.

    Attributes:
        y: ``[B, K, D]``, exact copies of rows of x, 0 from ``count`` on. K is the largest count.
        index: int32 ``[B, K]``, where each token was, 0 from ``count`` on.
        count: int32 ``[B]``, tokens kept.
    """

    y: Tensor
    index: Tensor
    count: Tensor


def select_tokens(
    x: Tensor,
    score: Tensor,
    valid: Tensor,
    forced: Tensor,
    threshold: Tensor,
    keep_min: Tensor | int,
    keep_max: Tensor | int,
    *,
    limits: str = "any",
) -> Selected:
    """Keep the tokens that are forced or whose score is above the threshold, between two limits.

    In an ONNX export this becomes one node of the domain ``adaptrt``. How many tokens stay is known only
    when the graph runs; see ``dynamic_sizes``.

    Args:
        x: ``[B, T, D]``; gradients reach it through ``y``.
        score: ``[B, T]``, compared in float32; NaN is below every number.
        valid: bool ``[B, T]``; false for padding, which never stays.
        forced: bool ``[B, T]``; true for tokens that go first, if they are valid.
        threshold: ``[B]``, compared in float32.
        keep_min: int64 ``[]`` or a number: at least so many stay, as far as there are valid ones.
        keep_max: int64 ``[]`` or a number: at most so many stay. Below ``keep_min`` it wins.
        limits: "any", or "none": what is wanted stays, no limit is read. One file has one kind.

    Raises:
        RuntimeError: Torch traces for something else than ONNX, or outside of adaptrt's export.
    """
    score, threshold = score.to(torch.float32), threshold.to(torch.float32)
    if in_onnx_export("select_tokens"):
        batch, _, width = x.shape
        size = size_in_graph("select_tokens")
        inputs = (x, score, valid, forced, threshold, scalar(keep_min), scalar(keep_max))
        y, index, count = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::SelectTokens",
            inputs,
            attrs={"limits": limits},
            dtypes=(x.dtype, torch.int32, torch.int32),
            shapes=((batch, size, width), (batch, size), (batch,)),
            version=OPSET_VERSION,
        )
        return Selected(y, index, count)
    count_size()
    wanted = valid & (forced | (score > threshold[:, None]))
    count = wanted.sum(1)
    if limits == "any":
        least, most = torch.stack([scalar(keep_min), scalar(keep_max)]).to(x.device)
        count = torch.minimum(torch.minimum(torch.maximum(count, least), most), valid.sum(1)).clamp(min=0)
    largest = int(count.max()) if len(count) else 0
    tokens = x.shape[1]
    place = torch.arange(largest, device=x.device)
    real = place < count[:, None]
    chosen = torch.where(real, _ranked(score, valid, forced)[:, :largest], tokens).sort(1).values
    index = torch.where(real, chosen, 0)
    rows = x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))
    y = torch.where(real[:, :, None], rows, torch.zeros((), dtype=x.dtype, device=x.device))
    return Selected(y, index.to(torch.int32), count.to(torch.int32))


def _ranked(score: Tensor, valid: Tensor, forced: Tensor) -> Tensor:
    """Tokens of each sample, first to stay first, ``[B, T]``: two stable sorts, by score, then by tier."""
    odd = score.isnan()
    by_score = torch.where(odd, 0, score).argsort(dim=1, descending=True, stable=True)
    tier = torch.where(forced, 0, 2) + odd.to(torch.int64)
    tier = torch.where(valid, tier, _INVALID_TIER)
    return by_score.gather(1, tier.gather(1, by_score).argsort(dim=1, stable=True))
