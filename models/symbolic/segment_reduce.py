"""Segment reduction in torch: the function that computes ``adaptrt::SegmentReduce``.

Used by token merging (ToMe, EViT's fused token) and pooling; ``ops/segment_reduce.py`` says what it means.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from adaptrt.models.symbolic.dynamic_sizes import count_size, size_in_graph
from adaptrt.models.symbolic.graph_sizes import in_onnx_export, scalar
from adaptrt.ops import DOMAIN, OPSET_VERSION
from adaptrt.ops.segment_reduce import MODES


class Reduced(NamedTuple):
    """One token per segment.

    Attributes:
        y: ``[G, S, d]``, 0 for an empty segment.
        n: float32 ``[G, S]``: the sum of weights, for "last" the number of tokens.
    """

    y: Tensor
    n: Tensor


def segment_reduce(
    x: Tensor,
    segment: Tensor,
    weight: Tensor | None,
    segments: Tensor | int,
    mode: str,
) -> Reduced:
    """Reduce the tokens of each segment to one.

    In an ONNX export this becomes one node of the domain ``adaptrt``, with its weights always given.

    Args:
        x: ``[G, T, d]``, finite; gradients reach it through ``y``.
        segment: int32 ``[G, T]``; a number outside 0..S-1, as -1, drops the token.
        weight: ``[G, T]``, taken in float32, or None for 1 everywhere. "last" does not read it.
        segments: S, a number or int64 ``[]``.
        mode: "sum", "mean" (weighted) or "last". One file has one mode: export refuses a mixture.

    Raises:
        ValueError: The mode is unknown.
        RuntimeError: Torch traces for something else than ONNX, or outside of adaptrt's export.
    """
    if mode not in MODES:
        raise ValueError(f"segment_reduce: got mode {mode!r}, expected one of {', '.join(MODES)}")
    if weight is None:
        weight = torch.ones_like(x[:, :, 0], dtype=torch.float32)
    weight = weight.to(torch.float32)
    if in_onnx_export("segment_reduce"):
        groups, _, width = x.shape
        size = size_in_graph("segment_reduce") if isinstance(segments, Tensor) else segments
        y, n = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::SegmentReduce",
            (x, segment, weight, scalar(segments)),
            attrs={"mode": mode},
            dtypes=(x.dtype, torch.float32),
            shapes=((groups, size, width), (groups, size)),
            version=OPSET_VERSION,
        )
        return Reduced(y, n)
    if isinstance(segments, Tensor):
        count_size()
    number = torch.arange(int(segments), dtype=segment.dtype, device=x.device)
    member = (segment[:, None, :] == number[:, None]).to(torch.float32)
    if mode == "last":
        return Reduced(_last(x, member), member.sum(2))
    part = member * weight[:, None, :]
    n = part.sum(2)
    if mode == "mean":
        empty = n == 0
        part = torch.where(empty[:, :, None], 0, part / torch.where(empty, 1, n)[:, :, None])
    return Reduced(part.to(x.dtype) @ x, n)


def _last(x: Tensor, member: Tensor) -> Tensor:
    """The last token of each segment: ``member[G, S, T]`` -> ``[G, S, d]``."""
    place = torch.arange(1, x.shape[1] + 1, device=x.device)
    # A place 0 with a row of zeros before x: what an empty segment finds.
    with_zero = torch.cat([x.new_zeros(x.shape[0], 1, x.shape[2]), x], 1)
    none = torch.zeros(*member.shape[:2], 1, dtype=torch.int64, device=x.device)
    last = torch.cat([none, member.to(torch.int64) * place], 2).amax(2)
    return with_zero.gather(1, last[:, :, None].expand(-1, -1, x.shape[2]))
