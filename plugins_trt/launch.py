"""The ops on tensors of the caller's: Triton compiles the kernels for the device at hand, or interprets them.

Works on torch tensors without importing torch: all that is asked of a tensor is ``shape``, ``dtype``,
``data_ptr``, ``is_contiguous`` and ``new_empty``. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import triton

from adaptrt.plugins_trt.errors import KernelError
from adaptrt.plugins_trt.kernel_records import (
    ALIGNMENT,
    CONDITIONAL_MLP_DOWN,
    CONDITIONAL_MLP_ORDER,
    CONDITIONAL_MLP_UP,
    DTYPES,
    QUANTISED,
    SELECT_TOKENS,
    SIZE,
    VALUES,
    WEIGHTS,
    KernelRecord,
)
from adaptrt.plugins_trt.kernels.configurations import FAMILIES, Configuration, configurations

Tensor = Any
Allocate = Callable[[Tensor, tuple[int, ...], str], Tensor]
"""``allocate(like, shape, dtype)`` gives memory on the device of ``like``."""
Choose = Callable[[KernelRecord, Mapping[str, int], str, str], Configuration]
"""``choose(record, sizes, dtype, weights)`` gives the configuration to launch."""

_INTERPRETED_ARCH = 90  # whose configurations the interpreter takes, since it has no architecture


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter (``TRITON_INTERPRET=1`` when Triton was imported)."""
    return not isinstance(CONDITIONAL_MLP_ORDER.function(), triton.JITFunction)


def current_arch() -> int:
    """The compute capability that kernels are compiled for; in the interpreter, whose tiles it takes.

    Raises:
        KernelError: There is no CUDA device.
    """
    if is_interpreted():
        return _INTERPRETED_ARCH
    try:
        return int(triton.runtime.driver.active.get_current_target().arch)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise KernelError(f"got no CUDA device ({reason}), expected one; TRITON_INTERPRET=1 runs without") from None


def choose_configuration(record: KernelRecord, sizes: Mapping[str, int], dtype: str, weights: str) -> Configuration:
    """Give the table's configuration for these sizes on the current device.

    A device that the table does not name takes the one of the nearest older architecture.

    Raises:
        KernelError: The device is older than all in the table.
    """
    arch = current_arch()
    older = [known for known in FAMILIES if known <= arch]
    if not older:
        raise KernelError(f"got a device of architecture {arch}, expected {min(FAMILIES)} or later")
    aligned = all(sizes[name] % ALIGNMENT == 0 for name in record.aligned)
    choices = configurations(record.op, max(older), dtype, weights, aligned=aligned)
    return next(choice for choice in choices if choice.suits(sizes))


def allocate_empty(like: Tensor, shape: tuple[int, ...], dtype: str) -> Tensor:
    """Memory that nobody has written to."""
    return like.new_empty(shape, dtype=_dtype_like(like, dtype))


def launch(
    record: KernelRecord,
    tensors: Mapping[str, Tensor],
    *,
    attributes: Mapping[str, int] | None = None,
    choose: Choose = choose_configuration,
) -> None:
    """Launch one kernel.

    Args:
        record: Which one.
        tensors: Inputs and outputs by name, outputs already allocated; scales only where weights are int8.
        attributes: Values of the record's attributes.
        choose: Gives the configuration.

    Raises:
        KernelError: A tensor is missing, has gaps, or a shape or dtype that the record does not have.
    """
    quantised = any(argument.quantised and argument.name in tensors for argument in record.arguments)
    needed = [argument.name for argument in record.arguments_of(quantised) if argument.kind != SIZE]
    if set(needed) != set(tensors):
        raise KernelError(f"{record.op}: got tensors {', '.join(tensors)}, expected {', '.join(needed)}")
    sizes = record.check({name: tuple(tensor.shape) for name, tensor in tensors.items()}, attributes or {})
    dtype, weights = _check_dtypes(record, tensors, quantised)
    configuration = choose(record, sizes, dtype, weights)
    extents = record.extents(sizes, configuration.blocks)
    if 0 in extents:
        return
    values = [
        sizes[argument.name] if argument.kind == SIZE else tensors.get(argument.name) for argument in record.arguments
    ]
    record.function()[extents](
        *values,
        **configuration.blocks,
        num_warps=configuration.warps,
        num_stages=configuration.stages,
        # Triton 3.9 leaves products and sums apart unless told; ahead of time they are fused, too.
        enable_fp_fusion=True,
    )


def conditional_mlp(
    x: Tensor,
    k: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    w1_scale: Tensor | None = None,
    w2_scale: Tensor | None = None,
    allocate: Allocate = allocate_empty,
    choose: Choose = choose_configuration,
) -> Tensor:
    """Compute ConditionalMLP, see ``ops/conditional_mlp.py``: three launches, no synchronisation.

    Args:
        x: ``[T, D]``, float16, bfloat16 or float32.
        k: int32 ``[T]``, clamped to 0..N.
        w1: ``[N, D, h]``, of the dtype of x or int8.
        b1: ``[N, h]``.
        w2: ``[N, h, E]``, of the dtype of x or int8, as w1.
        b2: ``[E]``.
        w1_scale: float32 ``[N, h]``, with int8 weights: the weight is ``w1 * w1_scale``.
        w2_scale: float32 ``[N, E]``, likewise.
        allocate: Gives memory for the result and what lies between.
        choose: Gives the configuration of each kernel.

    Returns:
        y ``[T, E]`` in the dtype of x.

    Raises:
        KernelError: A shape or dtype does not fit, or a tensor has gaps.
    """
    if len(w1.shape) != 3 or len(w2.shape) != 3 or len(x.shape) != 2:
        raise KernelError("ConditionalMLP: expected x[T, D], w1[N, D, h] and w2[N, h, E]")
    learners, _, width = w1.shape
    order = allocate(k, tuple(k.shape), "int32")
    running = allocate(k, (learners,), "int32")
    launch(CONDITIONAL_MLP_ORDER, {"k": k, "order": order, "running": running}, choose=choose)
    hidden = allocate(x, (x.shape[0], learners * width), _name(x))
    ordered = {"order": order, "running": running}
    up = {"x": x, **ordered, "w1": w1, "b1": b1, "hidden": hidden}
    launch(CONDITIONAL_MLP_UP, _with(up, w1_scale=w1_scale), choose=choose)
    y = allocate(x, (x.shape[0], w2.shape[2]), _name(x))
    down = {"hidden": hidden, **ordered, "w2": w2, "b2": b2, "y": y}
    launch(CONDITIONAL_MLP_DOWN, _with(down, w2_scale=w2_scale), choose=choose)
    return y


def select_tokens(
    x: Tensor,
    score: Tensor,
    valid: Tensor,
    forced: Tensor,
    threshold: Tensor,
    keep_min: Tensor,
    keep_max: Tensor,
    *,
    limits: str = "any",
    allocate: Allocate = allocate_empty,
    choose: Choose = choose_configuration,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute SelectTokens, see ``ops/select_tokens.py``, with K = T: one launch, no synchronisation.

    Args:
        x: ``[B, T, D]``, float16, bfloat16 or float32.
        score: float32 ``[B, T]``.
        valid: bool ``[B, T]``.
        forced: bool ``[B, T]``.
        threshold: float32 ``[B]``.
        keep_min: int64 ``[]``, on the device like all others.
        keep_max: int64 ``[]``; wins over ``keep_min``.
        limits: "any", or "none": neither limit is read.
        allocate: Gives memory for the results.
        choose: Gives the configuration.

    Returns:
        y ``[B, T, D]``, index int32 ``[B, T]`` and count int32 ``[B]``; y and index are 0 from count on.

    Raises:
        KernelError: A shape or dtype does not fit, a tensor has gaps, or ``limits`` is unknown.
    """
    if limits not in ("any", "none"):
        raise KernelError(f"SelectTokens: got limits {limits!r}, expected any or none")
    y = allocate(x, tuple(x.shape), _name(x))
    index = allocate(x, tuple(score.shape), "int32")
    count = allocate(x, tuple(threshold.shape), "int32")
    inputs = {"x": x, "score": score, "valid": valid, "forced": forced, "threshold": threshold}
    tensors = {**inputs, "keep_min": keep_min, "keep_max": keep_max, "y": y, "index": index, "count": count}
    launch(SELECT_TOKENS, tensors, attributes={"limits": int(limits == "any")}, choose=choose)
    return y, index, count


def _with(tensors: dict[str, Tensor], **optional: Tensor | None) -> dict[str, Tensor]:
    return {**tensors, **{name: tensor for name, tensor in optional.items() if tensor is not None}}


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).rpartition(".")[2]


def _dtype_like(like: Tensor, name: str) -> Any:
    """The dtype of a name in the library that ``like`` is from."""
    if _name(like) == name:
        return like.dtype
    import sys

    library = sys.modules[type(like).__module__.partition(".")[0]]
    return getattr(library, name)


def _check_dtypes(record: KernelRecord, tensors: Mapping[str, Tensor], quantised: bool) -> tuple[str, str]:
    numbers = [argument.name for argument in record.arguments if argument.dtype == VALUES]
    dtype = _name(tensors[numbers[0]]) if numbers else "int32"
    if numbers and dtype not in DTYPES:
        raise KernelError(f"{record.op}: {numbers[0]} has dtype {dtype}, expected one of {', '.join(DTYPES)}")
    weights = QUANTISED if quantised else dtype
    for argument in record.arguments_of(quantised):
        if argument.dtype is None:
            continue
        wanted = {VALUES: dtype, WEIGHTS: weights}.get(argument.dtype, argument.dtype)
        tensor = tensors[argument.name]
        if _name(tensor) != wanted:
            hint = "" if argument.dtype != WEIGHTS or quantised else "; int8 weights need their scale"
            raise KernelError(f"{record.op}: {argument.name} has dtype {_name(tensor)}, expected {wanted}{hint}")
        if not tensor.is_contiguous():
            raise KernelError(f"{record.op}: {argument.name} has gaps, expected it contiguous; call .contiguous()")
    return dtype, weights
