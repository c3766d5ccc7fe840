"""What export derives of a user's network by itself: what stages hand on, along which axes, and what they cost.

Every stage is traced once with symbolic sizes. From that follow the axes of the state and of the outputs, which parts
of the state the later stages need, which knobs a stage reads, which weights only early exits use, and the work.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import sympy
import torch
from torch import Tensor, fx

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.program import Program, trace_program
from adaptrt.export.graph.symbolic_work import BATCH as BATCH_SYMBOL
from adaptrt.export.graph.symbolic_work import SymbolicWork, count_work, needed
from adaptrt.export.own.declaration import BATCH, Declaration, require_same_outputs
from adaptrt.export.own.row_sets import RowSet, follow_rows
from adaptrt.export.own.traced_sizes import resized, traced_sizes, unused_primes
from adaptrt.export.own.user_stage import TracedDense, TracedStage, UserStageOutput, full_knobs, run_user_stage
from adaptrt.models.own import Adaptive, Named
from adaptrt.models.staged_network import Axis, NamedTensor
from adaptrt.models.symbolic.call_record import CallRecord
from adaptrt.models.symbolic.dynamic_sizes import dynamic_sizes

TAKEN, SIZE = "taken_{}", "size_{}"
"""Axes that no input has: rows taken by a call, numbered through the stages, and other sizes of the state."""


@dataclass(frozen=True)
class StateTensor:
    """A tensor of the state between two stages.

    Attributes:
        shape: A text names an axis.
        dtype: As numpy has it.
        handed_on: The network's input that it is, untouched; None: it was computed.
    """

    shape: tuple[Axis, ...]
    dtype: str
    handed_on: str | None


@dataclass(frozen=True)
class DerivedStage:
    """What was found of one stage.

    Attributes:
        state: What it needs of the state that it gets, by the user's names; the inputs for stage 0.
        knobs: Names of those that it reads.
        work: For one sample.
        takes: How many calls select rows.
        counts: Axes whose real sizes it gets from the stage before.
        sizes: Of axes that no input has, from the sizes before them.
        outputs: The network's, as it gives them.
        sets: What each call takes from; None for one that cannot be followed.
    """

    state: dict[str, StateTensor]
    knobs: tuple[str, ...]
    work: SymbolicWork
    takes: int
    counts: tuple[str, ...] = ()
    sizes: dict[str, sympy.Expr] = field(default_factory=dict)
    outputs: tuple[NamedTensor, ...] = ()
    sets: tuple[RowSet | None, ...] = ()


@dataclass(frozen=True)
class Derivation:
    """What was found of a network.

    Attributes:
        stages: In order.
        dense: Work of the dense network, in the inputs' axes.
        dense_weights: Names of the parameters that it uses.
        weights: Names of those that any stage uses.
        limits: Smallest and largest size that the code takes, of axes where there is one.
        limits_mode: As ``CallRecord.limits``.
        sizes: Of all axes in traces.
        whole: For inputs of whole numbers that are looked up in a table, the smallest and the largest.
    """

    stages: tuple[DerivedStage, ...]
    dense: SymbolicWork
    dense_weights: frozenset[str]
    weights: frozenset[str]
    limits: dict[str, tuple[int, int | None]]
    limits_mode: str
    sizes: dict[str, int]
    whole: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class _Traced:
    """One stage as a program, and how its outputs divide."""

    program: Program
    given: UserStageOutput
    state: dict[str, StateTensor]
    outputs: list[fx.Node]
    decided: list[fx.Node]
    learners: list[fx.Node]
    handed: dict[str, fx.Node]
    takes: int
    sizes: dict[str, sympy.Expr]
    sources: list[Axis | None]


def derive(network: Adaptive, declaration: Declaration) -> Derivation:
    """Trace a network's stages and its dense form, and read from them what export needs.

    Raises:
        ExportError: The network does something that no graph can say; names the user's file and line.
    """
    sizes = traced_sizes(declaration)
    inputs = resized(network.example(sizes[BATCH]), declaration, sizes)
    traced: list[_Traced] = []
    state = {name: StateTensor(shape, _name(inputs[name].dtype), name) for name, shape in declaration.shapes.items()}
    values, primes, taken, mode = dict(inputs), unused_primes(sizes), 0, "none"
    for number in range(declaration.stages):
        one, values = _trace_stage(network, declaration, number, state, values, sizes, taken, primes)
        if traced:
            require_same_outputs(one.given.leave, traced[0].given.leave, number, type(network).__name__)
        traced.append(one)
        taken += one.takes
        mode = "any" if any(call.limited for call in one.given.calls.selections) else mode
        state = _state_after(network, declaration, one, number, taken, sizes, primes)
    dense = _trace_dense(network, declaration, inputs)
    variable = {node.name for node in dense.inputs}
    dense_work = count_work(dense.graph, variable, dense.names, dense.outputs, [])
    if dense_work.products == 0:
        raise ExportError(f"{type(network).__name__} multiplies nothing, expected products: work is a share of theirs")
    stages, weights = _needed_stages(declaration, traced)
    sources = [source for one in traced for source in one.sources]
    sets = follow_rows(sources, [TAKEN.format(number) for number in range(len(sources))], list(declaration.sizes))
    followed = iter(sets)
    stages = [replace(stage, sets=tuple(itertools.islice(followed, stage.takes))) for stage in stages]
    limits = _joined([one.program.limits for one in traced] + [dense.limits], declaration)
    return Derivation(
        tuple(stages),
        dense_work,
        frozenset(_weights(dense, dense.outputs)),
        frozenset(weights),
        limits,
        mode,
        sizes,
        _tables(traced),
    )


def _trace_stage(
    network: Adaptive,
    declaration: Declaration,
    number: int,
    state: dict[str, StateTensor],
    values: Named,
    sizes: dict[str, int],
    taken: int,
    primes: Iterator[int],
) -> tuple[_Traced, Named]:
    """Trace one stage; the state after it besides, as it came out in torch."""
    last = number == declaration.stages - 1
    knobs = full_knobs(declaration)
    with torch.no_grad(), dynamic_sizes() as counted:
        after = run_user_stage(network, number, values, knobs, CallRecord(), last=last)
    takes = len(after.calls.selections)
    if counted.calls != takes:
        raise ExportError(
            f"{type(network).__name__}.stage({number}) makes {counted.calls - takes} sizes that depend on the data by "
            "ops of adaptrt's own, expected take alone; use that"
        )
    for place in range(takes):
        sizes.setdefault(TAKEN.format(taken + place), next(primes))
    example = [_example(spec, values.get(name), sizes) for name, spec in state.items()]
    stand_ins = [TAKEN.format(taken + place) for place in range(takes)]
    module = TracedStage(network, number, list(state), list(knobs), last=last).eval()
    program = trace_program(
        module,
        [*example, *knobs.values(), *(torch.zeros(sizes[name]) for name in stand_ins)],
        [
            *(spec.shape for spec in state.values()),
            *(tuple(knob.shape) for knob in knobs.values()),
            *((n,) for n in stand_ins),
        ],
        f"{type(network).__name__}.stage({number}) and leave({number})",
    )
    given = after  # of the same names and numbers: what is decided in Python must not depend on the data
    outputs = iter(program.outputs)
    heads = list(itertools.islice(outputs, len(given.leave.outputs)))
    decided = list(itertools.islice(outputs, 0 if last else 1))
    handed = dict(zip(given.state, itertools.islice(outputs, len(given.state)), strict=True))
    learners = list(itertools.islice(outputs, len(given.calls.learners)))
    decided += [*learners, *outputs]
    sources = [_source(program, node, sizes) for node in decided[len(decided) - 2 * takes :: 2]]
    traced = _Traced(program, after, state, heads, decided, learners, handed, takes, {}, sources)
    return traced, after.state


def _source(program: Program, index: fx.Node, sizes: dict[str, int]) -> Axis | None:
    """The axis that a call takes its rows from, found from the index that it gives."""
    (selected,) = index.all_input_nodes
    rows = selected.args[0]
    assert isinstance(rows, list | tuple) and isinstance(rows[0], fx.Node)
    size = program.shape(rows[0])[1]
    if size.is_Integer:
        return int(size)
    return size.name if size.is_Symbol and size.name in sizes else None


def _example(spec: StateTensor, value: Tensor | None, sizes: dict[str, int]) -> Tensor:
    """An example of a tensor of the state: as it came out where that has the sizes, else some of that kind."""
    shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
    if value is not None and list(value.shape) == shape:
        return value
    if spec.dtype == "float32":
        return torch.rand(shape)
    return (
        torch.ones(shape, dtype=torch.bool)
        if spec.dtype == "bool"
        else torch.zeros(shape, dtype=getattr(torch, spec.dtype))
    )


def _state_after(
    network: Adaptive,
    declaration: Declaration,
    one: _Traced,
    number: int,
    taken: int,
    sizes: dict[str, int],
    primes: Iterator[int],
) -> dict[str, StateTensor]:
    """The state after a stage: dtypes, axes, and which of it are inputs handed on."""
    known = {sympy.Symbol(name): name for name in sizes}
    handed = {node: spec.handed_on for (_, spec), node in zip(one.state.items(), one.program.inputs, strict=False)}
    tensors: dict[str, StateTensor] = {}
    for name, node in one.handed.items():
        shape: list[Axis] = []
        for place, size in enumerate(one.program.shape(node)):
            if (place == 0) != (size == BATCH_SYMBOL) or (place and BATCH_SYMBOL in size.free_symbols):
                got = ", ".join(str(each) for each in one.program.shape(node))
                raise ExportError(
                    f"{type(network).__name__}.stage({number}) gave {name!r} of shape [{got}], expected the samples as "
                    "its first axis and no other; reshape it"
                )
            if size.is_Integer:
                shape.append(int(size))
            elif size in known:
                shape.append(known[size])
            else:
                axis = next((a for a, expr in one.sizes.items() if expr == size), None)
                if axis is None:
                    axis = SIZE.format(sum(other.startswith(SIZE.format("")) for other in sizes))
                    sizes[axis] = next(primes)
                    one.sizes[axis] = size
                shape.append(axis)
        tensors[name] = StateTensor(tuple(shape), _name(one.given.state[name].dtype), handed.get(node))
    del declaration, taken
    return tensors


def _trace_dense(network: Adaptive, declaration: Declaration, inputs: Named) -> Program:
    module = TracedDense(network, declaration).eval()
    return trace_program(
        module,
        list(inputs.values()),
        list(declaration.shapes.values()),
        f"{type(network).__name__} with everything taken",
    )


def _needed_stages(declaration: Declaration, traced: list[_Traced]) -> tuple[list[DerivedStage], set[str]]:
    """What each stage needs of the state and of the knobs, found from the last one back; weights used besides."""
    stages: list[DerivedStage] = []
    wanted: dict[str, StateTensor] = {}
    counts: set[str] = set()
    weights: set[str] = set()
    for one in reversed(traced):
        program, inputs = one.program, len(one.state)
        roots = [*one.outputs, *one.decided]
        roots += [one.handed[name] for name, spec in wanted.items() if spec.handed_on is None]
        live = needed(roots)
        weights |= _weights(program, roots)
        state = {
            name: spec
            for (name, spec), node in zip(one.state.items(), program.inputs, strict=False)
            if node in live or name in one.given.read
        }
        if not state:  # a stage that reads nothing still has to know how many samples there are
            state = dict(itertools.islice(one.state.items(), 1))
        knob_nodes = program.inputs[inputs : inputs + len(declaration.knobs)]
        read = tuple(knob.name for knob, node in zip(declaration.knobs, knob_nodes, strict=True) if node in live)
        variable = {node.name for node in program.inputs[:inputs]}
        work = count_work(program.graph, variable, program.names, roots, one.learners)
        own = {axis for axis in work.axes | counts if axis.startswith(TAKEN.format(""))}
        later = {symbol.name for axis, size in one.sizes.items() if axis in counts for symbol in size.free_symbols}
        counts = (work.axes | counts | later) - set(one.sizes) - _taken_here(one, traced)
        del own
        outputs = tuple(
            _described(one, name, node) for name, node in zip(one.given.leave.outputs, one.outputs, strict=True)
        )
        stages.append(DerivedStage(state, read, work, one.takes, tuple(sorted(counts)), dict(one.sizes), outputs))
        wanted = state
    return stages[::-1], weights


def _taken_here(one: _Traced, traced: list[_Traced]) -> set[str]:
    before = sum(each.takes for each in traced[: traced.index(one)])
    return {TAKEN.format(before + place) for place in range(one.takes)}


def _described(one: _Traced, name: str, node: fx.Node) -> NamedTensor:
    """An output as the bundle has it.

    Raises:
        ExportError: A size is neither fixed nor that of an input's axis.
    """
    shape = one.program.shape(node)
    fine = shape[0] == BATCH_SYMBOL and all(
        size.is_Integer or (size.is_Symbol and not size.name.startswith((TAKEN.format(""), SIZE.format(""))))
        for size in shape[1:]
    )
    if not fine or BATCH_SYMBOL in shape[1:]:
        raise ExportError(
            f"got the output {name!r} of shape [{', '.join(map(str, shape))}], expected 'batch', then fixed sizes or "
            "the inputs' axes, the same at every exit; scatter it to an input's axis"
        )
    axes: tuple[Axis, ...] = tuple(int(size) if size.is_Integer else str(size) for size in shape)
    return NamedTensor(name, _name(one.given.leave.outputs[name].dtype), axes)


def _weights(program: Program, roots: list[fx.Node]) -> set[str]:
    live = needed(roots)
    return {target for node, target in program.parameters.items() if node in live}


def _tables(traced: list[_Traced]) -> dict[str, tuple[int, int]]:
    """Whole numbers that inputs may have, where they are looked up in tables."""
    ranges: dict[str, tuple[int, int]] = {}
    for one in traced:
        for spec, node in zip(one.state.values(), one.program.inputs, strict=False):
            name = spec.handed_on if spec.dtype in ("int64", "int32") else None
            for user in node.users if name is not None else ():
                if user.target == torch.ops.aten.embedding.default:
                    rows = user.args[0].meta["val"].shape[0]  # type: ignore[union-attr]
                    ranges[str(name)] = (0, min(int(rows) - 1, ranges.get(str(name), (0, rows))[1]))
    return ranges


def _joined(
    stages: list[dict[str, tuple[int, int | None]]], declaration: Declaration
) -> dict[str, tuple[int, int | None]]:
    limits: dict[str, tuple[int, int | None]] = {}
    for axis in declaration.sizes:
        pairs = [each[axis] for each in stages if axis in each]
        highs = [high for _, high in pairs if high is not None]
        limits[axis] = (max((low for low, _ in pairs), default=1), min(highs, default=None))
    return limits


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
