"""A module as a ``torch.export`` program with symbolic sizes, which its work and the axes of tensors are read from."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, free_unbacked_symbols
from torch.fx.traceback import preserve_node_meta

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.user_code import PlacesNoted, is_users, place, where, where_raised
from adaptrt.export.graph.work_products import UNSPLIT, is_known, sizes
from adaptrt.models.symbolic.graph_sizes import symbolic_nodes

Axis = int | str

_READ = ("aten::item", "aten::_local_scalar_dense")
_TRIES, _SPREAD = 32, 60
_INSTEAD = "use torch.where, take or an exit"


@dataclass(frozen=True)
class Program:
    """A traced module.

    Attributes:
        graph: Its operators, taken apart where not all of them are known whole.
        inputs: One placeholder for each tensor that it was traced with.
        parameters: Names of parameters and buffers, by placeholder.
        outputs: What it gives.
        names: The axis that each symbol is the size of.
        limits: Smallest and largest size that it was found to take, of axes where there is one.
    """

    graph: fx.Graph
    inputs: list[fx.Node]
    parameters: dict[fx.Node, str]
    outputs: list[fx.Node]
    names: dict[sympy.Symbol, str]
    limits: dict[str, tuple[int, int | None]]

    def shape(self, node: fx.Node) -> list[sympy.Expr]:
        """Sizes of a tensor in symbols named after the axes."""
        renamed = {symbol: sympy.Symbol(name) for symbol, name in self.names.items()}
        return [sympy.sympify(size).xreplace(renamed) for size in sizes(node)]


def trace_program(module: nn.Module, tensors: Sequence[Tensor], shapes: Sequence[Sequence[Axis]], what: str) -> Program:
    """Trace a module that takes tensors and gives a tuple of tensors.

    Args:
        module: In evaluation mode.
        tensors: Examples. Every named axis has a size of its own, at least 2.
        shapes: Of each tensor: a text names an axis of any size, one that stays as it is has its number.
        what: Is traced, for messages.

    Raises:
        ExportError: The module reads numbers out of tensors, a named axis has to have a certain size, or torch
            cannot trace it; says where.
    """
    dynamic = tuple(
        {axis: torch.export.Dim.AUTO for axis, size in enumerate(shape) if isinstance(size, str)} for shape in shapes
    )
    with _quiet(), torch.no_grad(), symbolic_nodes(), preserve_node_meta():
        try:
            exported = torch.export.export(
                _Placed(module).eval(),
                tuple(tensors),
                dynamic_shapes={"tensors": dynamic},
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=False,
            )
        except ExportError:
            raise
        except GuardOnDataDependentSymNode as error:
            raise ExportError(
                f"got {what} with a number read from the data at {where_raised(error)}, expected none: Python decides "
                f"once, while tracing; {_INSTEAD}"
            ) from error
        except Exception as error:  # torch raises what it likes, and the user's code what it likes
            raise ExportError(
                f"cannot trace {what}: {_first_line(error)} at {where_raised(error)}; expected operators of torch with "
                "sizes from x.shape"
            ) from error
        _require_no_data(exported.graph_module.graph, what)
        limits, names = _axes(exported, tensors, shapes, what)
        if not all(map(is_known, exported.graph_module.graph.nodes)):
            table = torch.export.default_decompositions()
            for operator in UNSPLIT:
                table.pop(operator, None)  # type: ignore[no-untyped-call]
            exported = exported.run_decompositions(table)
            names |= _axes(exported, tensors, shapes, what)[1]
    graph = exported.graph_module.graph
    placeholders = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    signature = exported.graph_signature
    weights = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return Program(
        graph,
        _inputs(exported, len(tensors)),
        {placeholders[name]: target.removeprefix("module.") for name, target in weights.items()},
        [node for node in graph.output_node().args[0] if isinstance(node, fx.Node)],
        names,
        limits,
    )


class _Placed(nn.Module):
    """A module whose operators are traced with the user's lines."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: Tensor) -> Any:
        with PlacesNoted():
            return self.module(*tensors)


def _inputs(exported: torch.export.ExportedProgram, count: int) -> list[fx.Node]:
    placeholders = {node.name: node for node in exported.graph_module.graph.nodes if node.op == "placeholder"}
    inputs = [placeholders[str(name)] for name in exported.graph_signature.user_inputs]
    assert len(inputs) == count
    return inputs


def _require_no_data(graph: fx.Graph, what: str) -> None:
    """Refuse numbers that are read from tensors, and sizes that depend on values."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        name = node.target._schema.name if isinstance(node.target, torch._ops.OpOverload) else str(node.target)
        values = node.meta.get("val")
        values = values if isinstance(values, tuple | list) else [values]
        unknown = any(isinstance(value, Tensor) and free_unbacked_symbols(value.shape) for value in values)
        if name in _READ or unknown:
            got = "a number read from the data" if name in _READ else f"a size that depends on the data ({name})"
            raise ExportError(f"got {what} with {got} at {where(node)}, expected none; {_INSTEAD}")


def _axes(
    exported: torch.export.ExportedProgram, tensors: Sequence[Tensor], shapes: Sequence[Sequence[Axis]], what: str
) -> tuple[dict[str, tuple[int, int | None]], dict[sympy.Symbol, str]]:
    """Limits of the axes, and the symbols that stand for them.

    Raises:
        ExportError: A size is fixed, or tied to another.
    """
    names: dict[sympy.Symbol, str] = {}
    environment: Any = None
    for node, tensor, shape in zip(_inputs(exported, len(tensors)), tensors, shapes, strict=True):
        environment = node.meta["val"].fake_mode.shape_env
        for size, axis, real in zip(sizes(node), shape, tensor.shape, strict=True):
            if not isinstance(axis, str):
                continue
            if not isinstance(size, sympy.Symbol):
                raise ExportError(
                    f"got {what} with the axis {axis!r} frozen to the example's {real}{_frozen_at(environment, real)}, "
                    "expected it to stay open; use x.shape[0], not len(x) or int(x.shape[0])"
                )
            if names.setdefault(size, axis) != axis:
                raise ExportError(
                    f"got {what}, for which the axes {names[size]!r} and {axis!r} must be of one size"
                    f"{_tied_at(environment)}, expected any sizes; give them one name if they always are"
                )
    limits: dict[str, tuple[int, int | None]] = {}
    if environment is None:
        return limits, names
    for guard in environment.guards:
        if _always_holds(guard.expr, environment, names):
            continue
        symbols = guard.expr.free_symbols
        about = ", ".join(sorted({repr(names.get(symbol, str(symbol))) for symbol in symbols})) or "an axis"
        raise ExportError(
            f"got {what} that depends on whether {guard.expr} of the size of {about}{_at(guard.sloc)}, expected one "
            "rule for all sizes; use torch.where, or give inputs of sizes that need no such rule"
        )
    for symbol, name in names.items():
        bounds = environment.var_to_range.get(symbol)
        if bounds is not None:
            low = 1 if bounds.lower <= 2 else int(bounds.lower)
            high = int(bounds.upper) if isinstance(bounds.upper, sympy.Integer) and bounds.upper < 2**40 else None
            before = limits.get(name, (1, None))
            highs = [limit for limit in (high, before[1]) if limit is not None]
            limits[name] = (max(low, before[0]), min(highs, default=None))
    return limits, names


def _always_holds(expression: sympy.Basic, environment: Any, names: Mapping[sympy.Symbol, str]) -> bool:
    """Whether what torch took for granted of sizes is so for all sizes within the limits that it found.

    Torch simplifies little: ``b * (k + 1)`` rows divide by ``k + 1``, and it says so. Limits are told, and what it
    found equal has been replaced by one symbol. The rest is tried out.
    """
    sizes_of = random.Random(0)
    replaced = expression.xreplace(environment.replacements)
    for _ in range(_TRIES):
        values: dict[sympy.Symbol, sympy.Integer] = {}
        of_axes: dict[str, sympy.Integer] = {}  # tensors that share an axis have one size along it
        for symbol in sorted(replaced.free_symbols, key=str):
            bounds = environment.var_to_range.get(symbol)
            low = 2 if bounds is None else max(2, int(bounds.lower))
            high = (
                low + _SPREAD
                if bounds is None or not bounds.upper.is_Integer
                else min(low + _SPREAD, int(bounds.upper))
            )
            drawn = sympy.Integer(sizes_of.randint(low, high))
            values[symbol] = of_axes.setdefault(names.get(symbol, str(symbol)), drawn)
        if not bool(replaced.xreplace(values)):
            return False
    return True


def _frozen_at(environment: Any, size: int) -> str:
    """Where a size became a number."""
    for symbol, value in environment.replacements.items():
        if value == size:
            return _at(environment.replacements_slocs.get(symbol))
    return ""


def _tied_at(environment: Any) -> str:
    for symbol, value in environment.replacements.items():
        if isinstance(value, sympy.Symbol):
            return _at(environment.replacements_slocs.get(symbol))
    return ""


def _at(location: Any) -> str:
    """A place that torch noted, if it is the user's."""
    for frame in (getattr(location, "maybe_user_loc", None), getattr(location, "framework_loc", None)):
        if frame is not None and hasattr(frame, "filename") and is_users(frame.filename):
            return f" at {place(frame.filename, frame.lineno)}"
    return ""


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's own words about what it cannot trace, and without fused attention that hides its products."""
    loggers = [
        logging.getLogger(name)
        for name in (
            "torch",
            "torch.fx.experimental.symbolic_shapes",
            "torch._export",
            "torch.export",
            "torch._export.non_strict_utils",
        )
    ]
    levels = [each.level for each in loggers]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for each in loggers:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
