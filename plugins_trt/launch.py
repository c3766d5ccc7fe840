"""The ops on tensors of the caller's: Triton compiles the kernels for the device at hand, or interprets them.

Works on torch tensors without importing torch: all that is asked of a tensor is ``shape``, ``dtype``,
``data_ptr``, ``is_contiguous`` and ``new_empty``. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import triton

from adaptrt.ops import RECORDS, OpRecord, Part, PartAttribute
from adaptrt.ops.activations import activation_named
from adaptrt.plugins_trt.errors import KernelError
from adaptrt.plugins_trt.kernel_records import (
    ACTIVATIONS,
    ALIGNMENT,
    CONDITIONAL_MLP_ORDER,
    DTYPES,
    INPUT,
    KERNEL_RECORDS,
    OUTPUT,
    QUANTISED,
    SIZE,
    VALUES,
    WEIGHTS,
    Argument,
    KernelRecord,
    axes_sizes,
    kernel_records,
    sizes_of,
)
from adaptrt.plugins_trt.kernels.configurations import FAMILIES, Configuration

Tensor = Any
Allocate = Callable[[Tensor, tuple[int, ...], str], Tensor]
"""``allocate(like, shape, dtype)`` gives memory on the device of ``like``."""
Choose = Callable[[KernelRecord, Mapping[str, int], str, str, str], Configuration]
"""``choose(record, sizes, dtype, weights, activations)`` gives the configuration to launch."""

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


def choose_configuration(
    record: KernelRecord, sizes: Mapping[str, int], dtype: str, weights: str, activations: str = ""
) -> Configuration:
    """Give the table's configuration for these sizes on the current device; activations are of ``dtype`` unless given.

    A device that the table does not name takes the one of the nearest older architecture.

    Raises:
        KernelError: The device is older than all in the table.
    """
    arch = current_arch()
    older = [known for known in FAMILIES if known <= arch]
    if not older:
        raise KernelError(f"got a device of architecture {arch}, expected {min(FAMILIES)} or later")
    aligned = all(sizes[name] % ALIGNMENT == 0 for name in record.aligned)
    choices = record.configurations(max(older), dtype, weights, activations, aligned=aligned)
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
        tensors: Inputs and outputs by name, outputs already allocated; scales only where weights are int8, those of
            activations only where these are int8, too.
        attributes: Values of the record's attributes, by the sizes that they give.
        choose: Gives the configuration.

    Raises:
        KernelError: A tensor is missing, has gaps, or a shape or dtype that the record does not have.
    """
    given = {argument.scales for argument in record.arguments if argument.name in tensors}
    kinds = (WEIGHTS, ACTIVATIONS) if ACTIVATIONS in given else tuple({WEIGHTS} & given)
    taken = record.arguments_of(*(QUANTISED if kind in kinds else "" for kind in (WEIGHTS, ACTIVATIONS)))
    needed = [argument.name for argument in taken if argument.kind != SIZE]
    if set(needed) != set(tensors):
        raise KernelError(f"{record.op}: got tensors {', '.join(tensors)}, expected {', '.join(needed)}")
    sizes = record.check({name: tuple(tensor.shape) for name, tensor in tensors.items()}, attributes or {})
    dtype = _check_dtypes(record, tensors, kinds)
    weights, activations = (QUANTISED if kind in kinds else dtype for kind in (WEIGHTS, ACTIVATIONS))
    configuration = choose(record, sizes, dtype, weights, activations)
    extents = record.extents(sizes, configuration.blocks)
    if 0 in extents:
        return
    values = [
        sizes[argument.name] if argument.kind == SIZE else tensors.get(argument.name) for argument in record.arguments
    ]
    record.function()[extents](
        *values,
        **configuration.blocks,
        **record.constants,
        num_warps=configuration.warps,
        num_stages=configuration.stages,
        # Triton 3.9 leaves products and sums apart unless told; ahead of time they are fused, too.
        enable_fp_fusion=True,
    )


def compute(
    op: OpRecord,
    inputs: Mapping[str, Tensor],
    attributes: Mapping[str, Any] | None = None,
    *,
    allocate: Allocate = allocate_empty,
    choose: Choose = choose_configuration,
) -> dict[str, Tensor]:
    """Compute an op by the kernels of its parts: as many launches, no synchronisation.

    Args:
        op: Its record.
        inputs: By name; int8 weights beside their scales, ``w1`` and ``w1_scale``; for int8 activations beside these
            the fixed scales ``x_scale`` and ``hidden_scale``.
        attributes: The op's, where they are not its defaults.
        allocate: Gives memory for the results and what lies between.
        choose: Gives the configuration of each kernel.

    Returns:
        What the last part gives, by name.

    Raises:
        KernelError: The op has no kernels, a tensor is missing, or a shape, dtype or attribute does not fit.
    """
    if not op.parts:
        raise KernelError(f"got {op.name}, expected an op with kernels; its portable body computes it")
    missing = [field.name for field in op.inputs if field.name not in inputs]
    if missing:
        raise KernelError(f"{op.name}: got no {', '.join(missing)}, expected all of the op's inputs")
    records = KERNEL_RECORDS if RECORDS.get(op.name) is op else kernel_records({op.name: op})
    known = {argument.name for part in op.parts for argument in records[part.name].arguments if argument.scales}
    known |= {field.name for field in op.inputs}
    if not known.issuperset(inputs):
        unknown = ", ".join(sorted(set(inputs) - known))
        raise KernelError(f"{op.name}: got {unknown}, expected some of {', '.join(sorted(known))}")
    given = {**op.attributes, **(attributes or {})}
    numbers = {
        part.name: {attribute.size: _number(op, attribute, given) for attribute in records[part.name].attributes}
        for part in op.parts
    }
    named = [(field.name, field.axes, tuple(inputs[field.name].shape)) for field in op.inputs]
    sizes = sizes_of(op.name, named, {})
    tensors, like = dict(inputs), inputs[op.inputs[0].name]
    for part in op.parts:
        record = records[part.name]
        taken = {
            argument.name: tensors[argument.name]
            for argument in record.arguments
            if argument.kind == INPUT and (argument.name in tensors or not argument.scales)
        }
        outputs = {
            argument.name: allocate(like, axes_sizes(argument.axes, sizes), _result_dtype(argument, like, inputs, part))
            for argument in record.arguments
            if argument.kind == OUTPUT
        }
        launch(record, {**taken, **outputs}, attributes=numbers[part.name], choose=choose)
        tensors.update(outputs)
    return {field.name: tensors[field.name] for field in op.parts[-1].outputs}


def conditional_mlp(
    x: Tensor,
    k: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    activation: str = "gelu",
    w1_scale: Tensor | None = None,
    w2_scale: Tensor | None = None,
    x_scale: Tensor | None = None,
    hidden_scale: Tensor | None = None,
    allocate: Allocate = allocate_empty,
    choose: Choose = choose_configuration,
) -> Tensor:
    """Compute ConditionalMLP with one of the activations, see ``ops/conditional_mlp.py``: three launches.

    Args:
        x: ``[T, D]``, float16, bfloat16 or float32.
        k: int32 ``[T]``, clamped to 0..N.
        w1: ``[N, D, h]``, of the dtype of x or int8.
        b1: ``[N, h]``.
        w2: ``[N, h, E]``, of the dtype of x or int8, as w1.
        b2: ``[E]``.
        activation: A name of ``ops/activations.py``.
        w1_scale: float32 ``[N, h]``, with int8 weights: the weight is ``w1 * w1_scale``.
        w2_scale: float32 ``[N, E]``, likewise.
        x_scale: float32 ``[]``, with int8 weights and activations: x becomes ``round(x / x_scale)`` in -128..127.
        hidden_scale: float32 ``[N]``, likewise, of each learner's hidden layer.
        allocate: Gives memory for the result and what lies between.
        choose: Gives the configuration of each kernel.

    Returns:
        y ``[T, E]`` in the dtype of x.

    Raises:
        KernelError: A shape or dtype does not fit, or a tensor has gaps.
        ValueError: The activation is unknown.
    """
    op = RECORDS[activation_named(activation).mlp]
    inputs = {"x": x, "k": k, "w1": w1, "b1": b1, "w2": w2, "b2": b2}
    inputs = _with(inputs, w1_scale=w1_scale, w2_scale=w2_scale, x_scale=x_scale, hidden_scale=hidden_scale)
    return compute(op, inputs, allocate=allocate, choose=choose)["y"]


def conditional_glu(
    x: Tensor,
    k: Tensor,
    w1: Tensor,
    b1: Tensor,
    v1: Tensor,
    c1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    activation: str = "silu",
    w1_scale: Tensor | None = None,
    v1_scale: Tensor | None = None,
    w2_scale: Tensor | None = None,
    x_scale: Tensor | None = None,
    hidden_scale: Tensor | None = None,
    allocate: Allocate = allocate_empty,
    choose: Choose = choose_configuration,
) -> Tensor:
    """Compute the gated form, see ``ops/conditional_glu.py``: three launches.

    Args:
        x: ``[T, D]``, float16, bfloat16 or float32.
        k: int32 ``[T]``, clamped to 0..N.
        w1: Of the gate, ``[N, D, h]``, of the dtype of x or int8.
        b1: Of the gate, ``[N, h]``.
        v1: Of what is gated, ``[N, D, h]``, of the dtype of w1.
        c1: Of what is gated, ``[N, h]``.
        w2: ``[N, h, E]``, of the dtype of w1.
        b2: ``[E]``.
        activation: Of the gate, a name of ``ops/activations.py`` whose row has a gated op.
        w1_scale: float32 ``[N, h]``, with int8 weights.
        v1_scale: float32 ``[N, h]``, likewise.
        w2_scale: float32 ``[N, E]``, likewise.
        x_scale: float32 ``[]``, with int8 weights and activations, as in ``conditional_mlp``.
        hidden_scale: float32 ``[N]``, likewise.
        allocate: Gives memory for the result and what lies between.
        choose: Gives the configuration of each kernel.

    Returns:
        y ``[T, E]`` in the dtype of x.

    Raises:
        KernelError: A shape or dtype does not fit, or a tensor has gaps.
        ValueError: No op is gated by that activation.
    """
    op = RECORDS[activation_named(activation, gated=True).glu]
    inputs = {"x": x, "k": k, "w1": w1, "b1": b1, "v1": v1, "c1": c1, "w2": w2, "b2": b2}
    inputs = _with(inputs, w1_scale=w1_scale, v1_scale=v1_scale, w2_scale=w2_scale)
    inputs = _with(inputs, x_scale=x_scale, hidden_scale=hidden_scale)
    return compute(op, inputs, allocate=allocate, choose=choose)["y"]


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
    inputs = {"x": x, "score": score, "valid": valid, "forced": forced, "threshold": threshold}
    inputs |= {"keep_min": keep_min, "keep_max": keep_max}
    outputs = compute(RECORDS["SelectTokens"], inputs, {"limits": limits}, allocate=allocate, choose=choose)
    return outputs["y"], outputs["index"], outputs["count"]


def _number(op: OpRecord, attribute: PartAttribute, given: Mapping[str, Any]) -> int:
    """What an attribute gives a kernel: a whole number itself, a text by its word."""
    value = given[attribute.name]
    if not attribute.words:
        return int(value)
    if value not in attribute.words:
        known = " or ".join(attribute.words)
        raise KernelError(f"{op.name}: got {attribute.name} {value!r}, expected {known}")
    return attribute.words[value]


def _result_dtype(argument: Argument, like: Tensor, inputs: Mapping[str, Tensor], part: Part) -> str:
    assert argument.dtype is not None
    if argument.dtype == ACTIVATIONS and any(field.name in inputs for field in part.scales):
        return QUANTISED
    return _name(like) if argument.dtype in (VALUES, ACTIVATIONS) else argument.dtype


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


def _check_dtypes(record: KernelRecord, tensors: Mapping[str, Tensor], kinds: Collection[str]) -> str:
    """The dtype of the op's numbers; ``kinds`` of ``WEIGHTS`` and ``ACTIVATIONS`` are int8."""
    numbers = [argument.name for argument in record.arguments if argument.dtype == VALUES]
    dtype = _name(tensors[numbers[0]]) if numbers else "int32"
    if numbers and dtype not in DTYPES:
        raise KernelError(f"{record.op}: {numbers[0]} has dtype {dtype}, expected one of {', '.join(DTYPES)}")
    dtypes = {VALUES: dtype, **{kind: QUANTISED if kind in kinds else dtype for kind in (WEIGHTS, ACTIVATIONS)}}
    for argument in record.arguments:
        if argument.dtype is None or (argument.scales and argument.scales not in kinds):
            continue
        wanted = dtypes.get(argument.dtype, argument.dtype)
        tensor = tensors[argument.name]
        if _name(tensor) != wanted:
            hint = "" if argument.dtype != WEIGHTS or WEIGHTS in kinds else "; int8 weights need their scale"
            raise KernelError(f"{record.op}: {argument.name} has dtype {_name(tensor)}, expected {wanted}{hint}")
        if not tensor.is_contiguous():
            raise KernelError(f"{record.op}: {argument.name} has gaps, expected it contiguous; call .contiguous()")
    return dtype
