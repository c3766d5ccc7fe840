"""What export and calibration need of a network: named inputs, knobs, and stages that hand tensors on.

A stage is a piece of the network between two exits. Its first inputs are the network's; every later
stage takes *carried* tensors that the stage before gave out. A network without exits has one stage.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor, nn

from adaptrt.models.tasks import CLASSIFICATION, Task

if TYPE_CHECKING:
    from adaptrt.models.families.exit_head import ExitConfig
    from adaptrt.models.families.family import Family
    from adaptrt.models.families.gate import Decision
    from adaptrt.models.families.price_scale import PriceScale
    from adaptrt.models.tokens import Selection

Axis = int | str


@dataclass(frozen=True)
class NamedTensor:
    """A named tensor; in ``shape`` a text names a dynamic axis, such as ``"batch"``.

    An input of whole numbers says which ones it takes, from ``minimum`` to ``maximum``. ``prepared``: values come
    from a processor of the network's own, so that an input in the shape of a picture takes no picture's file.
    """

    name: str
    dtype: str
    shape: tuple[Axis, ...]
    minimum: int | None = None
    maximum: int | None = None
    prepared: bool = False


@dataclass(frozen=True)
class KnobSpec:
    """A graph input that changes how much is computed; at its default everything runs."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    minimum: float
    maximum: float
    default: float


@dataclass(frozen=True)
class CarriedSpec:
    """A tensor that a stage takes from the one before, which gives it out as ``source``."""

    tensor: NamedTensor
    source: str


def criterion_carries(criterion: str | None) -> list[CarriedSpec]:
    """What an exit criterion hands to the next head: nothing, or for patience its prediction and streak."""
    if criterion != "patience":
        return []
    return [
        CarriedSpec(NamedTensor("prediction", "int64", ("batch",)), "next_prediction"),
        CarriedSpec(NamedTensor("streak", "float32", ("batch",)), "next_streak"),
    ]


class StageOutput(NamedTuple):
    """What one stage gives.

    Attributes:
        outputs: Of the head at the stage's end, by name, ``[B, ...]``: the same names at every stage.
        confidence: float32 ``[B]``, higher is surer; None in a network of one stage.
        macs_fraction: float32 ``[B]``: share of the dense model's multiply-accumulates, all stages so far.
        carried: For the next stage, by its source name; empty after the last.
        decisions: What was decided, in order: one ``Decision`` per gate, one ``Selection`` per selector.
        certainty: Logit of the learned certainty, ``[B]``, where there is one; for training.
    """

    outputs: dict[str, Tensor]
    confidence: Tensor | None
    macs_fraction: Tensor
    carried: dict[str, Tensor]
    decisions: list[Decision | Selection]
    certainty: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """The output of that name, which classifiers have."""
        return self.outputs["logits"]


class StagedNetwork(nn.Module, abc.ABC):
    """A network in one or several stages."""

    task: Task = CLASSIFICATION

    @property
    @abc.abstractmethod
    def exits(self) -> ExitConfig | None:
        """Where early heads stand; None: nowhere."""

    @property
    def stage_names(self) -> list[str]:
        """Names of the heads, one per stage: ``after_block_2``, ..., ``final``."""
        early = () if self.exits is None else self.exits.after
        return [*(f"after_block_{number}" for number in early), "final"]

    @property
    def exit_criterion(self) -> str | None:
        """How confidence is computed (see ``adaptrt.models.families.exit_head``); None with one stage."""
        return None if self.exits is None else self.exits.criterion

    @property
    def exit_rule(self) -> Sequence[float] | None:
        """Exit thresholds of the network's own, one for each stage but the last; None where it has none."""
        return None

    @property
    def token_axis(self) -> Axis | None:
        """How many tokens a sample has before any selection, or the input's axis that says so; None: no tokens."""
        return None

    @abc.abstractmethod
    def input_specs(self) -> list[NamedTensor]:
        """Inputs of the network, knobs not among them."""

    def axis_limits(self) -> dict[str, tuple[int, int | None]]:
        """Shortest and longest size of every named axis of the inputs; None: no limit, for the batch alone."""
        return {"batch": (0, None)}

    @abc.abstractmethod
    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random inputs of a batch, by name."""

    def example_sizes(self) -> dict[str, int]:
        """Sizes of named axes in traces: none 0 or 1, which would be frozen, and no two alike."""
        return {"batch": 3, "tokens": 7}

    def traced_inputs(self) -> dict[str, Tensor]:
        """Inputs of these sizes."""
        return self.example_inputs(self.example_sizes()["batch"])

    def traced_limits(self) -> dict[str, tuple[int, int | None]]:
        """Sizes of named axes that the code takes, of those that it does not take from 1 on without end."""
        return {}

    @abc.abstractmethod
    def knob_specs(self) -> list[KnobSpec]:
        """Graph inputs that change how much is computed."""

    def stage_knobs(self, stage: int) -> list[str]:
        """Names of the knobs that a stage reads: all, where a network does not say otherwise."""
        del stage
        return [spec.name for spec in self.knob_specs()]

    def traced_knob(self, spec: KnobSpec) -> float:
        """A knob's value in traces: nothing runs, for what a graph can do must not depend on its example."""
        return spec.maximum

    def stage_inputs(self, stage: int) -> list[NamedTensor]:
        """Those of the network's inputs that a stage takes, beside what it takes from the stage before."""
        return [] if stage else self.input_specs()

    @abc.abstractmethod
    def carried_specs(self, stage: int) -> list[CarriedSpec]:
        """What a stage takes from the one before; nothing for stage 0."""

    def row_sets(self) -> dict[str, Axis]:
        """Sets of rows that selections are about, beside the network's tokens: how many a sample has at first."""
        return {}

    @abc.abstractmethod
    def run_stage(self, stage: int, inputs: dict[str, Tensor], knobs: dict[str, Tensor]) -> StageOutput:
        """Run one stage in evaluation or training.

        Args:
            stage: Its number, from 0.
            inputs: The network's inputs for stage 0, the carried tensors for the others.
            knobs: Values of the knobs that the stage reads; those left out are off.
        """

    def stage_decisions(self) -> list[list[Decision | Selection]]:
        """What each stage decides, in order, for the example that is traced: one run says how many there are."""
        knobs = {
            spec.name: torch.full(spec.shape, self.traced_knob(spec), dtype=getattr(torch, spec.dtype))
            for spec in self.knob_specs()
        }
        with torch.no_grad():
            return [stage.decisions for stage in self.run_stages(self.traced_inputs(), knobs)]

    @abc.abstractmethod
    def exit_modules(self) -> list[nn.Module]:
        """What the network has for its exits only: early heads, and what the last one needs for its confidence."""

    @abc.abstractmethod
    def dense_macs(self) -> int:
        """Multiply-accumulates of the dense network for one input."""

    @property
    def class_names(self) -> Sequence[str]:
        """What the classes are called, in the order of ``logits``; empty: nobody says."""
        return ()

    @property
    def work_tokens(self) -> int | None:
        """Tokens of the sample that work is relative to, where samples have different numbers; else None."""
        return None

    def dense_macs_of(self, inputs: Mapping[str, npt.NDArray[Any]]) -> list[int]:
        """Multiply-accumulates of the dense network that each sample's work is a share of."""
        return [self.dense_macs()] * len(next(iter(inputs.values())))

    @abc.abstractmethod
    def dense_parameters(self) -> int:
        """Number of weights of the dense network."""

    @property
    @abc.abstractmethod
    def adaptive(self) -> bool:
        """Whether any module's work depends on its input or on a knob."""

    @property
    def dense_gives_everything(self) -> bool:
        """Whether the dense network is these modules where everything runs, with no exits to pay for.

        Exports then prove it, and the runtime runs its graph there.
        """
        return False

    @property
    def made_from_dense(self) -> bool:
        """Whether this network was adapted from the dense one and taught its answers, which are then the best to have.

        The runtime runs the dense graph where everything would run.
        """
        return False

    def priced(self) -> Sequence[Family]:
        """The families that a price steers; see ``Network.priced``."""
        return []

    def fitted_scales(self) -> Mapping[str, PriceScale]:
        """The scales by which one price steers several families, by their names."""
        return {}

    def set_price_scales(self, scales: dict[str, PriceScale]) -> None:
        """Make one price steer several families; none of them: let each have a price on its own scale.

        Raises:
            ValueError: This network has no such families.
        """
        if scales:
            raise ValueError(f"got price scales for {', '.join(scales)}, expected none: this network has one price")

    def enable_hard_budgets(self) -> None:
        """Let exports be told exact numbers of learners and tokens.

        Raises:
            ValueError: This network has none, or not of the kind that can be told.
        """
        raise ValueError("got hard budgets, expected a model with ACMs or token selections; leave them out")

    @abc.abstractmethod
    def unsplit(self) -> StagedNetwork:
        """The same network in one stage, without its early heads."""

    def run_stages(self, inputs: dict[str, Tensor], knobs: dict[str, Tensor]) -> list[StageOutput]:
        """Run all stages on all samples, nobody leaving."""
        outputs: list[StageOutput] = []
        for stage in range(len(self.stage_names)):
            if stage:
                given = {**outputs[-1].carried, "macs_fraction": outputs[-1].macs_fraction}
                carried = self.carried_specs(stage)
                inputs = {spec.tensor.name: given[spec.source] for spec in carried if spec.source in given}
                if "next_presence" in given:  # in training, where nothing is cut out
                    inputs["presence"] = given["next_presence"]
            read = {name: value for name, value in knobs.items() if name in self.stage_knobs(stage)}
            outputs.append(self.run_stage(stage, inputs, read))
        return outputs
