"""One stage of a user's network with what its calls decide, run in torch or traced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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


class _ReadState(dict[str, Tensor]):
    """A state that notes which of its names are asked for."""

    def __init__(self, state: Named) -> None:
        super().__init__(state)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)


def full_knobs(declaration: Declaration) -> Named:
    """Every knob where everything runs."""
    return {
        knob.name: torch.full(knob.shape, knob.default, dtype=getattr(torch, knob.dtype)) for knob in declaration.knobs
    }


def run_user_stage(
    network: Adaptive, number: int, state: Named, knobs: Named, calls: CallRecord, *, last: bool
) -> UserStageOutput:
    """Run one stage and the exit after it, and check what they give.

    Raises:
        ExportError: That is not what is expected.
    """
    kind = type(network).__name__
    batch = next(iter(state.values())).shape[0]
    with calls_recorded(calls):
        before = _ReadState(state)
        state = require_state(network.stage(number, before, dict(knobs)), number, kind)
        leave = network.leave(number, dict(state))
    if not torch.compiler.is_exporting():
        leave = require_leave(leave, number, last, batch, kind)
    return UserStageOutput(state, leave, calls, frozenset(before.read))


def run_dense(network: Adaptive, declaration: Declaration, inputs: Named) -> Leave:
    """Run all stages with everything taken, and the last exit.

    Raises:
        ExportError: A stage or the exit gives something that is not expected.
    """
    kind, state, knobs = type(network).__name__, dict(inputs), full_knobs(declaration)
    with calls_recorded(CallRecord(dense=True)):
        for number in range(declaration.stages):
            state = require_state(network.stage(number, dict(state), dict(knobs)), number, kind)
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
