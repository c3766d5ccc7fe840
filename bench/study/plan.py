"""How long a study will take, by a few steps of every phase of every network: told before anything is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table

from adaptrt.bench.families.networks import FamilyNetwork
from adaptrt.models.data.split import DataSplits
from adaptrt.models.network import Network
from adaptrt.models.training.precision import choose_precision
from adaptrt.models.training.train import PhaseTime, time_phases

DENSE_PHASE = "dense"
_PASS_OVER_STEP = 0.3
"""What a sample takes in a pass, forward alone, over what it takes in a step of training; about."""


@dataclass(frozen=True)
class NetworkPlan:
    """What one network takes in one seed: its phases, those left out that another network does for it."""

    name: str
    phases: list[PhaseTime]

    @property
    def seconds(self) -> float:
        """Of all its phases."""
        return sum(phase.seconds for phase in self.phases)


@dataclass(frozen=True)
class StudyPlan:
    """What is left of a study.

    Attributes:
        precision: That is trained in.
        networks: What each takes in one seed.
        left: How many seeds each is still to be trained for, by name.
        calibrations: Seeds still to be exported, calibrated and compared.
        passes_seconds: What the passes over calibration data take in one seed, about; comparing is not in it.
    """

    precision: str
    networks: list[NetworkPlan]
    left: dict[str, int]
    calibrations: int
    passes_seconds: float

    @property
    def seconds(self) -> float:
        """Of all that is left, about."""
        training = sum(plan.seconds * self.left[plan.name] for plan in self.networks)
        return training + self.calibrations * self.passes_seconds


def plan_study(
    seeds: Sequence[Sequence[FamilyNetwork]],
    compared: Sequence[bool],
    data: DataSplits,
    *,
    precision: str,
    passes_samples: int,
    tell: Callable[[str, float], None],
) -> StudyPlan:
    """Time a few steps of everything that is to be trained.

    Args:
        seeds: The networks of every seed.
        compared: Of every seed, whether it is over.
        data: To train on.
        precision: As ``choose_precision`` takes it.
        passes_samples: Samples that all passes of one seed's calibrations run, about.
        tell: Told how far it is.
    """
    chosen = choose_precision(precision, *(network.checkpoints for network in seeds[0])).precision
    plans = []
    for number, network in enumerate(seeds[0]):
        tell("timing a few steps of every network", number / len(seeds[0]))
        recipe = dataclasses.replace(network.recipe, precision=chosen)
        teacher = None if network.teacher is None else Network.from_config(seeds[0][0].recipe.vit).eval()
        phases = time_phases(recipe, data, teacher=teacher, effort=network.effort)
        if number and teacher is None:  # the first network's dense phase serves these, too
            phases = [phase for phase in phases if phase.phase != DENSE_PHASE]
        plans.append(NetworkPlan(network.name, phases))
    left = {network.name: sum(not each[number].trained for each in seeds) for number, network in enumerate(seeds[0])}
    dense = next(phase for phase in plans[0].phases if phase.phase == DENSE_PHASE)
    per_sample = _PASS_OVER_STEP * dense.step_seconds / seeds[0][0].recipe.batch
    return StudyPlan(chosen, plans, left, sum(not done for done in compared), passes_samples * per_sample)


def plan_table(plan: StudyPlan) -> Table:
    """Every phase of every network, and what is left."""
    table = Table(title=f"training in {plan.precision}: what a seed takes")
    for heading in ("network", "phase", "steps", "s per step", "minutes", "seeds left"):
        table.add_column(heading, justify="left" if heading in ("network", "phase") else "right")
    for each in plan.networks:
        for phase in each.phases:
            cells = [str(phase.steps), f"{phase.step_seconds:.3f}", f"{phase.seconds / 60:.1f}"]
            table.add_row(each.name, phase.phase, *cells, str(plan.left[each.name]))
    table.add_row("calibration", "", "", "", f"{plan.passes_seconds / 60:.1f}", str(plan.calibrations))
    table.caption = f"all that is left: about {plan.seconds / 60:.0f} minutes, and some for measuring each seed"
    return table
