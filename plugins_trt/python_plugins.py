"""TensorRT's "quickly deployable" plugins, ahead of time: the engine carries the kernels and no library ships.

TensorRT 10.9 and later take a plugin as Python functions (``tensorrt.plugin``): what comes out of it, which
types it takes, and for the engine to be built one kernel's name, its PTX, its grid as expressions of the
inputs' sizes, and extra int32 arguments, likewise. They are called while the engine is built; running it
needs neither them nor Python. There is one kernel to a plugin and no workspace, hence an op of learners, such
as ConditionalMLP, comes as its three parts, which the preparation of the graph puts in its place. An int8 form of
a part is a plugin of its own.

The arguments that TensorRT passes are those of the kernels: inputs, sizes, outputs. Everything else comes
from the kernels' records and the manifest; every kernel that suits the sizes is a tactic, and TensorRT times
them. An engine built of this has not run on a GPU yet; see docs/engines.md for what was proved.

TensorRT cannot leave out a launch, so inputs without tokens are refused when the engine is built.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import operator
import typing
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptrt.ops import PartAttribute
from adaptrt.plugins_trt.errors import KernelError
from adaptrt.plugins_trt.kernel_records import ACTIVATIONS, INPUT, OUTPUT, SIZE, VALUES, WEIGHTS, Argument
from adaptrt.plugins_trt.manifest import Kernel, Manifest
from adaptrt.plugins_trt.part_plugins import PART_PLUGINS, PartPlugin

NAMESPACE = "adaptrt"
OPS = tuple(PART_PLUGINS)
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_TUNED = {"FLOAT": "FP32", "HALF": "FP16"}
"""How ``AutoTuneCombination`` spells them; the others go by their names."""


_REGISTERED: dict[str, tuple[str, int]] = {}


def register_plugins(manifest: Manifest, arch: int, ops: Sequence[str] = OPS) -> None:
    """Register plugins with TensorRT, for the engines that this process builds from now on.

    Registering the same ones again does nothing: TensorRT keeps them as long as the process lives.

    Args:
        manifest: the compiled kernels.
        arch: compute capability of the GPU that engines will be built for, 87 for 8.7.
        ops: which; some of ``OPS``.

    Raises:
        KernelError: an op is unknown or newer than this file, there are no kernels of one for ``arch`` and its form,
            TensorRT is missing or older than 10.9, or plugins of other kernels were registered in this process before.
    """
    for op in ops:
        if op not in OPS:
            raise KernelError(f"got op {op!r}, expected some of {', '.join(OPS)}; name these")
        kernels = _kernels(PART_PLUGINS[op], manifest, arch)
        if not kernels:
            raise KernelError(f'got no kernel of {op} for {arch} in {manifest.folder}; make kernels ARCH="{arch}"')
        known = PART_PLUGINS[op].part.version
        newer = next((kernel for kernel in kernels if kernel.version > known), None)
        if newer is not None:
            raise KernelError(f"got version {newer.version} of {op}, expected {known}; update adaptrt")
    trt, plugin = _import()
    for op in ops:
        mark = manifest.source_sha256, arch
        if _REGISTERED.setdefault(op, mark) != mark:
            raise KernelError(
                f"got kernels of {op} for {arch}, expected those for {_REGISTERED[op][1]} that this process has "
                "registered; build in another process"
            )
    for op in ops:
        if not hasattr(getattr(plugin.op, NAMESPACE, None), op):
            _Plugin(op, manifest, arch, trt, plugin).register()


def _kernels(plugin: PartPlugin, manifest: Manifest, arch: int) -> list[Kernel]:
    """The kernels that compute a plugin, in all dtypes of its numbers."""
    return [
        kernel
        for kernel in manifest.kernels
        if (kernel.op, kernel.arch) == (plugin.kernel.op, arch)
        and (kernel.dtype, kernel.weights, kernel.activations) == plugin.dtypes(kernel.dtype)
    ]


class _Plugin:
    """The functions that ``tensorrt.plugin`` wants of one op."""

    def __init__(self, op: str, manifest: Manifest, arch: int, trt: ModuleType, plugin: ModuleType) -> None:
        self._op, self._manifest, self._arch = op, manifest, arch
        self._trt, self._plugin = trt, plugin
        self._part = PART_PLUGINS[op]
        self._inputs = [argument for argument in self._part.arguments if argument.kind == INPUT]
        self._outputs = [argument for argument in self._part.arguments if argument.kind == OUTPUT]
        self._attributes = self._part.part.attributes

    def register(self) -> None:
        name, desc = f"{NAMESPACE}::{self._op}", self._plugin.TensorDesc
        inputs = [(argument.name, desc) for argument in self._inputs]
        attributes = [(attribute.name, _kind(attribute)) for attribute in self._attributes]
        outputs = ("outputs", tuple[(desc,) * len(self._outputs)])  # type: ignore[misc]
        combinations = typing.List[self._plugin.AutoTuneCombination]  # type: ignore[name-defined] # noqa: UP006
        text = typing.Union[str, bytes]  # noqa: UP007 - TensorRT looks at what the annotation is made of
        kernel = tuple[text, text, self._plugin.KernelLaunchParams, self._plugin.SymIntExprs]  # type: ignore[name-defined]
        described = desc if len(self._outputs) == 1 else outputs[1]
        self._plugin.register(name)(_signed(self.describe, [*inputs, *attributes], described))
        self._plugin.autotune(name)(_signed(self.tune, [*inputs, *attributes, outputs], combinations))
        self._plugin.aot_impl(name)(_signed(self.kernel, [*inputs, *attributes, outputs, ("tactic", int)], kernel))

    def describe(self, *inputs: Any, **attributes: Any) -> Any:
        """Dtypes and shapes of the outputs; TensorRT gives attributes by name here, and by place elsewhere."""
        sizes = self._sizes(inputs, [attributes[attribute.name] for attribute in self._attributes])
        values = self._values(inputs)
        outputs = []
        for output in self._outputs:
            shape = tuple(_product([sizes[name] for name in axis.split("*")]) for axis in output.axes)
            outputs.append(self._plugin.from_shape_expr(shape, self._type(output, values)))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def tune(self, *given: Any) -> list[Any]:
        """The one combination of types that the network's own types allow, and a tactic for each kernel."""
        inputs = given[: len(self._inputs)]
        values = self._values(inputs)
        names = [self._type(argument, values).name for argument in (*self._inputs, *self._outputs)]
        types = [_TUNED.get(name, name) for name in names]
        tactics = [number + 1 for number in range(len(self._suitable(inputs)))]  # 0 stands for none
        return [self._plugin.AutoTuneCombination(", ".join(types), "LINEAR", tactics)]

    def kernel(self, *given: Any) -> tuple[str, str, Any, Any]:
        """One tactic: the kernel's name and PTX, its launch, and the sizes it takes."""
        *given_first, _, tactic = given
        inputs, attributes = given_first[: len(self._inputs)], given_first[len(self._inputs) :]
        for argument, desc in zip(self._inputs, inputs, strict=True):
            least = tuple(desc.shape.min if desc.shape.is_dynamic else desc.shape)
            if 0 in least:
                raise KernelError(
                    f"{self._op}: {argument.name} may be of shape {list(least)}, expected at least one of everything, "
                    "as TensorRT cannot leave out a launch; raise the minimum of the optimisation profile"
                )
        kernel = self._suitable(inputs)[max(tactic, 1) - 1]
        sizes = self._sizes(inputs, attributes)
        params = self._plugin.KernelLaunchParams()
        params.grid_x, params.grid_y, params.grid_z = (
            _product([self._cdiv(sizes[factor.size], factor.per) for factor in factors]) for factors in kernel.grid
        )
        params.block_x = kernel.threads
        params.shared_mem = kernel.shared_bytes
        names = [argument.name for argument in self._part.arguments if argument.kind == SIZE]
        extras = self._plugin.SymIntExprs(len(names))
        for number, name in enumerate(names):
            extras[number] = self._plugin.SymInt32(sizes[name])
        return kernel.entry, self._manifest.read(kernel.ptx).decode(), params, extras

    def _values(self, inputs: Sequence[Any]) -> Any:
        """The data type of the op's numbers; int32 where it has none."""
        for argument, desc in zip(self._inputs, inputs, strict=True):
            if argument.dtype == VALUES:
                return desc.dtype
        return self._trt.DataType.INT32

    def _type(self, argument: Argument, values: Any) -> Any:
        """TensorRT's data type of a tensor where the op's numbers are of ``values``."""
        kinds = dict(zip((VALUES, WEIGHTS, ACTIVATIONS), self._part.dtypes(_DTYPES.get(values.name, "")), strict=True))
        dtype = kinds.get(str(argument.dtype), argument.dtype)
        return next((self._trt.DataType[name] for name, known in _DTYPES.items() if known == dtype), values)

    def _suitable(self, inputs: Sequence[Any]) -> list[Kernel]:
        """The kernels that are right for these inputs; of a size that varies nobody knows what it is a multiple of.

        Raises:
            KernelError: there is none.
        """
        dtype = _DTYPES.get(self._values(inputs).name, "")
        fixed: dict[str, int] = {}
        for argument, desc in zip(self._inputs, inputs, strict=True):
            fixed |= {axis: size for axis, size in zip(argument.axes, desc.shape, strict=True) if size >= 0}
        suitable = [
            kernel
            for kernel in _kernels(self._part, self._manifest, self._arch)
            if kernel.dtype in {dtype, "int32"}
            and all(name in fixed and fixed[name] % of == 0 for name, of in kernel.requires.items())
        ]
        if not suitable:
            raise KernelError(
                f"got no kernel of {self._op} for {self._arch} in {dtype} at sizes {fixed}, expected one in "
                f'{self._manifest.folder}; make kernels ARCH="{self._arch}"'
            )
        return suitable

    def _sizes(self, inputs: Sequence[Any], attributes: Sequence[Any]) -> dict[str, Any]:
        """Every size by name: numbers from attributes, expressions from the inputs' shapes."""
        sizes: dict[str, Any] = {}
        for argument, desc in zip(self._inputs, inputs, strict=True):
            for place, axis in enumerate(argument.axes):
                sizes.setdefault(axis, desc.shape_expr[place])
        sizes |= {a.size: _number(a, value) for a, value in zip(self._attributes, attributes, strict=True)}
        return sizes

    def _cdiv(self, size: Any, per: int) -> Any:
        if isinstance(size, int):
            return -(-size // per)
        return size if per == 1 else self._plugin.cdiv(size, per)


def _product(factors: Sequence[Any]) -> Any:
    """Of numbers and expressions, which know multiplication from their own side only; 1 of none."""
    number = math.prod(factor for factor in factors if isinstance(factor, int))
    expressions = [factor for factor in factors if not isinstance(factor, int)]
    if not expressions:
        return number
    product = functools.reduce(operator.mul, expressions)
    return product if number == 1 else product * number


def _kind(attribute: PartAttribute) -> Any:
    """How TensorRT is told of an attribute.

    Whole numbers are annotated as arrays: of a field of one number TensorRT before 11.4 makes ``int(array)``,
    which NumPy refuses since 2.4. For the parser both are a field of int64.
    """
    return str if attribute.words else NDArray[np.int64]


def _number(attribute: PartAttribute, value: Any) -> int:
    """The size that an attribute gives."""
    if not attribute.words:
        return int(np.ravel(value)[0])
    if value not in attribute.words:
        raise KernelError(f"got {attribute.name} {value!r}, expected {' or '.join(attribute.words)}; export again")
    return attribute.words[value]


def _signed(function: Callable[..., Any], parameters: Sequence[tuple[str, Any]], returns: Any) -> Callable[..., Any]:
    """The function with the signature that ``tensorrt.plugin`` reads names and types from."""

    def call(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in parameters],
        return_annotation=returns,
    )
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def _import() -> tuple[ModuleType, ModuleType]:
    try:
        trt = importlib.import_module("tensorrt")
        plugin = importlib.import_module("tensorrt.plugin")
    except Exception as error:  # ImportError, or what a library that does not load raises
        said = " ".join(str(error).split())[:200]
        raise KernelError(
            f"tensorrt.plugin cannot be imported ({said}), expected TensorRT 10.9 or later; install it"
        ) from None
    if not hasattr(plugin, "aot_impl"):
        raise KernelError(
            f"got TensorRT {trt.__version__}, expected 10.9 or later for plugins ahead of time; "
            "build with --plugins library"
        )
    return trt, plugin
