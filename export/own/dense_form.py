"""The dense form of a user's network: what its work is a share of, written beside it for comparison."""

from __future__ import annotations

import torch
from torch import nn

from adaptrt.export.own.derived_network import DerivedNetwork
from adaptrt.export.own.user_stage import run_dense
from adaptrt.models.own import Named
from adaptrt.models.staged_network import CarriedSpec, KnobSpec, NamedTensor, StagedNetwork, StageOutput


class DenseForm(StagedNetwork):
    """A derived network with everything taken, in one stage and without knobs."""

    def __init__(self, derived: DerivedNetwork) -> None:
        super().__init__()
        self.derived, self.task = derived, derived.task

    @property
    def exits(self) -> None:
        """None."""
        return

    @property
    def adaptive(self) -> bool:
        """False."""
        return False

    def input_specs(self) -> list[NamedTensor]:
        """The network's."""
        return self.derived.input_specs()

    def example_inputs(self, batch: int) -> Named:
        """The network's."""
        return self.derived.example_inputs(batch)

    def traced_inputs(self) -> Named:
        """The network's."""
        return self.derived.traced_inputs()

    def knob_specs(self) -> list[KnobSpec]:
        """None."""
        return []

    def carried_specs(self, stage: int) -> list[CarriedSpec]:
        """Nothing: there is one stage."""
        del stage
        return []

    def run_stage(self, stage: int, inputs: Named, knobs: Named) -> StageOutput:
        """Run the dense network: all of its work, for every sample."""
        del stage, knobs
        leave = run_dense(self.derived.network, self.derived.declaration, inputs)
        outputs = {spec.name: leave.outputs[spec.name] for spec in self.derived.output_specs}
        first = next(iter(outputs.values()))
        return StageOutput(outputs, None, torch.ones(first.shape[0]), {}, [])

    def exit_modules(self) -> list[nn.Module]:
        """None."""
        return []

    def dense_macs(self) -> int:
        """The network's."""
        return self.derived.dense_macs()

    def dense_parameters(self) -> int:
        """The network's."""
        return self.derived.dense_parameters()

    def unsplit(self) -> StagedNetwork:
        """Itself."""
        return self
