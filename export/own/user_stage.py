"""One stage of a user's network with what its calls decide, run in torch or traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.user_code import where_raised
from adaptrt.export.own.declaration import Declaration, require_leave, require_state
from adaptrt.models.own import Adaptive, Leave, Named
from adaptrt.models.symbolic.call_record import CallRecord, calls_recorded
from adaptrt.models.symbolic.dynamic_sizes import dynamic_sizes


@dataclass(frozen=True)
class UserStageOutput:
    """What a stage and its exit gave, and what was decided on the way.

    Attributes:
        state: After the stage.
        leave: Of the exit.
        calls: What was decided.
        read: Names of the state before the stage that its code asked for.
    """

    state: Named
    leave: Leave
    calls: CallRecord
    read: frozenset[str]


class _ReadTensors(dict[str, Tensor]):
    """Tensors that note which of their names are asked for, and say what they are where one is missing."""

    def __init__(self, tensors: Named, what: str) -> None:
        super().__init__(tensors)
        self.what = what
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)

    def __missing__(self, name: str) -> Tensor:
        raise _MissingTensorError(f"{name!r}, expected one of {', '.join(self) or 'none'}: {self.what}")


class _MissingTensorError(KeyError):
    """A user's code takes what it is not given."""

    def __str__(self) -> str:
        return str(self.args[0])


def full_knobs(declaration: Declaration) -> Named:
    """Every knob where everything runs."""
    return {
        knob.name: torch.full(knob.shape, knob.default, dtype=getattr(torch, knob.dtype)) for knob in declaration.knobs
    }


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell in one line what the user's code raised; while tracing, whoever traces does."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:  # the user's code raises what it likes
        if torch.compiler.is_exporting():
            raise
        text = " ".join(str(error).split())
        if isinstance(error, _MissingTensorError):
            raise ExportError(f"{what} takes {text}; at {where_raised(error)}, give it or take another") from error
        if isinstance(error, ValueError) and text.startswith("got "):  # of adaptrt's own parts: it says what to do
            raise ExportError(f"{what} {text}; at {where_raised(error)}") from error
        raise ExportError(
            f"{what} raised {type(error).__name__}: {text} at {where_raised(error)}; expected it to take named axes of "
            "any size"
        ) from error


def run_user_stage(
    network: Adaptive, number: int, state: Named, knobs: Named, calls: CallRecord, *, last: bool
) -> UserStageOutput:
    """Run one stage and the exit after it, and check what they give.

    Raises:
        ExportError: That is not what is expected.
    """
    kind = type(network).__name__
    batch = next(iter(state.values())).shape[0]
    before = _ReadTensors(state, "what the stage before handed on" if number else "the inputs")
    given_knobs = _ReadTensors(knobs, "the knobs that it declares")
    with calls_recorded(calls), _told(f"{kind}.stage({number})"):
        after = require_state(network.stage(number, before, given_knobs), number, batch, kind)
    with calls_recorded(calls), _told(f"{kind}.leave({number})"):
        leave = network.leave(number, _ReadTensors(after, f"what stage({number}) gave"))
    if not torch.compiler.is_exporting():
        leave = require_leave(leave, number, last, batch, kind)
    return UserStageOutput(after, leave, calls, frozenset(before.read))


def run_dense(network: Adaptive, declaration: Declaration, inputs: Named) -> Leave:
    """Run all stages with everything taken, and the last exit.

    Raises:
        ExportError: A stage or the exit gives something that is not expected.
    """
    kind, state, knobs = type(network).__name__, dict(inputs), full_knobs(declaration)
    batch = next(iter(inputs.values())).shape[0]
    with calls_recorded(CallRecord(dense=True)), _told(f"{kind} with everything taken"):
        for number in range(declaration.stages):
            state = require_state(network.stage(number, dict(state), dict(knobs)), number, batch, kind)
        return network.leave(declaration.stages - 1, state)


class TracedStage(nn.Module):
    """A stage with flat inputs and outputs, for a trace that its work and its axes are read from.

    The tensors are the stage's state, its knobs, then stand-ins for sizes that depend on the data. Outputs, in this
    order: the network's outputs, ``sure`` where it is read, the state in the order of its names, how many learners
    ran, and of each selection index and count.
    """

    def __init__(
        self, network: Adaptive, number: int, state: Sequence[str], knobs: Sequence[str], *, last: bool
    ) -> None:
        super().__init__()
        self.network, self.number, self.last = network, number, last
        self.state_names, self.knob_names = list(state), list(knobs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the stage."""
        first, second = len(self.state_names), len(self.state_names) + len(self.knob_names)
        state = dict(zip(self.state_names, tensors[:first], strict=True))
        knobs = dict(zip(self.knob_names, tensors[first:second], strict=True))
        with dynamic_sizes(tensors[second:]):
            given = run_user_stage(self.network, self.number, state, knobs, CallRecord(), last=self.last)
        results = [*given.leave.outputs.values()]
        if not self.last and given.leave.sure is not None:
            results.append(given.leave.sure)
        results += given.state.values()
        results += [call.k for call in given.calls.learners]
        for call in given.calls.selections:
            results += [call.selection.index, call.selection.count]
        return tuple(results)


class TracedDense(nn.Module):
    """The dense network with flat inputs and outputs."""

    def __init__(self, network: Adaptive, declaration: Declaration) -> None:
        super().__init__()
        self.network, self.declaration = network, declaration

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        inputs = dict(zip(self.declaration.shapes, tensors, strict=True))
        return tuple(run_dense(self.network, self.declaration, inputs).outputs.values())
