"""ConditionalGLU's first half, for ConditionalSwiGLU and its kin: two ragged GEMMs in one that gather their rows.

    hidden[p, n*h + j] = act(sum_d x[order[p], d] * w1[n, d, j] + b1[n, j])
                         * (sum_d x[order[p], d] * v1[n, d, j] + c1[n, j])    where p < running[n]

The rest of ``hidden`` is neither read nor written. Activation and product are computed in float32.

Floor. FLOPs: 4 D h per (token, learner) that runs, R of them. Bytes, with s bytes per number: x once, s T' D of
the T' tokens that run anything; w1 and v1 of the learners that somebody runs, 2 s N' D h (2 N' D h with int8
weights); hidden written once, s R h.

Laid out as ``conditional_mlp_up``, which says why, and beyond that so.

- Both products in one kernel: the gathered rows of x are loaded once for both, and neither factor is written. Two
  launches and a product element by element would move 3 s R h bytes more.
- Two sums of a tile live in registers at one time. Tiles have half the columns of those of ``conditional_mlp_up``,
  so that a thread needs as many registers and two CTAs fit one SM as there.
"""

from __future__ import annotations

import triton
import triton.language as tl

from adaptrt.plugins_trt.kernels.activations import activate
from adaptrt.plugins_trt.kernels.conditional_mlp_up import grouped_tile
from adaptrt.plugins_trt.kernels.quantize import quantize


@triton.jit
def conditional_glu_up(
    x,
    order,
    running,
    w1,
    w1_scale,
    b1,
    v1,
    v1_scale,
    c1,
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
        w1: Of the gate, ``[N, D, h]``, of the dtype of x or int8.
        w1_scale: float32 ``[N, h]`` where w1 is int8, else None, and then no argument of the compiled kernel.
        b1: Of the gate, ``[N, h]``.
        v1: Of what is gated, ``[N, D, h]``, of the dtype of w1.
        v1_scale: As w1_scale.
        c1: Of what is gated, ``[N, h]``.
        x_scale: float32 ``[]``, what a step of x is worth, where activations are int8, which w1 and v1 then are, too;
            else None, and then no argument of the compiled kernel.
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
        ACTIVATION: Name of the gate's activation.
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
    weight_at = n.to(tl.int64) * D * h + d[:, None] * h + unit[None, :]
    w1_tile, v1_tile = w1 + weight_at, v1 + weight_at
    if x_scale is None:
        gate = tl.zeros((BLOCK_T, BLOCK_H), tl.float32)
        gated = tl.zeros((BLOCK_T, BLOCK_H), tl.float32)
        for start in range(0, D, BLOCK_D):
            left = D - start
            inside = (d[:, None] < left) & (unit[None, :] < h)
            rows_in = tl.load(x_tile, mask=d[None, :] < left, other=0.0)
            weight = tl.load(w1_tile, mask=inside, other=0)
            gate = tl.dot(rows_in, weight.to(rows_in.dtype), gate, input_precision="ieee")
            weight = tl.load(v1_tile, mask=inside, other=0)
            gated = tl.dot(rows_in, weight.to(rows_in.dtype), gated, input_precision="ieee")
            x_tile += BLOCK_D
            w1_tile += BLOCK_D * h
            v1_tile += BLOCK_D * h
    else:
        step = tl.load(x_scale)
        per_unit = 1.0 / step
        gate_steps = tl.zeros((BLOCK_T, BLOCK_H), tl.int32)
        gated_steps = tl.zeros((BLOCK_T, BLOCK_H), tl.int32)
        for start in range(0, D, BLOCK_D):
            left = D - start
            inside = (d[:, None] < left) & (unit[None, :] < h)
            rows_in = quantize(tl.load(x_tile, mask=d[None, :] < left, other=0.0), per_unit)
            weight = tl.load(w1_tile, mask=inside, other=0)
            gate_steps = tl.dot(rows_in, weight, gate_steps, out_dtype=tl.int32)
            weight = tl.load(v1_tile, mask=inside, other=0)
            gated_steps = tl.dot(rows_in, weight, gated_steps, out_dtype=tl.int32)
            x_tile += BLOCK_D
            w1_tile += BLOCK_D * h
            v1_tile += BLOCK_D * h
        gate = gate_steps.to(tl.float32) * step
        gated = gated_steps.to(tl.float32) * step
    real = unit < h
    at = n * h + unit
    if w1_scale is not None:
        gate *= tl.load(w1_scale + at, mask=real, other=0.0)[None, :]
        gated *= tl.load(v1_scale + at, mask=real, other=0.0)[None, :]
    gate += tl.load(b1 + at, mask=real, other=0.0).to(tl.float32)[None, :]
    gated += tl.load(c1 + at, mask=real, other=0.0).to(tl.float32)[None, :]
    hidden_tile = hidden + place.to(tl.int64)[:, None] * (N * h) + at[None, :]
    result = activate(gate, ACTIVATION) * gated
    if hidden_scale is not None:
        result = quantize(result, 1.0 / tl.load(hidden_scale + n))
    result = result.to(hidden.dtype.element_ty)
    tl.store(hidden_tile, result, mask=(place < live)[:, None] & real[None, :])
