"""SelectTokens: the tokens worth their price, packed to the front of an output as long as the input.

Semantics are those of ``ops/select_tokens.py`` with K = T: wanted = valid and (forced or score >
threshold); count = wanted held within keep_min, keep_max and the valid ones; where a limit moves the
count, forced before others, numbers before NaN, higher scores first, ties by token. The chosen ones stay
in their order; y and index are 0 from count on.

Floor, with s bytes per number of x: 6 B T bytes of scores and flags, s D per kept token read, s B T D of y
and 4 B T of index written; no FLOPs worth counting. 64 samples of 197 tokens, D = 768, float16, half of
them kept: 29 MB, of which the output's zeros are a third. The static shape costs those and keeps CUDA
graphs.

Laid out so. A CTA takes one sample and BLOCK_D columns of it, 128 bytes and more of each row. All CTAs of
a sample decide by themselves and alike, from T scores out of L2, so nothing is exchanged between CTAs and
one launch does everything; there is work for B D / BLOCK_D of them. The grid does not depend on T, so
that a launch without tokens still writes the counts.

- Usually the price alone decides: one pass counts, a second one places by a prefix sum with a carry and
  copies the rows.
- Only where a limit moves this sample's count is there a ranking. Tier (forced, forced NaN, others, others
  NaN, invalid) and score become one integer of 35 bits, ascending from best to worst, with one zero and
  no NaN. Bisecting its bits finds the key of the last place: 35 counts over scores that lie in L1. It
  needs no sort and no memory, is exact for every tie, and its time does not depend on the values.
"""

from __future__ import annotations

import triton
import triton.language as tl

KEY_BITS = tl.constexpr(35)


@triton.jit
def _wanted(score, valid, forced, token, T, limit):
    """Which tokens are wanted, and which are valid, as int32; tokens from T on are neither."""
    real = token < T
    is_valid = tl.load(valid + token, mask=real, other=0) != 0
    asked = (tl.load(forced + token, mask=real, other=0) != 0) | (tl.load(score + token, mask=real, other=0.0) > limit)
    return (is_valid & asked).to(tl.int32), is_valid.to(tl.int32)


@triton.jit
def _keys(score, valid, forced, token, T):
    """Ranks as int64, the best token's lowest: the tier above 32 bits that fall as the score rises.

    Tokens from T on get a tier above all, and so a key of more than ``KEY_BITS`` bits.
    """
    real = token < T
    number = tl.load(score + token, mask=real, other=0.0)
    is_valid = tl.load(valid + token, mask=real, other=0) != 0
    is_forced = tl.load(forced + token, mask=real, other=0) != 0
    odd = number != number
    tier = tl.where(is_valid, tl.where(is_forced, 0, 2) + odd.to(tl.int32), tl.where(real, 4, 8))
    bits = tl.where(odd | (number == 0.0), 0.0, number).to(tl.int32, bitcast=True)
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tier.to(tl.int64) * 4294967296 + (2147483647 - rising.to(tl.int64))


@triton.jit
def _cut(score, valid, forced, T, kept, BLOCK_T: tl.constexpr):
    """The key of the last of ``kept`` places, and how many tokens of that very key have one.

    The cut is the largest number that fewer than ``kept`` keys are below; its bits are found from the top.
    """
    cut = tl.zeros((), tl.int64)
    half = tl.full((), 1, tl.int64) << (KEY_BITS - 1)
    below = 0
    if T <= BLOCK_T:  # the usual case: keys stay in registers
        key = _keys(score, valid, forced, tl.arange(0, BLOCK_T), T)
        for _ in range(KEY_BITS):
            if tl.sum((key < cut + half).to(tl.int32), axis=0) < kept:
                cut += half
            half = half >> 1
        below = tl.sum((key < cut).to(tl.int32), axis=0)
    else:
        for _ in range(KEY_BITS):
            if _number_below(score, valid, forced, T, cut + half, BLOCK_T) < kept:
                cut += half
            half = half >> 1
        below = _number_below(score, valid, forced, T, cut, BLOCK_T)
    return cut, kept - below


@triton.jit
def _number_below(score, valid, forced, T, bound, BLOCK_T: tl.constexpr):
    """How many tokens have a key below ``bound``."""
    number = tl.zeros((BLOCK_T,), tl.int32)
    for start in range(0, T, BLOCK_T):
        token = start + tl.arange(0, BLOCK_T)
        number += (_keys(score, valid, forced, token, T) < bound).to(tl.int32)
    return tl.sum(number, axis=0)


@triton.jit
def select_tokens(
    x,
    score,
    valid,
    forced,
    threshold,
    keep_min,
    keep_max,
    B,  # noqa: ARG001
    T,
    D,
    limits,
    y,
    index,
    count,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One CTA of ``B`` by ``ceil(D / BLOCK_D)``.

    Args:
        x: ``[B, T, D]``.
        score: float32 ``[B, T]``.
        valid: bool ``[B, T]``.
        forced: bool ``[B, T]``.
        threshold: float32 ``[B]``.
        keep_min: int64 ``[]``.
        keep_max: int64 ``[]``.
        B: Samples; the grid's first extent, not read here.
        T: Tokens of a sample, from 0.
        D: Width, from 1.
        limits: 1 or, where the op's attribute ``limits`` is "none", 0: the limits are then not read.
        y: ``[B, T, D]``, written, all of it.
        index: int32 ``[B, T]``, written, all of it.
        count: int32 ``[B]``, written.
        BLOCK_T: Tokens of one block.
        BLOCK_D: Columns of one CTA.
    """
    b = tl.program_id(0).to(tl.int64)
    score += b * T
    valid += b * T
    forced += b * T
    index += b * T
    limit = tl.load(threshold + b)
    lane = tl.arange(0, BLOCK_T)

    wanted_lanes = tl.zeros((BLOCK_T,), tl.int32)
    valid_lanes = tl.zeros((BLOCK_T,), tl.int32)
    for start in range(0, T, BLOCK_T):
        is_wanted, is_valid = _wanted(score, valid, forced, start + lane, T, limit)
        wanted_lanes += is_wanted
        valid_lanes += is_valid
    wanted = tl.sum(wanted_lanes, axis=0)
    kept = wanted
    if limits != 0:
        at_least = tl.maximum(wanted.to(tl.int64), tl.load(keep_min))
        at_most = tl.minimum(tl.load(keep_max), tl.sum(valid_lanes, axis=0).to(tl.int64))
        kept = tl.maximum(tl.minimum(at_least, at_most), 0).to(tl.int32)

    cut = tl.zeros((), tl.int64)
    ties = 0
    if kept != wanted:
        cut, ties = _cut(score, valid, forced, T, kept, BLOCK_T)

    first_columns = tl.program_id(1) == 0
    if first_columns:
        tl.store(count + b, kept)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    row_from = b * T
    placed = 0
    ties_placed = 0
    for start in range(0, T, BLOCK_T):
        token = start + lane
        stays, _valid = _wanted(score, valid, forced, token, T, limit)
        if kept != wanted:
            key = _keys(score, valid, forced, token, T)
            tie = (key == cut).to(tl.int32)
            early = ties_placed + tl.cumsum(tie, axis=0) <= ties
            stays = ((key < cut) | ((tie != 0) & early)).to(tl.int32)
            ties_placed += tl.sum(tie, axis=0)
        place = placed + tl.cumsum(stays, axis=0) - 1
        placed += tl.sum(stays, axis=0)
        moved = (stays != 0)[:, None] & (d < D)[None, :]
        rows = tl.load(x + (row_from + token)[:, None] * D + d[None, :], mask=moved)
        tl.store(y + (row_from + place)[:, None] * D + d[None, :], rows, mask=moved)
        if first_columns:
            tl.store(index + place, token, mask=stays != 0)

    for start in range(kept, T, BLOCK_T):
        place = start + lane
        zeros = tl.zeros((BLOCK_T, BLOCK_D), y.dtype.element_ty)
        blank = (place < T)[:, None] & (d < D)[None, :]
        tl.store(y + (row_from + place)[:, None] * D + d[None, :], zeros, mask=blank)
        if first_columns:
            tl.store(index + place, tl.zeros((BLOCK_T,), tl.int32), mask=place < T)
