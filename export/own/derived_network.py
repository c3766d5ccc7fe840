"""A user's network as export takes it: all that ``StagedNetwork`` asks for, derived."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.work_formula import evaluate, evaluate_whole
from adaptrt.export.own.declaration import BATCH, LONGER, read_declaration
from adaptrt.export.own.derivation import Derivation, DerivedStage, derive
from adaptrt.export.own.own_task import own_task
from adaptrt.export.own.traced_sizes import resized
from adaptrt.export.own.user_stage import UserStageOutput, full_knobs, run_user_stage
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.gate import Decision
from adaptrt.models.own import Adaptive, Named
from adaptrt.models.staged_network import Axis, CarriedSpec, KnobSpec, NamedTensor, StagedNetwork, StageOutput
from adaptrt.models.symbolic.call_record import CallRecord
from adaptrt.models.symbolic.graph_sizes import scalar
from adaptrt.models.tokens import Selection

OWN_CRITERION = "own"
_MACS_BEFORE, _DENSE = "macs_before", "dense_work"
_STATE, _REAL, _NEXT = "state_{}", "real_{}", "next_{}"


class DerivedNetwork(StagedNetwork):
    """A user's network in stages; a sample's share of work is of its own dense work.

    Args:
        network: The user's; it is set to evaluation.

    Raises:
        ExportError: It declares something that does not fit together, or does something that no graph can say.
    """

    def __init__(self, network: Adaptive) -> None:
        super().__init__()
        self.network = network.eval()
        self.declaration = read_declaration(network)
        self.derivation: Derivation = derive(network, self.declaration)
        self.output_specs = list(self.derivation.stages[-1].outputs)
        self.task = own_task(network, [spec.name for spec in self.output_specs])
        self._taken_before = [
            sum(stage.takes for stage in self._stages[:number]) for number in range(len(self._stages) + 1)
        ]
        for knob in self.declaration.knobs:
            if not any(knob.name in stage.knobs for stage in self._stages):
                raise ExportError(
                    f"got the knob {knob.name!r}, which changes nothing that any stage gives, expected one that stages "
                    "read; leave it out or use it"
                )

    @property
    def _stages(self) -> tuple[DerivedStage, ...]:
        return self.derivation.stages

    @property
    def exits(self) -> ExitConfig | None:
        """One after each stage but the last."""
        return None if len(self._stages) == 1 else ExitConfig(tuple(range(1, len(self._stages))))

    @property
    def stage_names(self) -> list[str]:
        """``stage_0``, ..., ``final``."""
        return [*(f"stage_{number}" for number in range(len(self._stages) - 1)), "final"]

    @property
    def exit_criterion(self) -> str | None:
        """The network's own measure; None with one stage."""
        return None if len(self._stages) == 1 else OWN_CRITERION

    @property
    def exit_rule(self) -> tuple[float, ...] | None:
        """The network's own thresholds."""
        return self.declaration.rule

    @property
    def adaptive(self) -> bool:
        """True: a network in which nothing is was refused."""
        return True

    @property
    def dense_gives_everything(self) -> bool:
        """True: the dense form is these very modules with everything taken."""
        return True

    def input_specs(self) -> list[NamedTensor]:
        """As declared; of whole numbers those that their type holds, or that the table has where they are looked up."""
        specs = []
        for name, shape in self.declaration.shapes.items():
            dtype = self.declaration.dtypes[name]
            limits: tuple[int, int] | tuple[None, None] = (None, None)
            if dtype in (torch.int64, torch.int32):
                info = torch.iinfo(dtype)
                limits = self.derivation.whole.get(name, (int(info.min), int(info.max)))
            specs.append(NamedTensor(name, str(dtype).removeprefix("torch."), shape, *limits))
        return specs

    def axis_limits(self) -> dict[str, tuple[int, int | None]]:
        """Up to four times the example's size; what the code takes may be less."""
        limits: dict[str, tuple[int, int | None]] = {BATCH: (0, None)}
        for axis, size in self.declaration.sizes.items():
            low, high = self.derivation.limits[axis]
            longest = LONGER * size if high is None else min(high, LONGER * size)
            limits[axis] = (low, max(longest, low))
        return limits

    def example_inputs(self, batch: int) -> Named:
        """The user's."""
        return self.network.example(batch)

    def example_sizes(self) -> dict[str, int]:
        """Sizes of all axes in traces."""
        return dict(self.derivation.sizes)

    def traced_inputs(self) -> Named:
        """Inputs of these sizes."""
        sizes = self.derivation.sizes
        return resized(self.network.example(sizes[BATCH]), self.declaration, sizes)

    def traced_limits(self) -> dict[str, tuple[int, int | None]]:
        """What the code was found to take."""
        return {axis: limit for axis, limit in self.derivation.limits.items() if limit != (1, None)}

    def traced_knob(self, spec: KnobSpec) -> float:
        """Where everything runs: a user's code need not take empty sets in torch that it never gets in a graph."""
        return spec.default

    def knob_specs(self) -> list[KnobSpec]:
        """As declared."""
        return list(self.declaration.knobs)

    def stage_knobs(self, stage: int) -> list[str]:
        """Those that the stage was found to read."""
        return list(self._stages[stage].knobs)

    def stage_inputs(self, stage: int) -> list[NamedTensor]:
        """Those of the network's inputs that a stage reads as they are."""
        read = {spec.handed_on for spec in self._stages[stage].state.values()}
        return [spec for spec in self.input_specs() if stage == 0 or spec.name in read]

    def carried_specs(self, stage: int) -> list[CarriedSpec]:
        """The computed state, real sizes that no tensor shows, and the work so far."""
        if stage == 0:
            return []
        specs = [
            CarriedSpec(NamedTensor(_STATE.format(name), spec.dtype, spec.shape), _NEXT.format(name))
            for name, spec in self._stages[stage].state.items()
            if spec.handed_on is None
        ]
        for axis in self._carried_counts(stage):
            real = _REAL.format(axis)
            specs.append(CarriedSpec(NamedTensor(real, "float32", (BATCH,)), _NEXT.format(real)))
        if self.derivation.dense.axes:
            specs.append(CarriedSpec(NamedTensor(_DENSE, "float32", (BATCH,)), _NEXT.format(_DENSE)))
        return [*specs, CarriedSpec(NamedTensor(_MACS_BEFORE, "float32", (BATCH,)), "macs_fraction")]

    def row_sets(self) -> dict[str, Axis]:
        """What calls of ``take`` take from."""
        return {rows.name: rows.size for stage in self._stages for rows in stage.sets if rows is not None}

    def run_stage(self, stage: int, inputs: Named, knobs: Named) -> StageOutput:
        """Run one stage; see ``StagedNetwork.run_stage``."""
        derived, last = self._stages[stage], stage == len(self._stages) - 1
        state = {
            name: inputs[_STATE.format(name) if spec.handed_on is None else spec.handed_on]
            for name, spec in derived.state.items()
        }
        if stage == 0:
            state = {name: inputs[name] for name in self.declaration.shapes}
        calls = CallRecord(limits=self.derivation.limits_mode)
        given = run_user_stage(self.network, stage, state, {**full_knobs(self.declaration), **knobs}, calls, last=last)
        like = next(iter(inputs.values()))
        sizes = self._sizes(stage, inputs, given)
        dense = self._dense_work(stage, inputs, sizes)
        macs_fraction = self._share(derived, calls, sizes, dense, like, inputs.get(_MACS_BEFORE))
        carried = {} if last else self._carried(stage, given, sizes, dense, like)
        outputs = {spec.name: given.leave.outputs[spec.name] for spec in self.output_specs}
        sure = None if given.leave.sure is None or last else given.leave.sure.to(torch.float32)
        # Learners of a user's own modules are counted, and not disclosed.
        decisions: list[Decision | Selection] = [
            dataclasses.replace(call.selection, disclosed=False)
            if rows is None
            else dataclasses.replace(call.selection, of=rows.name, nested=rows.nested)
            for call, rows in zip(calls.selections, derived.sets, strict=True)
        ]
        return StageOutput(outputs, sure, macs_fraction, carried, decisions)

    def run_stages(self, inputs: Named, knobs: Named) -> list[StageOutput]:
        """Run all stages on all samples, nobody leaving."""
        outputs: list[StageOutput] = []
        for number in range(len(self._stages)):
            given = {**inputs}
            if outputs:
                before = {**outputs[-1].carried, "macs_fraction": outputs[-1].macs_fraction}
                given = {spec.name: inputs[spec.name] for spec in self.stage_inputs(number)}
                given |= {spec.tensor.name: before[spec.source] for spec in self.carried_specs(number)}
            read = {name: value for name, value in knobs.items() if name in self._stages[number].knobs}
            outputs.append(self.run_stage(number, given, read))
        return outputs

    def exit_modules(self) -> list[nn.Module]:
        """Modules whose weights only early exits use."""
        early = self.derivation.weights - self.derivation.dense_weights
        modules: list[tuple[str, nn.Module]] = []
        for name, module in self.network.named_modules():
            weights = {f"network.{name}.{inner}" for inner, _ in module.named_parameters()}
            if weights and weights <= early and not any(name.startswith(f"{outer}.") for outer, _ in modules):
                modules.append((name, module))
        return [module for _, module in modules]

    def dense_macs(self) -> int:
        """Of the dense network for an input as long as the example's, all of it real."""
        return evaluate_whole(self.derivation.dense.products, self.declaration.sizes)

    def dense_macs_of(self, inputs: Mapping[str, npt.NDArray[Any]]) -> list[int]:
        """Of the dense network for each sample, by its real sizes."""
        count = len(next(iter(inputs.values())))
        macs = []
        for sample in range(count):
            sizes: dict[str, int] = {}
            for name, shape in self.declaration.shapes.items():
                sizes |= {a: inputs[name].shape[p] for p, a in enumerate(shape) if isinstance(a, str) and a != BATCH}
            for axis, mask in self.declaration.padding.items():
                sizes[axis] = max(int(np.count_nonzero(inputs[mask][sample])), 1)
            macs.append(evaluate_whole(self.derivation.dense.products, sizes))
        return macs

    def dense_parameters(self) -> int:
        """Number of weights that the dense network uses."""
        weights = {f"network.{name}": parameter for name, parameter in self.network.named_parameters()}
        return sum(parameter.numel() for name, parameter in weights.items() if name in self.derivation.dense_weights)

    def unsplit(self) -> StagedNetwork:
        """The same network in one stage, without its early exits.

        Raises:
            ExportError: Always: a network of the user's own has no other form.
        """
        raise ExportError(f"got {type(self.network).__name__} to join into one stage, expected it in its own stages")

    def _plain(self, axis: str) -> bool:
        """Whether all samples of a batch have one size along an axis, which tensors show."""
        if axis in self.declaration.sizes:
            return axis not in self.declaration.padding
        expression = next((stage.sizes[axis] for stage in self._stages if axis in stage.sizes), None)
        return expression is not None and all(self._plain(symbol.name) for symbol in expression.free_symbols)

    def _shown(self, stage: int) -> dict[str, tuple[str, int]]:
        """Where a stage's inputs show the size of an axis."""
        specs = [*self.stage_inputs(stage), *(carried.tensor for carried in self.carried_state(stage))]
        return {
            axis: (spec.name, place) for spec in specs for place, axis in enumerate(spec.shape) if isinstance(axis, str)
        }

    def carried_state(self, stage: int) -> list[CarriedSpec]:
        """The computed state alone."""
        state = self._stages[stage].state.items() if stage else ()
        return [
            CarriedSpec(NamedTensor(_STATE.format(name), spec.dtype, spec.shape), _NEXT.format(name))
            for name, spec in state
            if spec.handed_on is None
        ]

    def _carried_counts(self, stage: int) -> list[str]:
        shown = self._shown(stage)
        return [axis for axis in self._stages[stage].counts if not (self._plain(axis) and axis in shown)]

    def _sizes(self, stage: int, inputs: Named, given: UserStageOutput) -> dict[str, Tensor]:
        """Real sizes of the axes that a stage knows: float32, ``[B]`` where samples differ, else ``[]``."""
        sizes: dict[str, Tensor] = {}
        for axis, (name, place) in self._shown(stage).items():
            if axis != BATCH and self._plain(axis):
                sizes[axis] = scalar(inputs[name].shape[place]).to(torch.float32)
        if stage == 0:
            for axis, mask in self.declaration.padding.items():
                sizes[axis] = inputs[mask].sum(1, dtype=torch.int32).clamp(min=1).to(torch.float32)
        else:
            sizes |= {axis: inputs[_REAL.format(axis)] for axis in self._carried_counts(stage)}
        for place, call in enumerate(given.calls.selections, start=self._taken_before[stage]):
            sizes[f"taken_{place}"] = call.selection.count.to(torch.float32)
        for axis, expression in self._stages[stage].sizes.items():
            if all(symbol.name in sizes for symbol in expression.free_symbols):
                sizes[axis] = torch.as_tensor(evaluate(expression, sizes))
        return sizes

    def _dense_work(self, stage: int, inputs: Named, sizes: dict[str, Tensor]) -> Tensor | float:
        if not self.derivation.dense.axes:
            return float(self.derivation.dense.products)
        if stage:
            return inputs[_DENSE]
        return evaluate(self.derivation.dense.products, sizes)

    def _share(
        self,
        stage: DerivedStage,
        calls: CallRecord,
        sizes: dict[str, Tensor],
        dense: Tensor | float,
        like: Tensor,
        before: Tensor | None,
    ) -> Tensor:
        """Share of the sample's dense work up to a stage, float32 ``[B]``."""
        constant = isinstance(dense, float)
        work = evaluate(stage.work.products / int(dense) if constant else stage.work.products, sizes)
        for number, per_run in stage.work.per_run.items():
            call = calls.learners[number]
            runs = call.k.clamp(0, call.learners).reshape(like.shape[0], -1).sum(1).to(torch.float32)
            work = work + runs * (per_run / dense if constant else float(per_run))
        share = work if constant else work / dense
        if before is not None:
            return before + share
        return _for_each(like, share)

    def _carried(
        self, stage: int, given: UserStageOutput, sizes: dict[str, Tensor], dense: Tensor | float, like: Tensor
    ) -> Named:
        after = self._stages[stage + 1]
        carried = {
            _NEXT.format(name): given.state[name] for name, spec in after.state.items() if spec.handed_on is None
        }
        for axis in self._carried_counts(stage + 1):
            carried[_NEXT.format(_REAL.format(axis))] = _for_each(like, sizes[axis])
        if isinstance(dense, Tensor):
            carried[_NEXT.format(_DENSE)] = _for_each(like, dense)
        return carried


def _for_each(like: Tensor, value: Tensor | float) -> Tensor:
    """One number for all samples of ``like``, or what is one for each already, as float32 ``[B]``."""
    if not isinstance(value, Tensor):
        return torch.full((like.shape[0],), value, dtype=torch.float32)
    return value.to(torch.float32).expand(like.shape[0])
