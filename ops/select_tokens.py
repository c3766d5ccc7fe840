"""SelectTokens: each sample keeps the tokens that are worth their price, packed to the front.

Serves dynamic token pruning (ATP-LLaVA, CATP, token-level correlation, DynamicViT, EViT), KARL's halted
tokens, and the choice of KV entries in TokenSelect, TidalDecode and EMS.

How the body works. A wanted token's place is the number of kept ones before it (CumSum); one
ScatterElements puts token numbers there, one GatherND copies rows. Places beyond a sample's count read a
row of zeros appended to x, so what they hold is 0 even where x has NaN. Only where a limit changes a
count does it matter how tokens rank. That is found by value, not by position, because ties must go to
the lower index in every engine, and TensorRT does not say how its TopK breaks them: tokens fall into
tiers (forced, forced with a NaN score, others, others with NaN); all tiers before the one at the edge
are kept, and of that one the tokens above the cut, the value that TopK gives for the last place, and
the first of those equal to it. Ranking runs on a slice of the batch that is empty while no limit
applies anywhere: where the price alone decides, it costs no more than visits to some forty empty nodes.

Measured beside it: microseconds of one run, 10 of them the run itself (ONNX Runtime 1.32, one thread, the
fastest of 400 interleaved turns), at ``[B, T, D]`` with 70% of the tokens kept, no limit applying / a limit
applying in every sample:

============================  ============  =============  =============
form                          [1, 50, 192]  [64, 50, 192]  [1, 197, 768]
============================  ============  =============  =============
this body                     41 / 48       480 / 639      85 / 101
ranking every sample, always  45 / 43       657 / 623      95 / 94
ranks by comparing all pairs  40 / 47       479 / 697      97 / 127
zeros by Where                42 / 50       625 / 756      107 / 123
zeros by ScatterND            47 / 55       521 / 625      84 / 97
============================  ============  =============  =============

Comparing all pairs costs T squared, in time and memory. Where is three passes over its output in ONNX
Runtime. ScatterND is as fast where much is copied, but takes twenty nodes more, and a batch of one, whose
blocks take a few hundred microseconds, feels those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adaptrt.ops.body import parse_body
from adaptrt.ops.record import Array, Case, Field, OpRecord, Part, PartAttribute, Tolerance

if TYPE_CHECKING:
    import onnx

LIMITS = ("any", "none")
_FLOATS = ("float32", "float16", "bfloat16")

_WANTED = """
  zero = Constant <value = int64 {0}> ()
  one = Constant <value = int64 {1}> ()
  axis0 = Constant <value = int64[1] {0}> ()
  axis1 = Constant <value = int64[1] {1}> ()
  axis2 = Constant <value = int64[1] {2}> ()
  nothing = Constant <value = float {0.0}> ()
  batch = Shape <start = 0, end = 1> (score)
  tokens = Shape <start = 1, end = 2> (score)

  limit = Unsqueeze (threshold, axis1)
  above = Greater (score, limit)
  asked = Or (forced, above)
  wanted = And (valid, asked)
  wanted_1 = Cast <to = 7> (wanted)
  wanted_n = ReduceSum <keepdims = 1> (wanted_1, axis1)
"""

_WITHIN_LIMITS = """
  valid_1 = Cast <to = 7> (valid)
  valid_n = ReduceSum <keepdims = 1> (valid_1, axis1)
  at_least = Max (wanted_n, keep_min)
  at_most = Min (at_least, keep_max, valid_n)
  count_n = Max (at_most, zero)

  moved = Sub (count_n, wanted_n)
  distance = Abs (moved)
  moved_n = ReduceSum <keepdims = 0> (distance, axis0)
  moved_in_all = Mul (moved_n, batch)
  ranked_in_all = Min (moved_in_all, batch)
  ranked = ScatterElements <axis = 0> (axis0, axis0, ranked_in_all)
  score_r = Slice (score, axis0, ranked, axis0)
  valid_r = Slice (valid, axis0, ranked, axis0)
  forced_r = Slice (forced, axis0, ranked, axis0)
  count_r = Slice (count_n, axis0, ranked, axis0)

  two = Constant <value = int64 {2}> ()
  four = Constant <value = int64 {4}> ()
  tiers = Constant <value = int64[4,1] {0, 1, 2, 3}> ()
  odd = IsNaN (score_r)
  forced_tier = Cast <to = 7> (odd)
  free_tier = Add (forced_tier, two)
  valid_tier = Where (forced_r, forced_tier, free_tier)
  tier = Where (valid_r, valid_tier, four)
  tier_row = Unsqueeze (tier, axis1)
  in_tiers = LessOrEqual (tier_row, tiers)
  in_tiers_1 = Cast <to = 7> (in_tiers)
  in_tiers_n = ReduceSum <keepdims = 0> (in_tiers_1, axis2)
  whole = LessOrEqual (in_tiers_n, count_r)
  whole_1 = Cast <to = 7> (whole)
  edge = ReduceSum <keepdims = 1> (whole_1, axis1)
  sure = Less (tier, edge)
  sure_1 = Cast <to = 7> (sure)
  sure_n = ReduceSum <keepdims = 1> (sure_1, axis1)
  left = Sub (count_r, sure_n)

  rival = Equal (tier, edge)
  number = Where (odd, nothing, score_r)
  lowest = ReduceMin <keepdims = 1> (number, axis1)
  key = Where (rival, number, lowest)
  spare_shape = Concat <axis = 0> (axis1, tokens)
  spare_row = Expand (nothing, spare_shape)
  key_and_spare = Concat <axis = 0> (key, spare_row)
  descending_all, descending_at = TopK <axis = 1, largest = 1, sorted = 1> (key_and_spare, tokens)
  left_less_1 = Sub (left, one)
  cut_at = Max (left_less_1, zero)
  spare_n = Min (tokens, axis1)
  spare_at_shape = Concat <axis = 0> (spare_n, axis1)
  spare_at = Expand (zero, spare_at_shape)
  cut_and_spare_at = Concat <axis = 0> (cut_at, spare_at)
  cut_and_spare = GatherElements <axis = 1> (descending_all, cut_and_spare_at)
  cut = Slice (cut_and_spare, axis0, ranked, axis0)
  higher = Greater (key, cut)
  higher_1 = Cast <to = 7> (higher)
  higher_n = ReduceSum <keepdims = 1> (higher_1, axis1)
  ties_left = Sub (left, higher_n)
  level = Equal (key, cut)
  tie = And (rival, level)
  tie_1 = Cast <to = 7> (tie)
  ties_before = CumSum <exclusive = 1> (tie_1, one)
  early = Less (ties_before, ties_left)
  early_tie = And (tie, early)
  won = Or (higher, early_tie)
  kept_r = Or (sure, won)

  as_wanted = Slice (wanted, ranked, batch, axis0)
  kept = Concat <axis = 0> (kept_r, as_wanted)
"""

_AS_WANTED = """
  count_n = Identity (wanted_n)
  kept = Identity (wanted)
"""

_PACK = """
  kept_1 = Cast <to = 7> (kept)
  kept_before = CumSum <exclusive = 1> (kept_1, one)
  place = Where (kept, kept_before, tokens)
  tokens_n = Squeeze (tokens)
  token_row = Range (zero, tokens_n, one)
  score_shape = Shape (score)
  token = Expand (token_row, score_shape)

  zero_x = CastLike (nothing, x)
  width = Shape <start = 2, end = 3> (x)
  row_shape = Concat <axis = 0> (batch, axis1, width)
  zero_row = Expand (zero_x, row_shape)
  x_and_zero = Concat <axis = 1> (x, zero_row)
  source_shape = Shape <start = 0, end = 2> (x_and_zero)
  all_zero = Expand (tokens, source_shape)
  source_all = ScatterElements <axis = 1> (all_zero, place, token)
  counts = Squeeze (count_n, axis1)
  largest = ReduceMax <keepdims = 1> (counts, axis0)
  largest_or_0 = Max (largest, axis0)
  largest_n = ScatterElements <axis = 0> (axis0, axis0, largest_or_0)
  source = Slice (source_all, axis0, largest_n, axis1)
  source_at = Unsqueeze (source, axis2)
  y = GatherND <batch_dims = 1> (x_and_zero, source_at)
  real = Less (source, tokens)
  index_long = Where (real, source, zero)
  index = Cast <to = 6> (index_long)
  count = Cast <to = 6> (counts)
"""
# Notes on some lines. "ranked" is 0 or the whole batch. Keys of tokens that are no rivals are as low as
# the lowest number in the row, which leaves the cut, a value, as it is. TopK gets a spare row: given none,
# ONNX Runtime 1.23 ends the process with a floating point exception. It is sliced off only when the cut has
# been read: OpenVINO's GatherElements wants as many rows of indices as of data, and of data it reads what
# was there before a slice. Tokens that go write to the column behind the last one, which is sliced off. The
# largest of no counts is the lowest int64. The two ScatterElements of one element change nothing: a size
# that follows from a comparison with the price by operators that TensorRT evaluates on the host, its parser
# takes for a shape tensor, down to the float price, and refuses that; it does not evaluate ScatterElements
# there, so the size stays on the device.


def reference(
    x: Array,
    score: Array,
    valid: Array,
    forced: Array,
    threshold: Array,
    keep_min: Array,
    keep_max: Array,
    limits: str,
) -> tuple[Array, Array, Array]:
    """Select token by token, by sorting.

    A token is wanted if it is valid and either forced or its score is above the threshold, strictly.
    ``count`` is the number of wanted tokens, at least ``keep_min``, at most ``keep_max`` and never more
    than are valid. The first ``count`` tokens stay, by this order: forced ones, then by score from the
    highest, then by index from the lowest. A NaN score is below every number, minus infinity too, and
    above no threshold.

    Args:
        x: ``[B, T, D]``.
        score: float32 ``[B, T]``.
        valid: bool ``[B, T]``; false for padding.
        forced: bool ``[B, T]``; true for tokens that go first, if they are valid.
        threshold: float32 ``[B]``.
        keep_min: int64 ``[]``; below 0 is as 0.
        keep_max: int64 ``[]``; below 0 is as 0.
        limits: "any", or "none": neither limit is read, what is wanted stays. The body is then half as long.

    Returns:
        ``y[B, K, D]`` in the dtype of x, the kept tokens in their original order and 0 behind them;
        ``index`` int32 ``[B, K]``, where each was, 0 behind them; ``count`` int32 ``[B]``. K is the
        largest count.

    Raises:
        ValueError: A shape or dtype is not the record's, or ``keep_min`` is above ``keep_max``. The
            body cannot raise: in it ``keep_max`` wins, so limits are to be checked by who sets them.
    """
    SELECT_TOKENS.check_inputs(
        x=x, score=score, valid=valid, forced=forced, threshold=threshold, keep_min=keep_min, keep_max=keep_max
    )
    _check_limits(limits)
    if keep_min > keep_max:
        raise ValueError(f"SelectTokens: keep_min is {keep_min}, expected at most keep_max, {keep_max}")
    chosen = []
    for b in range(len(x)):
        tokens = [t for t in range(x.shape[1]) if valid[b, t]]
        wanted = sum(bool(forced[b, t]) or bool(score[b, t] > threshold[b]) for t in tokens)
        count = max(0, min(max(wanted, int(keep_min)), int(keep_max), len(tokens)))
        if limits == "none":
            count = wanted

        def rank(t: int, scores: Array = score[b], first: Array = forced[b]) -> tuple[bool, bool, float, int]:
            odd = bool(np.isnan(scores[t]))
            return not first[t], odd, 0.0 if odd else -float(scores[t]), t

        chosen.append(sorted(sorted(tokens, key=rank)[:count]))
    largest = max((len(tokens) for tokens in chosen), default=0)
    y = np.zeros((len(x), largest, x.shape[2]), x.dtype)
    index = np.zeros((len(x), largest), np.int32)
    for b, tokens in enumerate(chosen):
        y[b, : len(tokens)] = x[b, tokens]
        index[b, : len(tokens)] = tokens
    return y, index, np.array([len(tokens) for tokens in chosen], np.int32)


def body(limits: str) -> onnx.FunctionProto:
    """Give the portable body, with or without what limits need."""
    _check_limits(limits)
    inputs = "x, score, valid, forced, threshold, keep_min, keep_max"
    text = _WANTED + (_WITHIN_LIMITS if limits == "any" else _AS_WANTED) + _PACK
    doc = "The tokens worth their price, packed to the front, in their order."
    return parse_body("SelectTokens", inputs, "y, index, count", text, doc)


def _check_limits(limits: str) -> None:
    if limits not in LIMITS:
        raise ValueError(f"SelectTokens: got limits {limits!r}, expected one of {', '.join(LIMITS)}")


def make_inputs(case: Case, generator: np.random.Generator, dtype: str = "float32") -> dict[str, Array]:
    """Draw the inputs of one case, by name and in the op's order.

    ``case.draw`` names what is special, words joined by "+": "ties" (four different scores), "odd_scores"
    (a third are NaN or infinite), "padded" (a random number of valid tokens at the front), "holes" (half
    of the tokens, anywhere, are invalid), "nothing_valid", "all_forced", "many_forced" (half of all
    tokens, also invalid ones), "nothing_wanted" and "odd_x" (NaN in the tokens that are not valid).
    """
    batch, tokens, width = (case.axes[axis] for axis in "BTD")
    drawn = set(case.draw.split("+"))
    score: Array = generator.random((batch, tokens), dtype=np.float32)
    if "ties" in drawn:
        score = np.floor(score * 4) / np.float32(4)
    if "odd_scores" in drawn:
        odd = generator.choice(np.array([np.nan, np.inf, -np.inf], np.float32), (batch, tokens))
        score = np.where(generator.random((batch, tokens)) < 1 / 3, odd, score)
    valid = np.ones((batch, tokens), bool)
    if "padded" in drawn:
        valid = np.arange(tokens) < generator.integers(0, tokens, (batch, 1), endpoint=True)
    if "holes" in drawn:
        valid = generator.random((batch, tokens)) < 0.5
    if "nothing_valid" in drawn:
        valid[:] = False
    forced = np.broadcast_to(np.arange(tokens) == 0, (batch, tokens)).copy()
    if "many_forced" in drawn:
        forced = generator.random((batch, tokens)) < 0.5
    if "all_forced" in drawn:
        forced[:] = True
    threshold: Array = generator.random(batch, dtype=np.float32)
    if "ties" in drawn:
        threshold = np.floor(threshold * 4) / np.float32(4)
    if "nothing_wanted" in drawn:
        forced[:], threshold[:] = False, 2
    x = generator.standard_normal((batch, tokens, width)).astype(dtype)
    if "odd_x" in drawn:
        x[~valid] = np.nan
    limits = {name: np.array(case.scalars[name], np.int64) for name in ("keep_min", "keep_max")}
    return {"x": x, "score": score, "valid": valid, "forced": forced, "threshold": threshold, **limits}


def _case(name: str, sizes: tuple[int, int, int], draw: str, keep_min: int, keep_max: int, limits: str = "any") -> Case:
    scalars = {"keep_min": keep_min, "keep_max": keep_max}
    return Case(name, dict(zip("BTD", sizes, strict=True)), draw, scalars, {"limits": limits})


_CASES = (
    _case("no_limit_applies", (5, 23, 12), "random", 0, 23),
    _case("padded", (6, 23, 12), "padded", 1, 23),
    _case("invalid_anywhere", (6, 23, 12), "holes+odd_x", 1, 23),
    _case("at_least", (5, 23, 12), "ties+padded", 15, 23),
    _case("at_most", (5, 23, 12), "ties", 1, 6),
    _case("exactly", (5, 23, 12), "ties+holes", 9, 9),
    _case("one_token_stays", (4, 23, 12), "random", 1, 1),
    _case("everything_stays", (4, 23, 12), "random", 23, 23),
    _case("limits_above_all_tokens", (4, 9, 5), "padded", 50, 2**40),
    _case("no_token_may_stay", (4, 9, 5), "random", 0, 0),
    _case("limits_below_zero", (4, 9, 5), "random", -7, -3),
    _case("nothing_wanted", (4, 9, 5), "nothing_wanted", 0, 9),
    _case("nothing_wanted_but_some_must", (4, 9, 5), "nothing_wanted+ties", 4, 9),
    _case("nothing_valid", (4, 9, 5), "nothing_valid+odd_x", 3, 9),
    _case("all_forced", (4, 9, 5), "all_forced+ties+padded", 1, 9),
    _case("more_forced_than_may_stay", (6, 20, 5), "many_forced+ties+odd_scores+holes", 1, 4),
    _case("odd_scores", (6, 20, 5), "odd_scores", 0, 20),
    _case("odd_scores_limited", (8, 20, 5), "odd_scores+many_forced+padded", 11, 12),
    _case("one_sample", (1, 50, 16), "random", 1, 50),
    _case("one_token_each", (5, 1, 4), "padded", 1, 1),
    _case("no_sample", (0, 9, 4), "random", 1, 9),
    _case("no_token", (3, 0, 4), "random", 1, 9),
    _case("nothing_at_all", (0, 0, 4), "random", 1, 9),
    _case("many_tokens", (3, 700, 8), "padded", 1, 300),
    _case("limits_not_read", (5, 23, 12), "odd_scores+holes+odd_x", 3, 4, "none"),
    _case("nothing_wanted_no_limits", (4, 9, 5), "nothing_wanted", 2, 3, "none"),
    _case("no_sample_no_limits", (0, 9, 4), "random", 1, 9, "none"),
    _case("one_sample_no_limits", (1, 50, 16), "padded", 1, 50, "none"),
)

_INPUTS = (
    Field("x", _FLOATS, ("B", "T", "D")),
    Field("score", ("float32",), ("B", "T")),
    Field("valid", ("bool",), ("B", "T")),
    Field("forced", ("bool",), ("B", "T")),
    Field("threshold", ("float32",), ("B",)),
    Field("keep_min", ("int64",), ()),
    Field("keep_max", ("int64",), ()),
)

# The kernel's outputs are as long as its input, K = T: their shapes then follow from the input's.
_KERNEL = Part(
    name="SelectTokens",
    kernel="select_tokens",
    inputs=_INPUTS,
    sizes=("B", "T", "D", "limits"),
    outputs=(
        Field("y", _FLOATS, ("B", "T", "D")),
        Field("index", ("int32",), ("B", "T")),
        Field("count", ("int32",), ("B",)),
    ),
    attributes=(PartAttribute("limits", "limits", {"any": 1, "none": 0}),),
)

SELECT_TOKENS = OpRecord(
    name="SelectTokens",
    summary="y_b = the valid tokens of x_b that are forced or score above threshold_b, in order, keep_min to keep_max",
    axes={"B": "samples", "T": "tokens of a sample", "D": "width", "K": "tokens kept in the sample that keeps most"},
    inputs=_INPUTS,
    outputs=(
        Field("y", _FLOATS, ("B", "K", "D")),
        Field("index", ("int32",), ("B", "K")),
        Field("count", ("int32",), ("B",)),
    ),
    reference=reference,
    body=body,
    make_inputs=make_inputs,
    cases=_CASES,
    tolerances={"float32": Tolerance(0.0, 0.0), "float16": Tolerance(0.0, 0.0), "bfloat16": Tolerance(0.0, 0.0)},
    attributes={"limits": "any"},
    parts=(_KERNEL,),
)
