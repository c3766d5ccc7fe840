"""The record of an op: the one description that tests, benchmarks, docs and kernels read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

DOMAIN = "adaptrt"
OPSET_VERSION = 1
ONNX_OPSET = 20  # opset of the standard operators in graphs and bodies
IR_VERSION = 10  # ONNX Runtime 1.23, the last one for JetPack 6's Python 3.10, refuses newer ones

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Field:
    """One input or output: its name, the dtypes it may have, and its axes by name."""

    name: str
    dtypes: tuple[str, ...]
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Tolerance:
    """How far an implementation may be from the reference, per ``numpy.testing.assert_allclose``."""

    rtol: float
    atol: float


@dataclass(frozen=True)
class Case:
    """One set of test inputs: its sizes and how it is drawn.

    Attributes:
        name: What is special about it.
        axes: Sizes of the named axes.
        draw: How the op's ``make_inputs`` draws what decides; the names are the op's own.
        scalars: Values of inputs that have no axes.
        attributes: The node's attributes, where they are not the record's defaults.
    """

    name: str
    axes: Mapping[str, int]
    draw: str = "random"
    scalars: Mapping[str, int] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PartAttribute:
    """An attribute of a part's node and the size that it gives the kernel.

    Attributes:
        name: Of the attribute.
        size: Of the size.
        words: Texts that the attribute may be, each with its number, the default first. None: it is a whole
            number from 1 on, which must be given.
    """

    name: str
    size: str
    words: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What one kernel computes of an op; as a node of its own it is the plugin of that name.

    Attributes:
        name: Op type of the node and the plugin. Several ops may share a part; two parts of one name are equal.
        kernel: Name of the kernel's function and file.
        inputs: What it reads, in order: inputs of the op and outputs of parts before it.
        sizes: Sizes that the kernel takes, in order: named axes, and what attributes give.
        outputs: What it writes, in order. An axis "N*h" is a product. Shapes follow from those of the inputs.
        weights: Those inputs that may be int8 with a scale for each of their last axis.
        activations: Those inputs and outputs between parts that are int8 where activations are: int8 weights, and fixed
            scales of what products read.
        scales: These scales, which the kernel reads in that case only.
        attributes: The node's attributes.
        constants: Compile-time constants of the kernel that make it this part.
        version: Of what it computes.
    """

    name: str
    kernel: str
    inputs: tuple[Field, ...]
    sizes: tuple[str, ...]
    outputs: tuple[Field, ...]
    weights: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    scales: tuple[Field, ...] = ()
    attributes: tuple[PartAttribute, ...] = ()
    constants: Mapping[str, str] = field(default_factory=dict)
    version: int = 1


@dataclass(frozen=True)
class OpRecord:
    """The contract of one op.

    Attributes:
        name: Op type in the domain ``adaptrt``.
        summary: The semantics in one formula.
        axes: What each named axis counts.
        inputs: Inputs in the op's order.
        outputs: Outputs in the op's order.
        reference: The semantics in numpy, computed in float64: takes the inputs and attributes by name,
            gives one array or a tuple of them.
        body: Gives the portable body as a model-local function. Takes, by name, the sizes of the
            ``static_axes`` and all ``attributes``: what a body cannot find out from its inputs.
        make_inputs: ``make_inputs(case, generator, dtype)`` gives the inputs by name.
        cases: Sizes that every implementation must be tested at.
        tolerances: Per dtype name.
        attributes: Attribute names with their defaults.
        static_axes: Axes that the body is unrolled over, each with the keyword by which ``body`` takes
            its size. An input that has the axis must be constant.
        parts: What kernels compute of it, one after the other; the last one gives the op's outputs. None where
            the op has no kernels.
    """

    name: str
    summary: str
    axes: Mapping[str, str]
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    reference: Callable[..., Any]
    body: Callable[..., onnx.FunctionProto]
    make_inputs: Callable[[Case, np.random.Generator, str], dict[str, Array]]
    cases: tuple[Case, ...]
    tolerances: Mapping[str, Tolerance]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    static_axes: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()

    def expected(self, inputs: Mapping[str, Array], attributes: Mapping[str, Any] | None = None) -> tuple[Array, ...]:
        """Outputs of the reference, in the op's order, also where there is only one."""
        outputs = self.reference(**inputs, **{**self.attributes, **(attributes or {})})
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def body_for(self, inputs: Mapping[str, Array], attributes: Mapping[str, Any] | None = None) -> onnx.FunctionProto:
        """The body for a node with these inputs and attributes."""
        sizes = self.check_inputs(**inputs)
        static = {keyword: sizes[axis] for axis, keyword in self.static_axes.items()}
        return self.body(**static, **{**self.attributes, **(attributes or {})})

    def check_inputs(self, **inputs: Array) -> dict[str, int]:
        """Check dtypes and shapes against the record.

        Returns:
            The size of every named axis.

        Raises:
            ValueError: An input is missing, has a dtype or rank the record does not list, or two
                inputs disagree about the size of an axis.
        """
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            if spec.name not in inputs:
                names = ", ".join(field.name for field in self.inputs)
                raise ValueError(f"{self.name}: input {spec.name!r} is missing; give all of {names}")
            array = inputs[spec.name]
            if array.dtype.name not in spec.dtypes:
                raise ValueError(
                    f"{self.name}: {spec.name} has dtype {array.dtype}, expected {' or '.join(spec.dtypes)}"
                )
            if array.ndim != len(spec.axes):
                raise ValueError(f"{self.name}: {spec.name} has shape {array.shape}, expected [{', '.join(spec.axes)}]")
            for axis, size in zip(spec.axes, array.shape, strict=True):
                if sizes.setdefault(axis, size) != size:
                    raise ValueError(
                        f"{self.name}: axis {axis} of {spec.name} is {size}, expected {sizes[axis]} as in "
                        "the inputs before it"
                    )
        return sizes
