"""ConditionalMLPOrder: the tokens ordered by k, descending and stable, and how many run each learner.

    order[p]   = the token at place p when tokens are sorted by min(max(k, 0), N), descending, ties by token
    running[n] = the number of tokens with k > n

Floor: 4T bytes read, 4(T + N) written, no FLOPs worth counting; 66 KB at 8,192 tokens. Every device does
that faster than it launches a kernel, so what counts is to be one launch that waits for nobody.

Laid out so. A counting sort needs, for every token, the number of tokens of higher levels, the number of
tokens of its own level in front of it, and nothing else. N CTAs each own a contiguous share of the
tokens. Every CTA reads all of k itself (32 KB at 8,192 tokens, out of L2) and counts both, so CTAs need
neither a second kernel nor a grid-wide barrier nor memory that must be cleared before. Then it walks its
share in blocks with a running count per level.

Levels are handled eight at a time, as the columns of a one-hot tile: up to seven learners cost one pass,
and any number of them is right. The grid depends on N alone, so that with no tokens one launch still
writes ``running``. Output shapes are static.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _levels_of(k, token, T, N):
    """The clamped k of tokens; -1, which is no level, beyond the last token."""
    real = token < T
    level = tl.load(k + token, mask=real, other=0)
    return tl.where(real, tl.minimum(tl.maximum(level, 0), N), -1)


@triton.jit
def conditional_mlp_order(k, T, N, order, running, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr):
    """One CTA of ``N``: writes ``order`` of its share of the tokens; the first one writes ``running``, too.

    Args:
        k: int32 ``[T]``.
        T: Tokens, from 0.
        N: Learners, from 1; also the number of CTAs.
        order: int32 ``[T]``, written.
        running: int32 ``[N]``, written.
        BLOCK_T: Tokens of one block.
        BLOCK_N: Levels handled in one pass.
    """
    share = tl.cdiv(T, N)
    begin = tl.minimum(tl.program_id(0) * share, T)
    end = tl.minimum(begin + share, T)
    lane = tl.arange(0, BLOCK_T)
    for lowest in range(0, N + 1, BLOCK_N):
        level = lowest + tl.arange(0, BLOCK_N)
        # Counted per lane and summed once behind the loop: a sum in the loop would cost a barrier per block.
        above = tl.zeros((BLOCK_T, BLOCK_N), tl.int32)
        before = tl.zeros((BLOCK_T, BLOCK_N), tl.int32)
        for start in range(0, T, BLOCK_T):
            token = start + lane
            levels = _levels_of(k, token, T, N)
            above += (levels[:, None] > level[None, :]).to(tl.int32)
            before += ((levels[:, None] == level[None, :]) & (token < begin)[:, None]).to(tl.int32)
        higher = tl.sum(above, axis=0)
        if tl.program_id(0) == 0:
            tl.store(running + level, higher, mask=level < N)
        place_from = higher + tl.sum(before, axis=0)
        for start in range(begin, end, BLOCK_T):
            token = start + lane
            levels = tl.where(token < end, _levels_of(k, token, T, N), -1)
            is_level = (levels[:, None] == level[None, :]).to(tl.int32)
            earlier = tl.cumsum(is_level, axis=0) - is_level
            place = tl.sum(is_level * (place_from[None, :] + earlier), axis=1)
            tl.store(order + place, token, mask=tl.sum(is_level, axis=1) > 0)
            place_from += tl.sum(is_level, axis=0)
