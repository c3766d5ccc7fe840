"""The record of a kernel: arguments, grid and constants, the one source for launches, compilation and manifest.

Every launcher passes the arguments in the record's order: pointers of the op's inputs, int32 sizes,
pointers of the op's outputs, and nothing else. Importing this file imports no Triton.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adaptrt.plugins_trt.errors import KernelError

VALUES, WEIGHTS = "values", "weights"
"""Stand in a record for the dtype of the op's numbers and for that of its weights."""

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
        dtype: Of the tensor; ``VALUES`` and ``WEIGHTS`` follow the variant. None for a size.
        axes: Names of the tensor's axes, in row-major order without gaps.
        quantised: Only there where weights are int8.
    """

    name: str
    kind: str
    dtype: str | None = None
    axes: tuple[str, ...] = ()
    quantised: bool = False


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
class KernelRecord:
    """The contract of one kernel.

    Attributes:
        op: The op or part of an op that it computes, as the plugin is called.
        version: The op's version.
        entry: Name of the function, and of the symbol in PTX and cubin; its file has the same name.
        arguments: Runtime arguments in the order of the signature.
        grid: Factors of each extent.
        blocks: The compile-time constants that a configuration must give.
        aligned: Sizes that must be multiples of ``ALIGNMENT`` for the aligned variants.
        attributes: Sizes that no tensor's axis gives: attributes of the op.
    """

    op: str
    version: int
    entry: str
    arguments: tuple[Argument, ...]
    grid: Grid
    blocks: tuple[str, ...]
    aligned: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()

    @property
    def has_values(self) -> bool:
        """Whether there are variants for the dtypes of the op's numbers."""
        return any(argument.dtype == VALUES for argument in self.arguments)

    @property
    def has_weights(self) -> bool:
        """Whether the weights may be int8."""
        return any(argument.dtype == WEIGHTS for argument in self.arguments)

    def function(self) -> Any:
        """The kernel, as Triton decorated it: compiled when launched, or interpreted."""
        module = importlib.import_module(f"adaptrt.plugins_trt.kernels.{self.entry}")
        return getattr(module, self.entry)

    def arguments_of(self, quantised: bool) -> tuple[Argument, ...]:
        """The arguments that the kernel really takes with weights of one kind."""
        return tuple(argument for argument in self.arguments if quantised or not argument.quantised)

    def extents(self, sizes: Mapping[str, int], blocks: Mapping[str, int]) -> tuple[int, int, int]:
        """The grid for these sizes; an extent of 0 means that there is nothing to launch."""
        x, y, z = (math.prod(factor.extent(sizes, blocks) for factor in factors) for factors in self.grid)
        return x, y, z

    def check(self, shapes: Mapping[str, tuple[int, ...]], attributes: Mapping[str, int]) -> dict[str, int]:
        """Check shapes of tensors against the record's axes.

        Args:
            shapes: By argument name; tensors that the variant lacks are left out.
            attributes: Values of the record's ``attributes``.

        Returns:
            Every size by name.

        Raises:
            KernelError: A rank differs, or two tensors disagree about the size of an axis.
        """
        sizes = {name: attributes[name] for name in self.attributes}
        known = [argument for argument in self.arguments if argument.name in shapes]
        for argument in known:
            shape = shapes[argument.name]
            if len(shape) != len(argument.axes):
                raise KernelError(
                    f"{self.op}: {argument.name} has shape {list(shape)}, expected [{', '.join(argument.axes)}]"
                )
        found = [
            (argument.name, axis, size)
            for argument in known
            for axis, size in zip(argument.axes, shapes[argument.name], strict=True)
        ]
        # An axis such as "N*h" holds two; both are known from other tensors once these are read.
        for name, axis, size in sorted(found, key=lambda entry: "*" in entry[1]):
            wanted = _product(axis, sizes) if "*" in axis else sizes.setdefault(axis, size)
            if wanted != size:
                raise KernelError(f"{self.op}: axis {axis} of {name} is {size}, expected {wanted} as in other tensors")
        return sizes


def _product(axis: str, sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[name] for name in axis.split("*"))


def _input(name: str, dtype: str, *axes: str, quantised: bool = False) -> Argument:
    return Argument(name, INPUT, dtype, axes, quantised)


def _sizes(*names: str) -> tuple[Argument, ...]:
    return tuple(Argument(name, SIZE) for name in names)


def _output(name: str, dtype: str, *axes: str) -> Argument:
    return Argument(name, OUTPUT, dtype, axes)


CONDITIONAL_MLP_ORDER = KernelRecord(
    op="ConditionalMLPOrder",
    version=1,
    entry="conditional_mlp_order",
    arguments=(
        _input("k", "int32", "T"),
        *_sizes("T", "N"),
        _output("order", "int32", "T"),
        _output("running", "int32", "N"),
    ),
    grid=((GridFactor("N", 1),), (), ()),
    blocks=("BLOCK_T", "BLOCK_N"),
)

CONDITIONAL_MLP_UP = KernelRecord(
    op="ConditionalMLPUp",
    version=1,
    entry="conditional_mlp_up",
    arguments=(
        _input("x", VALUES, "T", "D"),
        _input("order", "int32", "T"),
        _input("running", "int32", "N"),
        _input("w1", WEIGHTS, "N", "D", "h"),
        _input("w1_scale", "float32", "N", "h", quantised=True),
        _input("b1", VALUES, "N", "h"),
        *_sizes("T", "N", "D", "h"),
        _output("hidden", VALUES, "T", "N*h"),
    ),
    grid=((GridFactor("T", "BLOCK_T"), GridFactor("N", 1), GridFactor("h", "BLOCK_H")), (), ()),
    blocks=("BLOCK_T", "BLOCK_H", "BLOCK_D", "GROUP_T"),
    aligned=("D", "h"),
)

CONDITIONAL_MLP_DOWN = KernelRecord(
    op="ConditionalMLPDown",
    version=1,
    entry="conditional_mlp_down",
    arguments=(
        _input("hidden", VALUES, "T", "N*h"),
        _input("order", "int32", "T"),
        _input("running", "int32", "N"),
        _input("w2", WEIGHTS, "N", "h", "E"),
        _input("w2_scale", "float32", "N", "E", quantised=True),
        _input("b2", VALUES, "E"),
        *_sizes("T", "N", "h", "E"),
        _output("y", VALUES, "T", "E"),
    ),
    grid=((GridFactor("T", "BLOCK_T"), GridFactor("E", "BLOCK_E")), (), ()),
    blocks=("BLOCK_T", "BLOCK_E", "BLOCK_H", "GROUP_T"),
    aligned=("h", "E"),
)

SELECT_TOKENS = KernelRecord(
    op="SelectTokens",
    version=1,
    entry="select_tokens",
    arguments=(
        _input("x", VALUES, "B", "T", "D"),
        _input("score", "float32", "B", "T"),
        _input("valid", "bool", "B", "T"),
        _input("forced", "bool", "B", "T"),
        _input("threshold", "float32", "B"),
        _input("keep_min", "int64"),
        _input("keep_max", "int64"),
        *_sizes("B", "T", "D", "limits"),
        _output("y", VALUES, "B", "T", "D"),
        _output("index", "int32", "B", "T"),
        _output("count", "int32", "B"),
    ),
    grid=((GridFactor("B", 1),), (GridFactor("D", "BLOCK_D"),), ()),
    blocks=("BLOCK_T", "BLOCK_D"),
    aligned=("D",),
    attributes=("limits",),
)

KERNEL_RECORDS: dict[str, KernelRecord] = {
    record.op: record for record in (CONDITIONAL_MLP_ORDER, CONDITIONAL_MLP_UP, CONDITIONAL_MLP_DOWN, SELECT_TOKENS)
}
"""Every kernel, by the op it computes."""
