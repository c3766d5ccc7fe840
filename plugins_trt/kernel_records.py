"""The record of a kernel: arguments, grid and constants, the one source for launches, compilation and manifest.

What a kernel reads and writes stands in the ops' records (``ops/``, their parts); how it is laid out, in
``LAYOUTS``, one row per kernel file. Every launcher passes the arguments in the record's order: pointers of the
op's inputs, int32 sizes, pointers of the op's outputs, and nothing else. Importing this file imports neither
Triton nor onnx.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from adaptrt.ops import RECORDS, Field, OpRecord, Part, PartAttribute
from adaptrt.ops.int8_forms import scale_field
from adaptrt.plugins_trt.errors import KernelError
from adaptrt.plugins_trt.kernels import configurations
from adaptrt.plugins_trt.kernels.configurations import Configuration, Configurations

VALUES, WEIGHTS, ACTIVATIONS = "values", "weights", "activations"
"""Stand in a record for the dtype of the op's numbers, of its weights, and of what lies between its kernels."""

DTYPES = ("float16", "bfloat16", "float32")
QUANTISED = "int8"
ALIGNMENT = 16
"""What the aligned variants ask of sizes: their rows then begin at multiples of 16 bytes in every dtype."""

INPUT, SIZE, OUTPUT = "input", "size", "output"


@dataclass(frozen=True)
class Argument:
    """One runtime argument of a kernel.

    Attributes:
        name: As in the kernel's signature and the op's record.
        kind: "input", "size" (int32) or "output".
        dtype: Of the tensor; ``VALUES``, ``WEIGHTS`` and ``ACTIVATIONS`` follow the variant. None for a size.
        axes: Names of the tensor's axes, in row-major order without gaps.
        scales: ``WEIGHTS`` or ``ACTIVATIONS``: only there where these are int8. None: always.
    """

    name: str
    kind: str
    dtype: str | None = None
    axes: tuple[str, ...] = ()
    scales: str | None = None


@dataclass(frozen=True)
class GridFactor:
    """One factor of a grid's extent: ``ceil(size / per)``, ``per`` being a number or one of the kernel's blocks."""

    size: str
    per: int | str

    def extent(self, sizes: Mapping[str, int], blocks: Mapping[str, int]) -> int:
        """The factor's value for these sizes."""
        return -(-sizes[self.size] // self.blocked(blocks))

    def blocked(self, blocks: Mapping[str, int]) -> int:
        """``per`` as a number."""
        return self.per if isinstance(self.per, int) else blocks[self.per]


Grid = tuple[tuple[GridFactor, ...], tuple[GridFactor, ...], tuple[GridFactor, ...]]


@dataclass(frozen=True)
class KernelLayout:
    """How one kernel file is launched, whatever part of whatever op it computes.

    Attributes:
        grid: Factors of each extent.
        blocks: The compile-time constants that a configuration must give.
        configurations: All of them.
        aligned: Sizes that must be multiples of ``ALIGNMENT`` for the aligned variants.
    """

    grid: Grid
    blocks: tuple[str, ...]
    configurations: Configurations
    aligned: tuple[str, ...] = ()


@dataclass(frozen=True)
class KernelRecord:
    """The contract of one kernel.

    Attributes:
        part: What it computes, of one op or several.
        layout: How it is launched.
    """

    part: Part
    layout: KernelLayout

    @property
    def op(self) -> str:
        """The op or part of an op that it computes, as the plugin is called."""
        return self.part.name

    @property
    def version(self) -> int:
        """The part's version."""
        return self.part.version

    @property
    def entry(self) -> str:
        """Name of the function, and of the symbol in PTX and cubin; its file has the same name."""
        return self.part.kernel

    @cached_property
    def arguments(self) -> tuple[Argument, ...]:
        """Runtime arguments in the order of the signature.

        int8 weights are followed by their scales; those of int8 activations come after all other inputs.
        """
        inputs = [argument for field in self.part.inputs for argument in self._read(field)]
        fixed = [Argument(field.name, INPUT, _dtype(field), field.axes, ACTIVATIONS) for field in self.part.scales]
        sizes = [Argument(name, SIZE) for name in self.part.sizes]
        outputs = [Argument(field.name, OUTPUT, self._kind(field), field.axes) for field in self.part.outputs]
        return (*inputs, *fixed, *sizes, *outputs)

    def _kind(self, field: Field) -> str:
        return ACTIVATIONS if field.name in self.part.activations else _dtype(field)

    def _read(self, field: Field) -> list[Argument]:
        if field.name not in self.part.weights:
            return [Argument(field.name, INPUT, self._kind(field), field.axes)]
        scale = scale_field(field)
        return [
            Argument(field.name, INPUT, WEIGHTS, field.axes),
            Argument(scale.name, INPUT, _dtype(scale), scale.axes, WEIGHTS),
        ]

    @property
    def grid(self) -> Grid:
        """Factors of each extent."""
        return self.layout.grid

    @property
    def blocks(self) -> tuple[str, ...]:
        """The compile-time constants that a configuration must give."""
        return self.layout.blocks

    @property
    def constants(self) -> Mapping[str, str]:
        """The other compile-time constants."""
        return self.part.constants

    @property
    def aligned(self) -> tuple[str, ...]:
        """Sizes that must be multiples of ``ALIGNMENT`` for the aligned variants."""
        return self.layout.aligned

    @property
    def attributes(self) -> tuple[PartAttribute, ...]:
        """Attributes of the op that give sizes which no tensor's axis gives."""
        axes = {axis for argument in self.arguments for axis in argument.axes}
        return tuple(attribute for attribute in self.part.attributes if attribute.size not in axes)

    def configurations(
        self, arch: int, dtype: str, weights: str, activations: str | None = None, *, aligned: bool
    ) -> tuple[Configuration, ...]:
        """See ``Configurations.of``; activations are of ``dtype`` unless given."""
        return self.layout.configurations.of(arch, dtype, weights, activations or dtype, aligned=aligned)

    @property
    def has_values(self) -> bool:
        """Whether there are variants for the dtypes of the op's numbers."""
        return any(argument.dtype == VALUES for argument in self.arguments)

    @property
    def has_weights(self) -> bool:
        """Whether the weights may be int8."""
        return any(argument.dtype == WEIGHTS for argument in self.arguments)

    @property
    def has_activations(self) -> bool:
        """Whether activations may be int8 beside the weights."""
        return bool(self.part.scales)

    def function(self) -> Any:
        """The kernel, as Triton decorated it: compiled when launched, or interpreted."""
        module = importlib.import_module(f"adaptrt.plugins_trt.kernels.{self.entry}")
        return getattr(module, self.entry)

    def arguments_of(self, weights: str = "", activations: str = "") -> tuple[Argument, ...]:
        """The arguments that the kernel really takes with weights and activations of these dtypes, "" for any real."""
        kinds = ((None, QUANTISED), (WEIGHTS, weights), (ACTIVATIONS, activations))
        there = {kind for kind, dtype in kinds if dtype == QUANTISED}
        return tuple(argument for argument in self.arguments if argument.scales in there)

    def extents(self, sizes: Mapping[str, int], blocks: Mapping[str, int]) -> tuple[int, int, int]:
        """The grid for these sizes; an extent of 0 means that there is nothing to launch."""
        x, y, z = (math.prod(factor.extent(sizes, blocks) for factor in factors) for factors in self.grid)
        return x, y, z

    def check(self, shapes: Mapping[str, tuple[int, ...]], attributes: Mapping[str, int]) -> dict[str, int]:
        """Check shapes of tensors against the record's axes.

        Args:
            shapes: By argument name; tensors that the variant lacks are left out.
            attributes: Values of the record's ``attributes``, by the sizes that they give.

        Returns:
            Every size by name.

        Raises:
            KernelError: A rank differs, or two tensors disagree about the size of an axis.
        """
        given = {attribute.size: attributes[attribute.size] for attribute in self.attributes}
        named = [
            (argument.name, argument.axes, shapes[argument.name])
            for argument in self.arguments
            if argument.name in shapes
        ]
        return sizes_of(self.op, named, given)


def sizes_of(
    op: str, tensors: Sequence[tuple[str, tuple[str, ...], tuple[int, ...]]], given: Mapping[str, int]
) -> dict[str, int]:
    """Bind named sizes to shapes.

    Args:
        op: For messages.
        tensors: Name, axes and shape of each.
        given: Sizes known without them.

    Raises:
        KernelError: A rank differs, or two tensors disagree about the size of an axis.
    """
    sizes = dict(given)
    for name, axes, shape in tensors:
        if len(shape) != len(axes):
            raise KernelError(f"{op}: {name} has shape {list(shape)}, expected [{', '.join(axes)}]")
    sized_axes = [(name, axis, size) for name, axes, shape in tensors for axis, size in zip(axes, shape, strict=True)]
    # An axis such as "N*h" holds two; both are known from other tensors once these are read.
    for name, axis, size in sorted(sized_axes, key=lambda entry: "*" in entry[1]):
        wanted = axes_sizes((axis,), sizes)[0] if "*" in axis else sizes.setdefault(axis, size)
        if wanted != size:
            raise KernelError(f"{op}: axis {axis} of {name} is {size}, expected {wanted} as in other tensors")
    return sizes


def axes_sizes(axes: Sequence[str], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape that axes have for these sizes; an axis such as "N*h" is a product."""
    return tuple(math.prod(sizes[name] for name in axis.split("*")) for axis in axes)


def _dtype(field: Field) -> str:
    return VALUES if len(field.dtypes) > 1 else field.dtypes[0]


_UP_LAYOUT = KernelLayout(
    grid=((GridFactor("T", "BLOCK_T"), GridFactor("N", 1), GridFactor("h", "BLOCK_H")), (), ()),
    blocks=("BLOCK_T", "BLOCK_H", "BLOCK_D", "GROUP_T"),
    configurations=configurations.UP,
    aligned=("D", "h"),
)

LAYOUTS: dict[str, KernelLayout] = {
    "conditional_mlp_order": KernelLayout(
        grid=((GridFactor("N", 1),), (), ()),
        blocks=("BLOCK_T", "BLOCK_N"),
        configurations=configurations.ORDER,
    ),
    "conditional_mlp_up": _UP_LAYOUT,
    "conditional_glu_up": replace(_UP_LAYOUT, configurations=configurations.GATED_UP),
    "conditional_mlp_down": KernelLayout(
        grid=((GridFactor("T", "BLOCK_T"), GridFactor("E", "BLOCK_E")), (), ()),
        blocks=("BLOCK_T", "BLOCK_E", "BLOCK_H", "GROUP_T"),
        configurations=configurations.DOWN,
        aligned=("h", "E"),
    ),
    "select_tokens": KernelLayout(
        grid=((GridFactor("B", 1),), (GridFactor("D", "BLOCK_D"),), ()),
        blocks=("BLOCK_T", "BLOCK_D"),
        configurations=configurations.SELECT,
        aligned=("D",),
    ),
}
"""How every kernel file is launched, by its name."""


def kernel_records(records: Mapping[str, OpRecord]) -> dict[str, KernelRecord]:
    """Give the kernels that ops are computed by, each once, by the name of the op or part.

    Args:
        records: Ops by name; those without parts have no kernels.

    Raises:
        KernelError: Two ops have different parts of one name, or a part's kernel has no layout.
    """
    kernels: dict[str, KernelRecord] = {}
    for part in (part for record in records.values() for part in record.parts):
        if part.kernel not in LAYOUTS:
            raise KernelError(f"got kernel {part.kernel} of {part.name}, expected one of {', '.join(LAYOUTS)}; add it")
        kernel = KernelRecord(part, LAYOUTS[part.kernel])
        if kernels.setdefault(part.name, kernel) != kernel:
            raise KernelError(f"got two different parts {part.name}, expected equal ones; give one another name")
    return kernels


KERNEL_RECORDS: dict[str, KernelRecord] = kernel_records(RECORDS)
"""Every kernel, by the op or part that it computes."""

CONDITIONAL_MLP_ORDER = KERNEL_RECORDS["ConditionalMLPOrder"]
CONDITIONAL_MLP_UP = KERNEL_RECORDS["ConditionalMLPUp"]
CONDITIONAL_MLP_DOWN = KERNEL_RECORDS["ConditionalMLPDown"]
SELECT_TOKENS = KERNEL_RECORDS["SelectTokens"]
