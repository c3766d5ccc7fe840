"""What one call returned and cost."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from adaptrt.runtime.bundle.schema import KnobValue
from adaptrt.runtime.control.budget import Budget
from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS
from adaptrt.runtime.decisions import Decisions
from adaptrt.runtime.telemetry.reading import Reading

Array = np.ndarray[Any, Any]


class Result(msgspec.Struct, frozen=True, eq=False, weakref=True):
    """What one call returned and cost.

    A struct, not a dataclass: with so many fields a frozen dataclass takes 2 us to make, more than the rest of a call.

    Attributes:
        outputs: every output of the bundle by name, except ``macs_fraction``; each sample's from the
            stage where it left.
        macs_fraction: float32 [B], the share of the dense model's multiply-accumulates that each
            sample used.
        latency_ms: wall-clock time of executing all stages, in milliseconds.
        budget: that this call was to obey; None where ``knobs`` were passed.
        knobs: values of all knobs: a number, or a list of one for each element.
        reachable: False where the budget is below the cheapest calibrated point, which then ran.
        message: says so in words, or that the calls under a soft budget take clearly more work than was calibrated;
            None if there is nothing to say.
        exit: int64 [B], the stage at whose head each sample left, from 0; None for a bundle of one stage.
        decisions: what was computed for each token, where that was asked for.
        expected: milliseconds, or millijoules, that half of such calls were expected to stay under, where the budget
            depends on the device; None elsewhere.
        deadline_met: whether the answer was there by the call's deadline; None where it had none.
        energy_mj: millijoules of the device from the call's begin to its end, where the budget takes a
            sensor; None elsewhere, and where the sensors did not tell.
        telemetry: what the sensors said last, at most 50 ms before the call's end; None until somebody asked
            ``AdaptiveModel.telemetry`` or for a budget that takes a sensor.
    """

    outputs: dict[str, Array]
    macs_fraction: Array
    latency_ms: float
    budget: Budget | None
    knobs: dict[str, KnobValue]
    reachable: bool
    message: str | None
    exit: Array | None = None
    decisions: Decisions | None = None
    expected: float | None = None
    deadline_met: bool | None = None
    energy_mj: float | None = None
    telemetry: Reading | None = None

    @property
    def target_met(self) -> bool | None:
        """Whether the call kept its deadline, or else its budget; None where neither is one of time or energy."""
        if self.deadline_met is not None or self.budget is None:
            return self.deadline_met
        kind = BUDGET_KINDS[self.budget.kind]
        if not kind.meter.per_call:
            return None
        measured = self.energy_mj if kind.meter.sensor else self.latency_ms
        return None if measured is None else measured <= self.budget.value * kind.factor
