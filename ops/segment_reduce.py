"""SegmentReduce: tokens of one segment become one, their sum, their mean or the last of them.

Serves token merging (ToMe, and the fused token of EViT), bytes or characters pooled per word (Learn Your
Tokens, hierarchical autoregressive transformers), dynamic tokenization, ARC-Encoder's pooling and EMS's
merge of KV entries.

How the body works. Membership is a 0/1 matrix ``[S, T]`` for each group, made by comparing. Sums and
means are its product with x, weights and the mean's division applied to the matrix, which is smaller
than y and keeps a float16 mean within range. The last token of a segment is found by the largest
position in a row of the matrix and gathered; an empty segment finds a row of zeros put before x.

Median microseconds of one whole run at ``[G, T, d] -> S`` (ONNX Runtime 1.32, one thread, 10 of them the
run itself), beside what else was tried:

=======================  ==================  ===================  ====================
form                     [1, 50, 192] -> 37  [64, 50, 192] -> 37  [1, 197, 768] -> 181
=======================  ==================  ===================  ====================
sum                      21                  601                  393
mean                     24                  703                  410
last                     18                  522                  94
mean, dividing y         23                  819                  456
mean by ScatterElements  54                  4,079                966
last, zeros by Where     20                  618                  121
=======================  ==================  ===================  ====================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adaptrt.ops.body import parse_body
from adaptrt.ops.record import Array, Case, Field, OpRecord, Tolerance

if TYPE_CHECKING:
    import onnx

MODES = ("sum", "mean", "last")

_FLOATS = ("float32", "float16")

_MEMBERS = """
  zero = Constant <value = int64 {0}> ()
  one = Constant <value = int64 {1}> ()
  axis1 = Constant <value = int64[1] {1}> ()
  axis2 = Constant <value = int64[1] {2}> ()
  nothing = Constant <value = float {0.0}> ()
  number = Range (zero, segments, one)
  number_int = Cast <to = 6> (number)
  number_column = Unsqueeze (number_int, axis1)
  segment_row = Unsqueeze (segment, axis1)
  is_member = Equal (segment_row, number_column)
  member = Cast <to = 1> (is_member)
"""

_SUM = """
  weight_row = Unsqueeze (weight, axis1)
  part = Mul (member, weight_row)
  part_x = CastLike (part, x)
  y = MatMul (part_x, x)
  n = ReduceSum <keepdims = 0> (part, axis2)
"""

_MEAN = """
  weight_row = Unsqueeze (weight, axis1)
  part = Mul (member, weight_row)
  total = ReduceSum <keepdims = 1> (part, axis2)
  is_empty = Equal (total, nothing)
  enormous = Constant <value = float {3.4e38}> ()
  divisor = Where (is_empty, enormous, total)
  share = Div (part, divisor)
  share_x = CastLike (share, x)
  y = MatMul (share_x, x)
  n = Squeeze (total, axis2)
"""

_LAST = """
  n = ReduceSum <keepdims = 0> (member, axis2)
  tokens = Shape <start = 1, end = 2> (segment)
  tokens_and_1 = Add (tokens, one)
  end = Squeeze (tokens_and_1)
  position = Range (one, end, one)
  position_float = Cast <to = 1> (position)
  position_in = Mul (member, position_float)
  last = ReduceMax <keepdims = 0> (position_in, axis2)
  last_or_0 = Max (last, nothing)
  source = Cast <to = 7> (last_or_0)
  source_at = Unsqueeze (source, axis2)
  zero_x = CastLike (nothing, x)
  groups = Shape <start = 0, end = 1> (x)
  width = Shape <start = 2, end = 3> (x)
  row_shape = Concat <axis = 0> (groups, axis1, width)
  zero_row = Expand (zero_x, row_shape)
  zero_and_x = Concat <axis = 1> (zero_row, x)
  y = GatherND <batch_dims = 1> (zero_and_x, source_at)
"""
# Positions count from 1 and are exact in float32 up to 2^24 tokens; position 0 is the row of zeros. With
# no token at all the largest position is minus infinity.


def reference(x: Array, segment: Array, weight: Array, segments: Array, mode: str) -> tuple[Array, Array]:
    """Reduce token by token, in float64.

    Args:
        x: ``[G, T, d]``; finite where ``mode`` is "sum" or "mean", also in tokens that are dropped: the
            body multiplies these by 0. A value that is not spoils its group, never another one.
        segment: int32 ``[G, T]``, the segment of each token; a number outside 0..S-1, as -1, drops it.
        weight: float32 ``[G, T]``, finite; 1 everywhere for plain sums, means and counts. Always given:
            a function body cannot ask whether an input is there. "last" does not read it.
        segments: int64 ``[]``: S.
        mode: "sum" of weight times token; "mean", that sum over the sum of weights; "last", the last
            token of each segment, unchanged.

    Returns:
        ``y[G, S, d]`` in the dtype of x, 0 for an empty segment and, in a mean, where the weights add up
        to 0; ``n`` float32 ``[G, S]``, the sum of weights, for "last" the number of tokens.

    Raises:
        ValueError: A shape or dtype is not the record's, S is below 0 or the mode is unknown.
    """
    SEGMENT_REDUCE.check_inputs(x=x, segment=segment, weight=weight, segments=segments)
    _check_mode(mode)
    if segments < 0:
        raise ValueError(f"SegmentReduce: got {segments} segments, expected at least 0")
    groups, tokens, width = x.shape
    y = np.zeros((groups, int(segments), width))
    n = np.zeros((groups, int(segments)))
    for g in range(groups):
        for t in range(tokens):
            s = int(segment[g, t])
            if not 0 <= s < segments:
                continue
            w = 1.0 if mode == "last" else float(weight[g, t])
            n[g, s] += w
            token = x[g, t].astype(np.float64)
            y[g, s] = token if mode == "last" else y[g, s] + w * token
    if mode == "mean":
        y = np.divide(y, n[..., None], out=np.zeros_like(y), where=n[..., None] != 0)
    return y.astype(x.dtype), n.astype(np.float32)


def body(mode: str) -> onnx.FunctionProto:
    """Give the portable body for one mode.

    The mode is a string, on which a body without ``If`` cannot branch, and one op name has one body per
    file: all nodes of a file have the same mode.

    Raises:
        ValueError: The mode is unknown.
    """
    _check_mode(mode)
    text = _MEMBERS + {"sum": _SUM, "mean": _MEAN, "last": _LAST}[mode]
    doc = f"The tokens of each segment become one: {mode}."
    return parse_body("SegmentReduce", "x, segment, weight, segments", "y, n", text, doc)


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"SegmentReduce: got mode {mode!r}, expected one of {', '.join(MODES)}")


def make_inputs(case: Case, generator: np.random.Generator, dtype: str = "float32") -> dict[str, Array]:
    """Draw the inputs of one case, by name and in the op's order.

    ``case.draw``: "random" segments, some dropped; "sorted", as in pooling of neighbours; "dropped", all
    of them; "outside", numbers far outside; "weightless", weights of 0 in every other segment; "counts",
    weights of 1.
    """
    groups, tokens, width, segments = (case.axes[axis] for axis in "GTdS")
    segment = generator.integers(-1, segments, (groups, tokens), dtype=np.int32)
    if case.draw == "sorted":
        segment = np.sort(segment, axis=1)
    if case.draw == "dropped":
        segment[:] = -1
    if case.draw == "outside":
        segment = generator.choice(np.array([-(2**31), -7, 0, segments, 2**31 - 1], np.int32), (groups, tokens))
    weight = generator.random((groups, tokens), dtype=np.float32) + np.float32(0.1)
    if case.draw == "weightless":
        weight[segment % 2 == 0] = 0
    if case.draw == "counts":
        weight[:] = 1
    x = generator.standard_normal((groups, tokens, width)).astype(dtype)
    return {"x": x, "segment": segment, "weight": weight, "segments": np.array(segments, np.int64)}


def _cases() -> tuple[Case, ...]:
    shapes = {
        "random": ((4, 23, 12, 9), "random"),
        "sorted": ((4, 23, 12, 9), "sorted"),
        "counts": ((4, 23, 12, 9), "counts"),
        "all_dropped": ((3, 11, 8, 4), "dropped"),
        "numbers_outside": ((3, 11, 8, 4), "outside"),
        "weights_of_zero": ((3, 40, 8, 6), "weightless"),
        "one_segment": ((3, 31, 8, 1), "random"),
        "more_segments_than_tokens": ((2, 5, 6, 40), "random"),
        "one_token": ((2, 1, 6, 2), "random"),
        "no_segment": ((2, 5, 6, 0), "random"),
        "no_token": ((2, 0, 6, 3), "random"),
        "no_group": ((0, 5, 6, 3), "random"),
        "many_tokens": ((2, 600, 8, 150), "sorted"),
    }
    return tuple(
        Case(f"{name}_{mode}", dict(zip("GTdS", sizes, strict=True)), draw, attributes={"mode": mode})
        for name, (sizes, draw) in shapes.items()
        for mode in MODES
    )


SEGMENT_REDUCE = OpRecord(
    name="SegmentReduce",
    summary="y_s = sum, mean or last of the tokens t with segment_t = s, weighted by weight_t",
    axes={"G": "groups, such as samples", "T": "tokens of a group", "d": "width", "S": "segments of a group"},
    inputs=(
        Field("x", _FLOATS, ("G", "T", "d")),
        Field("segment", ("int32",), ("G", "T")),
        Field("weight", ("float32",), ("G", "T")),
        Field("segments", ("int64",), ()),
    ),
    outputs=(Field("y", _FLOATS, ("G", "S", "d")), Field("n", ("float32",), ("G", "S"))),
    reference=reference,
    body=body,
    make_inputs=make_inputs,
    cases=_cases(),
    tolerances={"float32": Tolerance(1e-5, 1e-5), "float16": Tolerance(1e-2, 1e-2)},
    attributes={"mode": "mean"},
)
