"""Portable bodies for ops in which token t runs the first k_t of N learners.

Tokens are ordered by k, descending, with a counting sort (one-hot and CumSum, no TopK: TensorRT caps
that at 3,840). Learner n then runs on a contiguous prefix of c_n rows, so its products are plain
matrix products with constant weights, which engines pre-pack. The learners' results accumulate
through the C operand of Gemm, on shorter and shorter prefixes; the rows that a learner leaves behind
are finished and are cut off on the way. One gather puts everything back in the tokens' order.
Rows of tokens that run nothing are never copied.

Why this form and not another: the alternatives (a padded sum, one wide product for each exact k, a
gather per learner, a second index into all partial sums) were measured beside it at 64, 197 and 1,576
tokens. One product per exact k needs 2.5 times the weights at N = 4 and falls behind below a
thousand tokens; the others are within 3% of this one, never clearly better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptrt.ops.body import parse_body

if TYPE_CHECKING:
    import onnx

_ORDER = """
  levels = Constant <value = int32[{levels},1] {{{descending}}}> ()
  zero = Constant <value = int32 {{0}}> ()
  one = Constant <value = int32 {{1}}> ()
  all_learners = Constant <value = int32 {{{learners}}}> ()
  axis = Constant <value = int32 {{0}}> ()
  axis0 = Constant <value = int64[1] {{0}}> ()
  axis1 = Constant <value = int64[1] {{1}}> ()
  first = Constant <value = int32[1] {{0}}> ()
  flat_shape = Constant <value = int64[1] {{-1}}> ()
  by_level = Constant <value = int64[2] {{{levels}, -1}}> ()
  k_clamped = Clip (k, zero, all_learners)
  is_level = Equal (levels, k_clamped)
  one_hot = Cast <to = 6> (is_level)
  one_hot_flat = Reshape (one_hot, flat_shape)
  before_flat = CumSum <exclusive = 1> (one_hot_flat, axis)
  before = Reshape (before_flat, by_level)
  own_before = Mul (before, one_hot)
  rank = ReduceSum <keepdims = 0> (own_before, axis0)
  tokens_at = ReduceSum <keepdims = 0> (one_hot, axis1)
  tokens_from = CumSum (tokens_at, axis)
  {counts} = Split <axis = 0, num_outputs = {levels}> (tokens_from)
  tokens = Squeeze (c0)
  token = Range (zero, tokens, one)
  order = ScatterElements <axis = 0> (token, rank, token)
  order1 = Slice (order, first, c1, first)
  x1 = Gather <axis = 0> (x, order1)
"""
# Flattened level by level, the exclusive CumSum of the one-hot matrix is each token's place in the
# sorted order: tokens of a higher level come first, equal ones keep their order.

_LEARNER = """
  index{n} = Constant <value = int64 {{{index}}}> ()
{hidden}
  w2_{n} = Gather <axis = 0> (w2, index{n})
"""

_FIRST = """
  sum1 = Gemm (hidden1, w2_1, b2)
"""

_NEXT = """
  going_on{n} = Slice (sum{previous}, first, c{n}, first)
  done{n} = Slice (sum{previous}, c{n}, c{previous}, first)
  sum{n} = Gemm (hidden{n}, w2_{n}, going_on{n})
"""

_RESTORE = """
  b2_row = Unsqueeze (b2, axis0)
  y_sorted = Concat <axis = 0> ({finished}, b2_row)
  place = Min (rank, c1)
  y = Gather <axis = 0> (y_sorted, place)
"""
# Rows of tokens with k = 0 are not computed: their place is that of the one row holding b2.


def linear_text(result: str, weight: str, bias: str = "", product: str = "product") -> str:
    """ONNX text of ``x{n} @ weight[n]``, plus ``bias[n]`` if there is one, as ``result`` + ``{n}``.

    Args:
        result: Name of the result, unique in the body.
        weight: Input ``[N, in, out]``.
        bias: Input ``[N, out]``.
        product: Name of what the bias is added to, unique in the body.
    """
    if not bias:
        return f"""  {weight}_{{n}} = Gather <axis = 0> ({weight}, index{{n}})
  {result}{{n}} = MatMul (x{{n}}, {weight}_{{n}})"""
    return f"""  {weight}_{{n}} = Gather <axis = 0> ({weight}, index{{n}})
  {bias}_{{n}} = Gather <axis = 0> ({bias}, index{{n}})
  {product}{{n}} = MatMul (x{{n}}, {weight}_{{n}})
  {result}{{n}} = Add ({product}{{n}}, {bias}_{{n}})"""


def learner_prefix_body(op: str, inputs: str, hidden: str, learners: int, *, constants: str = "") -> onnx.FunctionProto:
    """Build the body of an op whose token t runs the first ``k[t]`` learners.

    Args:
        op: Name of the op; its inputs must include ``x[T,D]``, ``k[T]``, ``w2[N,h,E]`` and ``b2[E]``.
        inputs: The op's inputs, comma-separated, in order.
        hidden: ONNX text that computes ``hidden{n}`` from ``x{n}``; may use ``index{n}``.
        learners: N, at least 1; the body is unrolled over it.
        constants: ONNX text for what ``hidden`` uses of all learners; may use the op's inputs.

    Raises:
        ValueError: ``learners`` is below 1.
    """
    if learners < 1:
        raise ValueError(f"{op}: got {learners} learners, expected at least 1")
    numbers = range(learners, -1, -1)
    lines = [
        _ORDER.format(
            levels=learners + 1,
            learners=learners,
            descending=",".join(map(str, numbers)),
            counts=", ".join(f"c{n}" for n in numbers),
        ),
        constants,
    ]
    for n in range(1, learners + 1):
        if n > 1:
            lines.append(f"  x{n} = Slice (x{n - 1}, first, c{n}, first)\n")
        lines.append(_LEARNER.format(n=n, index=n - 1, hidden=hidden.format(n=n)))
        lines.append((_FIRST if n == 1 else _NEXT).format(n=n, previous=n - 1))
    finished = [f"sum{learners}", *(f"done{n}" for n in range(learners, 1, -1))]
    lines.append(_RESTORE.format(finished=", ".join(finished)))
    doc = f"Token t runs the first k[t] of {learners} learners; tokens sorted by k."
    return parse_body(op, inputs, "y", "".join(lines), doc)
