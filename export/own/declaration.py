"""What a user declares of a network: checked before anything is traced, so that mistakes are told in its words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.user_code import where_raised
from adaptrt.models.own import Adaptive, Knob, Leave, Named
from adaptrt.models.staged_network import Axis, KnobSpec
from adaptrt.runtime.bundle.schema import CONFIDENCE_OUTPUT, MACS_OUTPUT, PRICE_KNOB, THRESHOLDS_KNOB, TOKEN_PRICE_KNOB

BATCH = "batch"
DTYPES = ("float32", "int64", "int32", "bool")
LONGER = 4
"""How many times as long as in the example an axis may be."""
_RESERVED_KNOBS = (THRESHOLDS_KNOB, TOKEN_PRICE_KNOB, "capacity", "keep")
_RESERVED_AXES = ("taken_", "size_")
_RESERVED_OUTPUTS = (MACS_OUTPUT, CONFIDENCE_OUTPUT)


@dataclass(frozen=True)
class Declaration:
    """What is declared, with what the example adds.

    Attributes:
        shapes: Of every input; a text names an axis.
        dtypes: Of every input, as torch has them.
        padding: For an axis the input that marks what is real.
        sizes: Of the named axes in the example.
        stages: How many.
        knobs: As export takes them.
        rule: Thresholds of its own.
    """

    shapes: dict[str, tuple[Axis, ...]]
    dtypes: dict[str, torch.dtype]
    padding: dict[str, str]
    sizes: dict[str, int]
    stages: int
    knobs: tuple[KnobSpec, ...]
    rule: tuple[float, ...] | None


def read_declaration(network: Adaptive) -> Declaration:
    """Check what a network declares.

    Raises:
        ExportError: It does not fit together, or nothing in it is adaptive.
    """
    kind = type(network).__name__
    shapes = _shapes(network, kind)
    stages = network.stages
    if type(stages) is not int or stages < 1:
        raise ExportError(f"{kind}.stages: got {stages!r}, expected how many there are, from 1")
    if not isinstance(network.knobs, list | tuple):
        raise ExportError(f"{kind}.knobs: got {_kind(network.knobs)}, expected a list of Knob(name, full, least)")
    knobs = tuple(_knob(knob, f"{kind}.knobs", several=stages > 1) for knob in network.knobs)
    names = [knob.name for knob in knobs]
    if len(set(names) | set(shapes)) < len(names) + len(shapes):
        raise ExportError(f"{kind}: got the names {', '.join([*shapes, *names])}, expected one for each input and knob")
    if stages == 1 and not knobs:
        raise ExportError(
            f"{kind} has one stage and no knobs, expected something adaptive: nothing in it could be told to do less; "
            "give it stages with exits, or a Knob that its stage reads"
        )
    try:
        example = network.example(2)
    except Exception as error:  # the user's code raises what it likes
        text = " ".join(str(error).split())
        raise ExportError(
            f"{kind}.example(2) raised {type(error).__name__}: {text} at {where_raised(error)}; expected tensors by "
            "name"
        ) from error
    dtypes, sizes = _example(example, shapes, kind)
    if not isinstance(network.padding, Mapping):
        raise ExportError(
            f"{kind}.padding: got {_kind(network.padding)}, expected the marking input of each padded axis, such as "
            "{'m': 'valid'}"
        )
    padding = dict(network.padding)
    for axis, mask in padding.items():
        fine = axis in sizes and shapes.get(mask) == (BATCH, axis) and dtypes.get(mask) == torch.bool
        if not fine:
            raise ExportError(
                f"{kind}.padding: got {axis!r} marked by {mask!r}, expected a named axis and an input bool "
                f"['batch', {axis!r}]; declare it in axes and give it in example"
            )
    return Declaration(shapes, dtypes, padding, sizes, stages, knobs, _rule(network, kind))


def require_leave(leave: object, number: int, last: bool, batch: int, kind: str) -> Leave:
    """Check what ``leave`` gives.

    Raises:
        ExportError: It is no ``Leave``, or sure of nothing.
    """
    where = f"{kind}.leave({number})"
    if not isinstance(leave, Leave) or not isinstance(leave.outputs, dict) or not leave.outputs:
        raise ExportError(f"{where} gave {_kind(leave)}, expected Leave(outputs, sure) with outputs by name")
    for name, tensor in leave.outputs.items():
        if not isinstance(tensor, Tensor) or tensor.ndim == 0 or tensor.shape[0] != batch:
            raise ExportError(f"{where} gave the output {name!r} as {_kind(tensor)}, expected a tensor [batch, ...]")
        if name in _RESERVED_OUTPUTS or name.startswith("next_"):
            raise ExportError(f"{where} gave an output called {name!r}, which the bundle has itself; call it otherwise")
    if last:
        return leave
    sure = leave.sure
    if not isinstance(sure, Tensor) or not sure.is_floating_point() or tuple(sure.shape) != (batch,):
        raise ExportError(
            f"{where} gave sure as {_kind(sure)}, expected float [batch]: one number for each sample, higher is surer"
        )
    if not torch.isfinite(sure).all():
        raise ExportError(
            f"{where} gave sure with {_first_odd(sure)} in it, expected finite numbers: a threshold compares with it"
        )
    return leave


def require_same_outputs(leave: Leave, first: Leave, number: int, kind: str) -> None:
    """Check that a stage gives the same outputs as the one before it.

    Raises:
        ExportError: Names, dtypes or ranks differ.
    """
    described = [
        {name: (str(t.dtype).removeprefix("torch."), t.ndim) for name, t in each.outputs.items()}
        for each in (leave, first)
    ]
    if described[0] != described[1]:
        raise ExportError(
            f"{kind}.leave({number}) gave {_listed(described[0])}, expected {_listed(described[1])} as after the stage "
            "before; give the same names, dtypes and ranks after every stage"
        )


def require_state(state: object, number: int, batch: int, kind: str) -> Named:
    """Check what ``stage`` gives.

    Raises:
        ExportError: It is no dictionary of tensors, or one has not the samples as its first axis.
    """
    if not isinstance(state, dict):
        raise ExportError(f"{kind}.stage({number}) gave {_kind(state)}, expected a dictionary of tensors by name")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ExportError(
                f"{kind}.stage({number}) gave {name!r} as {_kind(tensor)}, expected a tensor [batch, ...]; keep what "
                "is the same for all samples in the module"
            )
        if str(tensor.dtype).removeprefix("torch.") not in DTYPES:
            raise ExportError(
                f"{kind}.stage({number}) gave {name!r} in {tensor.dtype}, expected one of {', '.join(DTYPES)}; "
                "convert it"
            )
        if tensor.ndim == 0 or tensor.shape[0] != batch:
            raise ExportError(
                f"{kind}.stage({number}) gave {name!r} of shape {list(tensor.shape)} for {batch} samples, expected the "
                "samples as its first axis and no other; reshape it"
            )
    return state


def _shapes(network: Adaptive, kind: str) -> dict[str, tuple[Axis, ...]]:
    axes = getattr(network, "axes", None)
    if not isinstance(axes, Mapping) or not axes:
        raise ExportError(
            f"{kind}.axes: got {_kind(axes)}, expected the shape of every input, such as "
            "{'pixels': ('batch', 3, 32, 32)}"
        )
    shapes = {}
    for name, shape in axes.items():
        fine = isinstance(name, str) and isinstance(shape, tuple | list) and len(shape) > 0 and shape[0] == BATCH
        fine = fine and all(isinstance(size, str) or (type(size) is int and size > 0) for size in shape)
        fine = fine and BATCH not in shape[1:]
        if not fine or any(isinstance(size, str) and size.startswith(_RESERVED_AXES) for size in shape):
            raise ExportError(
                f"{kind}.axes[{name!r}]: got {shape!r}, expected 'batch', then sizes or names of axes that do not "
                f"begin with {' or '.join(_RESERVED_AXES)}, such as ('batch', 'm', 256)"
            )
        shapes[name] = tuple(shape)
    return shapes


def _example(
    example: object, shapes: dict[str, tuple[Axis, ...]], kind: str
) -> tuple[dict[str, torch.dtype], dict[str, int]]:
    """Dtypes of the inputs and sizes of the named axes."""
    if not isinstance(example, dict) or set(example) != set(shapes):
        got = ", ".join(map(str, example)) if isinstance(example, dict) else _kind(example)
        raise ExportError(f"{kind}.example gave {got}, expected tensors for {', '.join(shapes)} as in axes")
    dtypes: dict[str, torch.dtype] = {}
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        tensor = example[name]
        fine = isinstance(tensor, Tensor) and tensor.ndim == len(shape) and tensor.shape[0] == 2
        for axis, size in enumerate(shape[1:], start=1) if fine else ():
            wanted = sizes.setdefault(size, tensor.shape[axis]) if isinstance(size, str) else size
            fine = fine and tensor.shape[axis] == wanted
        if not fine:
            raise ExportError(
                f"{kind}.example(2) gave {name!r} as {_kind(tensor)}, expected a tensor of shape {list(shape)} with 2 "
                "as batch and one size for each named axis"
            )
        dtypes[name] = tensor.dtype
        if str(tensor.dtype).removeprefix("torch.") not in DTYPES:
            raise ExportError(
                f"{kind}.example gave {name!r} in {tensor.dtype}, expected one of {', '.join(DTYPES)}; convert it"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ExportError(f"{kind}.example gave {name!r} with {_first_odd(tensor)} in it, expected finite numbers")
    return dtypes, sizes


def _knob(knob: object, where: str, *, several: bool) -> KnobSpec:
    if not isinstance(knob, Knob) or not isinstance(knob.name, str) or not knob.name.isidentifier():
        raise ExportError(f"{where}: got {knob!r}, expected Knob(name, full, least)")
    numbers = (knob.full, knob.least)
    fine = all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
    fine = fine and knob.full != knob.least and type(knob.size) is int and knob.size >= 1
    if not fine or (knob.whole and not all(float(number).is_integer() and number >= 0 for number in numbers)):
        raise ExportError(
            f"{where}: got {knob.name} from {knob.full} to {knob.least} of size {knob.size}, expected two finite "
            "numbers that differ, whole ones from 0 where it is whole, and a size from 1"
        )
    if knob.name in _RESERVED_KNOBS:
        raise ExportError(
            f"{where}: got the name {knob.name!r}, which bundles use for something else; call it otherwise"
        )
    if knob.name == PRICE_KNOB:
        if several:
            raise ExportError(
                f"{where}: got 'price' in a network with exits, expected a price on the exits' scale, loss per share "
                "of the dense work, which nothing has fitted; call it otherwise, and it is swept by its own range"
            )
        if knob.size != 1 or knob.whole or knob.full > knob.least:
            raise ExportError(
                f"{where}: got 'price' from {knob.full:g} to {knob.least:g} of size {knob.size}, expected one number "
                "that rises from where everything runs; call it otherwise, and it is swept by its own range"
            )
    # As graphs hold them: what is fed is rounded to float32 and must not lie outside.
    full, least = (float(np.float32(number)) for number in numbers)
    dtype = "int32" if knob.whole else "float32"
    return KnobSpec(knob.name, dtype, (knob.size,), min(full, least), max(full, least), full)


def _rule(network: Adaptive, kind: str) -> tuple[float, ...] | None:
    if network.rule is None:
        return None
    try:
        rule = tuple(float(number) for number in network.rule)
    except (TypeError, ValueError) as error:
        raise ExportError(
            f"{kind}.rule: got {network.rule!r}, expected a number for each stage but the last"
        ) from error
    if len(rule) != network.stages - 1 or any(math.isnan(number) for number in rule):
        raise ExportError(
            f"{kind}.rule: got {len(rule)} thresholds, expected {network.stages - 1}: one number for each stage but "
            "the last"
        )
    return rule


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "nothing" if value is None else type(value).__name__


def _listed(outputs: dict[str, tuple[str, int]]) -> str:
    return ", ".join(f"{name} ({dtype}, {rank} axes)" for name, (dtype, rank) in outputs.items()) or "nothing"


def _first_odd(tensor: Tensor) -> str:
    return str(float(tensor[~torch.isfinite(tensor)].reshape(-1)[0]))
