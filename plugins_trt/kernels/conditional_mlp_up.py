"""ConditionalMLPUp: the first half of ConditionalMLP, a ragged GEMM that gathers its rows.

    hidden[p, n*h + j] = act(sum_d x[order[p], d] * w1[n, d, j] + b1[n, j])    where p < running[n]

The rest of ``hidden`` is neither read nor written. The activation is computed in float32; it is a constant of the
kernel, one op for each.

Floor. FLOPs: 2 D h per (token, learner) that runs, R = sum over n of running[n] of them. Bytes, with s
bytes per number: x once, s T' D of the T' tokens that run anything; w1 of the learners that somebody
runs, s N' D h (D h with int8 weights); hidden written once, s R h. At 8,192 tokens, D = h = 768, N = 4,
float16 and everything running 38.7 GFLOP and 68 MB: at an H100's nominal 989 TFLOP/s and 3.35 TB/s the
first take 39 us, the second 20 us. So large batches are bound by the tensor cores; 64 tokens (4.7 MB of
weights for 0.3 GFLOP) by reading weights.

Laid out so.

- One tile of BLOCK_T sorted places by BLOCK_H units of one learner per CTA. Tokens are sorted by k, so
  learner n has a contiguous prefix of places: the tiles behind ``running[n]`` return after one load,
  none is half empty but the last. The grid is the one of the dense product and never changes.
- Learner by learner, and in groups of GROUP_T row blocks inside one: the CTAs at work at one time then
  share GROUP_T row blocks of x and all columns of one w1, which fit L2 also where that has 4 MB (Orin).
- The gather costs nothing extra: asynchronous copies take an address per 16 bytes anyway. Rows behind the
  last running one read token 0 instead of a mask; their results are not stored.
- Copies, not tensor descriptors: a descriptor made on the device needs global scratch, one made on the
  host another argument, and neither fits launchers that pass the op's own arguments only. What TMA would
  save, address arithmetic, is small beside the tiles taken here.
- Bias, activation and rounding stay in registers. The dense MLP of a framework writes its hidden layer and
  reads it for the activation once more, which at 8,192 tokens is 100 MB; that gain pays for what the
  gather and the ragged edge cost.
- Two CTAs fit one SM with the configurations for Hopper (see ``configurations.py``): one computes GELU
  while the other keeps the tensor cores busy. D is short, so a single CTA would idle there in each tile.
- int8 weights: widened in registers, exact in every dtype, scaled once behind the sum.
- int8 activations beside them, by fixed scales: x becomes bytes in registers on its way to the tensor cores, which add
  products of bytes in int32, exactly and at up to twice the rate of 16 bits. Every CTA quantises its rows anew, D
  numbers a row beside D BLOCK_H products; a launch of its own would write and read x once more. ``hidden`` is stored
  as bytes by the scale of its learner, half of what 16 bits take.
"""

from __future__ import annotations

import triton
import triton.language as tl

from adaptrt.plugins_trt.kernels.activations import activate
from adaptrt.plugins_trt.kernels.quantize import quantize


@triton.jit
def grouped_tile(tile, rows, columns, GROUP: tl.constexpr):
    """Row and column of a tile where GROUP rows of tiles are walked column by column."""
    in_group = GROUP * columns
    first = (tile // in_group) * GROUP
    height = tl.minimum(rows - first, GROUP)
    return first + (tile % in_group) % height, (tile % in_group) // height


@triton.jit
def conditional_mlp_up(
    x,
    order,
    running,
    w1,
    w1_scale,
    b1,
    x_scale,
    hidden_scale,
    T,
    N,
    D,
    h,
    hidden,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
    GROUP_T: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """One CTA of ``ceil(T / BLOCK_T) * N * ceil(h / BLOCK_H)``.

    Args:
        x: ``[T, D]``.
        order: int32 ``[T]``, see ``conditional_mlp_order``.
        running: int32 ``[N]``.
        w1: ``[N, D, h]``, of the dtype of x or int8.
        w1_scale: float32 ``[N, h]`` where w1 is int8, else None, and then no argument of the compiled kernel.
        b1: ``[N, h]``.
        x_scale: float32 ``[]``, what a step of x is worth, where activations are int8, which w1 then is, too; else
            None, and then no argument of the compiled kernel.
        hidden_scale: float32 ``[N]``, likewise, of each learner's hidden layer.
        T: Tokens.
        N: Learners.
        D: Input width.
        h: Hidden width of one learner.
        hidden: ``[T, N * h]``, int8 where activations are, written where a learner runs.
        BLOCK_T: Sorted places of a tile.
        BLOCK_H: Hidden units of a tile.
        BLOCK_D: Input widths of one step.
        GROUP_T: Row blocks that are walked together.
        ACTIVATION: Name of the activation.
    """
    rows = tl.cdiv(T, BLOCK_T)
    columns = tl.cdiv(h, BLOCK_H)
    n = tl.program_id(0) // (rows * columns)
    row, column = grouped_tile(tl.program_id(0) % (rows * columns), rows, columns, GROUP_T)
    live = tl.load(running + n)
    if row * BLOCK_T >= live:
        return
    place = row * BLOCK_T + tl.arange(0, BLOCK_T)
    token = tl.load(order + place, mask=place < live, other=0)
    unit = column * BLOCK_H + tl.arange(0, BLOCK_H)
    d = tl.arange(0, BLOCK_D)
    x_tile = x + token.to(tl.int64)[:, None] * D + d[None, :]
    w1_tile = w1 + n.to(tl.int64) * D * h + d[:, None] * h + unit[None, :]
    if x_scale is None:
        total = tl.zeros((BLOCK_T, BLOCK_H), tl.float32)
        for start in range(0, D, BLOCK_D):
            left = D - start
            rows_in = tl.load(x_tile, mask=d[None, :] < left, other=0.0)
            weight = tl.load(w1_tile, mask=(d[:, None] < left) & (unit[None, :] < h), other=0)
            total = tl.dot(rows_in, weight.to(rows_in.dtype), total, input_precision="ieee")
            x_tile += BLOCK_D
            w1_tile += BLOCK_D * h
    else:
        step = tl.load(x_scale)
        per_unit = 1.0 / step
        steps = tl.zeros((BLOCK_T, BLOCK_H), tl.int32)
        for start in range(0, D, BLOCK_D):
            left = D - start
            rows_in = quantize(tl.load(x_tile, mask=d[None, :] < left, other=0.0), per_unit)
            weight = tl.load(w1_tile, mask=(d[:, None] < left) & (unit[None, :] < h), other=0)
            steps = tl.dot(rows_in, weight, steps, out_dtype=tl.int32)
            x_tile += BLOCK_D
            w1_tile += BLOCK_D * h
        total = steps.to(tl.float32) * step
    if w1_scale is not None:
        total *= tl.load(w1_scale + n * h + unit, mask=unit < h, other=0.0)[None, :]
    total += tl.load(b1 + n * h + unit, mask=unit < h, other=0.0).to(tl.float32)[None, :]
    hidden_tile = hidden + place.to(tl.int64)[:, None] * (N * h) + (n * h + unit)[None, :]
    result = activate(total, ACTIVATION)
    if hidden_scale is not None:
        result = quantize(result, 1.0 / tl.load(hidden_scale + n))
    result = result.to(hidden.dtype.element_ty)
    tl.store(hidden_tile, result, mask=(place < live)[:, None] & (unit < h)[None, :])
