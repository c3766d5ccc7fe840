"""Plays TensorRT's part while it builds an engine with Python plugins.

Two packages are driven through the same steps: a small stand-in for ``tensorrt.plugin``, and NVIDIA's own
Python sources of it where its bindings are installed, over a stand-in for the library that they need.
Expressions of sizes can be evaluated.
"""

from __future__ import annotations

import enum
import importlib.util
import inspect
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

DataType = enum.Enum("DataType", ["FLOAT", "HALF", "BF16", "INT8", "INT32", "INT64", "BOOL"])
_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "SUM": operator.add,
    "SUB": operator.sub,
    "PROD": operator.mul,
    "MAX": max,
    "MIN": min,
    "FLOOR_DIV": operator.floordiv,
    "CEIL_DIV": lambda a, b: -(-a // b),
    "EQUAL": lambda a, b: int(a == b),
    "LESS": lambda a, b: int(a < b),
}
DimensionOperation = enum.Enum("DimensionOperation", list(_OPERATIONS))


class IDimensionExpr:
    """A size: known, or a name whose value ``evaluate`` is given."""

    def __init__(self, evaluate: Callable[[Mapping[str, int]], int], constant: int | None = None) -> None:
        self.evaluate = evaluate
        self._constant = constant

    def is_constant(self) -> bool:
        return self._constant is not None

    def get_constant_value(self) -> int | None:
        return self._constant


class IExprBuilder:
    def constant(self, value: int) -> IDimensionExpr:
        return IDimensionExpr(lambda _: value, value)

    def operation(self, op: Any, first: IDimensionExpr, second: IDimensionExpr) -> IDimensionExpr:
        apply = _OPERATIONS[op.name]
        return IDimensionExpr(lambda values: apply(first.evaluate(values), second.evaluate(values)))


@dataclass(frozen=True)
class Built:
    """What TensorRT got to know of one plugin in one tactic."""

    shapes: list[list[int]]
    dtypes: list[str]
    types: list[list[str]]
    tactics: list[int]
    entry: str
    ptx: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    extras: list[int]


@dataclass(frozen=True)
class Tensor:
    """An input: its type, and for each axis its name and whether its size is known when the engine is built."""

    dtype: str
    axes: tuple[tuple[str, bool], ...]

    def dims(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(sizes[name] if fixed else -1 for name, fixed in self.axes)

    def exprs(self, sizes: Mapping[str, int], builder: IExprBuilder) -> list[IDimensionExpr]:
        return [
            builder.constant(sizes[name]) if fixed else IDimensionExpr(lambda values, name=name: values[name])
            for name, fixed in self.axes
        ]

    def least(self, sizes: Mapping[str, int], smallest: int) -> tuple[int, ...]:
        return tuple(sizes[name] if fixed else smallest for name, fixed in self.axes)


class StandInPackage:
    """A small ``tensorrt.plugin``."""

    def __init__(self) -> None:
        self.core = SimpleNamespace(__version__="10.13.3.9", DataType=DataType)
        self.functions: dict[str, dict[str, Callable[..., Any]]] = {}
        package = self.package = SimpleNamespace(op=SimpleNamespace(adaptrt=SimpleNamespace()))
        builder = IExprBuilder()

        class SymInt32:
            def __init__(self, value: Any) -> None:
                known = isinstance(value, int)
                self.expr = builder.constant(value) if known else getattr(value, "expr", value)
                assert isinstance(self.expr, IDimensionExpr)

            def __mul__(self, other: Any) -> Any:  # only from the left, as NVIDIA's
                return type(self)(builder.operation(DimensionOperation.PROD, self.expr, SymInt32(other).expr))

        class ShapeExpr(SymInt32):
            pass

        class TensorDesc:
            def __init__(self, shape_expr: Any, dtype: Any) -> None:
                self.shape_expr, self.dtype = shape_expr, dtype

        class KernelLaunchParams:
            def __init__(self) -> None:
                for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z"):
                    setattr(self, name, 1)
                self.shared_mem = 0

            def __setattr__(self, name: str, value: Any) -> None:
                assert name in {*(f"{kind}_{axis}" for kind in ("grid", "block") for axis in "xyz"), "shared_mem"}
                self.__dict__[name] = SymInt32(value)

        class SymIntExprs(list):  # type: ignore[type-arg]
            def __init__(self, length: int) -> None:
                super().__init__([None] * length)

        class AutoTuneCombination:
            def __init__(self, io_types: str, layouts: str, tactics: Sequence[int]) -> None:
                self.io_types, self.layouts, self.tactics = io_types, layouts, tactics

        def cdiv(first: Any, second: int) -> Any:
            assert not isinstance(first, int) or not isinstance(second, int), "Both arguments cannot be ints"
            return ShapeExpr(builder.operation(DimensionOperation.CEIL_DIV, first.expr, SymInt32(second).expr))

        def from_shape_expr(shape: tuple[Any, ...], dtype: Any) -> Any:
            return TensorDesc([ShapeExpr(size) for size in shape], dtype)

        def decorator(kind: str, last: tuple[str, ...]) -> Callable[[str], Callable[[Any], Any]]:
            def for_id(plugin_id: str) -> Callable[[Any], Any]:
                namespace, name = plugin_id.split("::")
                assert namespace == "adaptrt"

                def decorate(function: Any) -> Any:
                    names = tuple(inspect.signature(function).parameters)
                    assert names[len(names) - len(last) :] == last
                    self.functions.setdefault(name, {})[kind] = function
                    setattr(package.op.adaptrt, name, function)
                    return function

                return decorate

            return for_id

        package.register = decorator("register", ())
        package.autotune = decorator("autotune", ("outputs",))
        package.aot_impl = decorator("aot_impl", ("outputs", "tactic"))
        for made in (SymInt32, ShapeExpr, TensorDesc, KernelLaunchParams, SymIntExprs, AutoTuneCombination):
            setattr(package, made.__name__, made)
        package.cdiv, package.from_shape_expr = cdiv, from_shape_expr

    def build(
        self,
        op: str,
        attributes: Mapping[str, Any],
        inputs: Sequence[Tensor],
        sizes: Mapping[str, int],
        tactic: int = 1,
        smallest: int = 1,
    ) -> Built:
        """One plugin through TensorRT's steps; ``sizes`` are those met when the engine runs."""
        descs = []
        for tensor in inputs:
            expressions = [self.package.ShapeExpr(expr) for expr in tensor.exprs(sizes, IExprBuilder())]
            desc = self.package.TensorDesc(expressions, DataType[tensor.dtype])
            desc.shape = _Shape(tensor.dims(sizes), tensor.least(sizes, smallest))
            descs.append(desc)
        functions = self.functions[op]
        outputs = functions["register"](*descs, **attributes)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        values = tuple(attributes.values())
        (tuned,) = functions["autotune"](*descs, *values, outputs)
        entry, ptx, params, extras = functions["aot_impl"](*descs, *values, outputs, tactic)
        assert isinstance(params, self.package.KernelLaunchParams)
        assert isinstance(extras, self.package.SymIntExprs)
        names = {"FP32": "FLOAT", "FP16": "HALF"}

        def value(of: Any) -> int:
            return int(of.expr.evaluate(sizes))

        return Built(
            [[value(size) for size in output.shape_expr] for output in outputs],
            [output.dtype.name for output in outputs],
            [[names.get(name.strip(), name.strip()) for name in tuned.io_types.split(",")]],
            list(tuned.tactics),
            entry,
            ptx,
            (value(params.grid_x), value(params.grid_y), value(params.grid_z)),
            (value(params.block_x), value(params.block_y), value(params.block_z)),
            value(params.shared_mem),
            [value(extra) for extra in extras],
        )


class _Shape(tuple):  # type: ignore[type-arg]
    """Sizes, -1 where they vary, and their smallest values."""

    def __new__(cls, dims: tuple[int, ...], least: tuple[int, ...]) -> _Shape:
        made = super().__new__(cls, dims)
        made._least = least  # type: ignore[attr-defined]
        return made

    @property
    def is_dynamic(self) -> bool:
        return -1 in self

    @property
    def min(self) -> tuple[int, ...]:
        if not self.is_dynamic:
            raise ValueError("min property is only accessible if is_dynamic is true")
        return self._least  # type: ignore[attr-defined,no-any-return]


class NvidiaPackage:
    """NVIDIA's ``tensorrt.plugin``, imported from its bindings over a stand-in for the module ``tensorrt``."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("tensorrt_bindings")
        if spec is None or not spec.submodule_search_locations:
            raise ImportError("tensorrt_bindings is not installed")
        folder = Path(next(iter(spec.submodule_search_locations))) / "plugin"
        self.creators: dict[str, Any] = {}
        self.core = self._core()
        sys.modules["tensorrt"] = self.core
        found = importlib.util.spec_from_file_location(
            "tensorrt.plugin", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert found is not None and found.loader is not None
        self.package = importlib.util.module_from_spec(found)
        sys.modules["tensorrt.plugin"] = self.package
        self.core.plugin = self.package
        found.loader.exec_module(self.package)

    def build(
        self,
        op: str,
        attributes: Mapping[str, Any],
        inputs: Sequence[Tensor],
        sizes: Mapping[str, int],
        tactic: int = 1,
        smallest: int = 1,
    ) -> Built:
        """One plugin through TensorRT's steps, as the library calls them."""
        core = self.core
        fields = [SimpleNamespace(name=n, data=_field(v)) for n, v in attributes.items()]
        request = core.QuickPluginCreationRequest.STRICT_AOT
        plugin = self.creators[op].create_plugin(op, "adaptrt", fields, None, request)
        types = [DataType[tensor.dtype] for tensor in inputs]
        output_types = plugin.get_output_data_types(types, [len(tensor.axes) for tensor in inputs])
        builder = IExprBuilder()
        shapes = plugin.get_output_shapes([tensor.exprs(sizes, builder) for tensor in inputs], [], builder)
        descs = [
            core.DynamicPluginTensorDesc(t.dims(sizes), DataType[t.dtype], t.least(sizes, smallest)) for t in inputs
        ]
        descs += [
            core.DynamicPluginTensorDesc(tuple(e.evaluate(sizes) for e in shape), dtype, ())
            for shape, dtype in zip(shapes, output_types, strict=True)
        ]
        supported = [desc.type for desc in plugin.get_supported_format_combinations(descs, len(inputs))]
        plugin.configure_plugin(descs[: len(inputs)], descs[len(inputs) :])
        tactics = sorted(plugin.get_valid_tactics())
        plugin.set_tactic(tactic)
        launch = SimpleNamespace()
        extras = _SymExprs()
        plugin.get_launch_params(None, descs, len(inputs), launch, extras, builder)
        plain = [desc.desc for desc in descs]
        entry, ptx = plugin.get_kernel(plain[: len(inputs)], plain[len(inputs) :])

        def value(of: Any) -> int:
            return int(of.expr.evaluate(sizes))

        return Built(
            [[expr.evaluate(sizes) for expr in shape] for shape in shapes],
            [dtype.name for dtype in output_types],
            [[dtype.name for dtype in supported[at : at + len(descs)]] for at in range(0, len(supported), len(descs))],
            tactics,
            entry,
            ptx.decode(),
            (value(launch.grid_x), value(launch.grid_y), value(launch.grid_z)),
            (value(launch.block_x), value(launch.block_y), value(launch.block_z)),
            value(launch.shared_mem),
            [value(extra) for extra in extras],
        )

    def _core(self) -> ModuleType:
        core = ModuleType("tensorrt")
        core.__path__ = []  # a package, for its submodule's sake
        core.__version__ = "11.4.0.106"

        class Blank:
            def __init__(self, *_: Any, **__: Any) -> None:
                pass

        class Logger(Blank):
            WARNING = 2

            def log(self, *_: Any) -> None:
                pass

        class PluginTensorDesc:
            type: Any = None
            format: Any = None
            dims: Any = ()
            scale: float = 1.0

        class DynamicPluginTensorDesc:
            def __init__(self, dims: tuple[int, ...], dtype: Any, least: tuple[int, ...]) -> None:
                self.desc = PluginTensorDesc()
                self.desc.dims, self.desc.type, self.desc.format = dims, dtype, core.TensorFormat.LINEAR
                self.min, self.opt, self.max = least, dims, dims

        class DimsExprs(list):  # type: ignore[type-arg]
            def __init__(self, length: int) -> None:
                super().__init__([None] * length)

        class Dims(tuple):  # type: ignore[type-arg]
            MAX_DIMS = 8

        class Registry:
            def register_creator(registry, creator: Any, namespace: str = "") -> bool:  # noqa: ARG002, N805
                assert creator.plugin_namespace == "adaptrt"
                assert creator.plugin_version == "1"
                self.creators[creator.name] = creator
                return True

            def get_creator(registry, name: str, version: str, namespace: str) -> Any:  # noqa: N805
                assert (version, namespace) == ("1", "adaptrt")
                return self.creators[name]

        class ISymExpr:
            pass

        for name in (
            "IPluginV3", "IPluginV3QuickCore", "IPluginV3QuickBuild", "IPluginV3QuickRuntime", "IPluginV3QuickAOTBuild",
            "IPluginCreatorV3Quick", "PluginField", "PluginFieldCollection", "ITensor",
        ):  # fmt: skip
            setattr(core, name, type(name, (Blank,), {}))
        core.DataType, core.DimensionOperation, core.IDimensionExpr = DataType, DimensionOperation, IDimensionExpr
        core.float32, core.float16, core.int32 = DataType.FLOAT, DataType.HALF, DataType.INT32
        core.Logger, core.ISymExpr, core.IExprBuilder = Logger, ISymExpr, IExprBuilder
        core.PluginTensorDesc, core.DynamicPluginTensorDesc = PluginTensorDesc, DynamicPluginTensorDesc
        core.DimsExprs, core.Dims = DimsExprs, Dims
        core.TensorFormat = enum.Enum("TensorFormat", ["LINEAR", "CHW2", "HWC8"])
        core.TensorRTPhase = enum.Enum("TensorRTPhase", ["BUILD", "RUNTIME"])
        core.PluginArgType = enum.Enum("PluginArgType", ["INT"])
        core.PluginArgDataType = enum.Enum("PluginArgDataType", ["INT8", "INT16", "INT32"])
        core.QuickPluginCreationRequest = enum.Enum(
            "QuickPluginCreationRequest", ["UNKNOWN", "PREFER_JIT", "PREFER_AOT", "STRICT_JIT", "STRICT_AOT"]
        )
        core.PluginFieldType = enum.Enum(
            "PluginFieldType", ["FLOAT16", "FLOAT32", "FLOAT64", "INT8", "INT16", "INT32", "INT64", "CHAR", "UNKNOWN"]
        )
        core.get_plugin_registry = Registry
        return core


class _SymExprs(dict):  # type: ignore[type-arg]
    nbSymExprs = 0  # noqa: N815 - TensorRT's name

    def __iter__(self) -> Any:
        return iter([self[number] for number in range(self.nbSymExprs)])


def _field(value: Any) -> Any:
    import numpy as np

    return np.frombuffer(value.encode(), np.int8) if isinstance(value, str) else np.array([value])
