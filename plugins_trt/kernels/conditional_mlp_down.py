"""ConditionalMLPDown: the second half of ConditionalMLP, a GEMM whose depth falls from row to row.

    y[order[p], e] = b2[e] + sum over n with p < running[n], j < h of hidden[p, n*h + j] * w2[n, j, e]

Every row of y is written exactly once, b2 alone where a token runs nothing.

Floor. FLOPs: 2 h E per (token, learner) that runs, R of them. Bytes, with s bytes per number: hidden
where a learner ran, s R h; w2 of the learners that somebody runs, s N' h E (h E with int8 weights); y,
s T E, whatever runs. At 8,192 tokens, h = E = 768, N = 4, float16 and everything running 38.7 GFLOP and
68 MB; with nothing running still 13 MB.

Laid out so.

- The learners lie side by side in ``hidden`` and one below the other in w2, so all of them are one
  product of depth N h. Tokens are sorted by k: the rows of one block need the first k of N, and the
  block's first row needs most. The loop over the depth just ends there. No partial sums, no atomics, no
  second pass, and the result is the same on every run.
- Inside a block rows may differ. A row reads ``hidden`` below its own k h and zeros from there, by a mask
  with one limit per row: what Up never wrote is never read, NaN included. Blocks with differing rows are
  at most N + 1 of all, so the work done in vain is at most N BLOCK_T h E.
- Long blocks come first in the order of CTAs, because places are sorted by k. That is the longest job
  first: the last CTAs to start are the shortest, and few SMs wait at the end.
- Groups of GROUP_T row blocks, scatter by address on store, asynchronous copies: as in
  ``conditional_mlp_up``.
- Where a batch gives fewer tiles than the device has places for CTAs, time is that of the longest tile,
  however few are long. ``configurations.py`` has smaller tiles for such batches.
- int8 weights: scales differ from learner to learner, so each learner's sum is scaled behind its own loop
  and added to the total.
- int8 activations beside them: ``hidden`` is bytes already, half of the traffic, and each learner's products add up in
  int32; behind its loop they are scaled by both scales.
"""

from __future__ import annotations

import triton
import triton.language as tl

from adaptrt.plugins_trt.kernels.conditional_mlp_up import grouped_tile

LEARNERS = tl.constexpr(16)  # values of running compared at a time


@triton.jit
def learners_of(place, running, N):
    """How many learners run at each place: the number of n with ``place < running[n]``."""
    learners = tl.zeros(place.shape, tl.int32)
    for first in range(0, N, LEARNERS):
        n = first + tl.arange(0, LEARNERS)
        until = tl.load(running + n, mask=n < N, other=0)
        learners += tl.sum((place[:, None] < until[None, :]).to(tl.int32), axis=1)
    return learners


@triton.jit
def conditional_mlp_down(
    hidden,
    order,
    running,
    w2,
    w2_scale,
    b2,
    hidden_scale,
    T,
    N,
    h,
    E,
    y,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_H: tl.constexpr,
    GROUP_T: tl.constexpr,
):
    """One CTA of ``ceil(T / BLOCK_T) * ceil(E / BLOCK_E)``.

    Args:
        hidden: ``[T, N * h]``, see ``conditional_mlp_up``; int8 where activations are.
        order: int32 ``[T]``, see ``conditional_mlp_order``.
        running: int32 ``[N]``.
        w2: ``[N, h, E]``, of the dtype of y or int8.
        w2_scale: float32 ``[N, E]`` where w2 is int8, else None, and then no argument of the compiled kernel.
        b2: ``[E]``.
        hidden_scale: float32 ``[N]``, what a step of each learner's hidden layer is worth, where activations are int8,
            which w2 then is, too; else None, and then no argument of the compiled kernel.
        T: Tokens.
        N: Learners.
        h: Hidden width of one learner.
        E: Output width.
        y: ``[T, E]``, written, all of it.
        BLOCK_T: Sorted places of a tile.
        BLOCK_E: Outputs of a tile.
        BLOCK_H: Hidden units of one step.
        GROUP_T: Row blocks that are walked together.
    """
    row, column = grouped_tile(tl.program_id(0), tl.cdiv(T, BLOCK_T), tl.cdiv(E, BLOCK_E), GROUP_T)
    place = row * BLOCK_T + tl.arange(0, BLOCK_T)
    learners = learners_of(place, running, N)
    e = column * BLOCK_E + tl.arange(0, BLOCK_E)
    j = tl.arange(0, BLOCK_H)
    hidden_tile = hidden + place.to(tl.int64)[:, None] * (N * h) + j[None, :]
    w2_tile = w2 + j[:, None] * E + e[None, :]
    total = tl.zeros((BLOCK_T, BLOCK_E), tl.float32)
    if w2_scale is None:
        limit = learners * h
        depth = tl.max(learners, axis=0) * h
        for start in range(0, depth, BLOCK_H):
            unit = start + j
            rows_in = tl.load(hidden_tile, mask=unit[None, :] < limit[:, None], other=0.0)
            weight = tl.load(w2_tile, mask=(unit[:, None] < depth) & (e[None, :] < E), other=0.0)
            total = tl.dot(rows_in, weight, total, input_precision="ieee")
            hidden_tile += BLOCK_H
            w2_tile += BLOCK_H * E
    else:
        for n in range(0, tl.max(learners, axis=0)):
            products = tl.zeros((BLOCK_T, BLOCK_E), tl.float32 if hidden_scale is None else tl.int32)
            limit = tl.where(learners > n, h, 0)
            hidden_part, w2_part = hidden_tile, w2_tile
            for start in range(0, h, BLOCK_H):
                unit = start + j
                rows_in = tl.load(hidden_part, mask=unit[None, :] < limit[:, None], other=0)
                weight = tl.load(w2_part, mask=(unit[:, None] < h) & (e[None, :] < E), other=0)
                if hidden_scale is None:
                    products = tl.dot(rows_in, weight.to(rows_in.dtype), products, input_precision="ieee")
                else:
                    products = tl.dot(rows_in, weight, products, out_dtype=tl.int32)
                hidden_part += BLOCK_H
                w2_part += BLOCK_H * E
            hidden_tile += h
            w2_tile += h * E
            scale = tl.load(w2_scale + n * E + e, mask=e < E, other=0.0)
            if hidden_scale is not None:
                scale *= tl.load(hidden_scale + n)
            total += products.to(tl.float32) * scale[None, :]
    total += tl.load(b2 + e, mask=e < E, other=0.0).to(tl.float32)[None, :]
    token = tl.load(order + place, mask=place < T, other=0)
    y_tile = y + token.to(tl.int64)[:, None] * E + e[None, :]
    tl.store(y_tile, total.to(y.dtype.element_ty), mask=(place < T)[:, None] & (e < E)[None, :])
