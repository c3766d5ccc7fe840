"""Does a sample's result depend on the others in its batch? Found out by running some alone and together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from adaptrt.export.errors import ExportError
from adaptrt.export.own.derived_network import DerivedNetwork
from adaptrt.models.own import Named
from adaptrt.models.staged_network import StageOutput

SAMPLES = 4
TOLERANCE = 1e-3
"""Largest change of a result, of its size where that is above 1: float32 products differ a little with the batch."""
_TIE = 1e-4


def require_independent(network: DerivedNetwork) -> None:
    """Check that samples are computed each by itself, with everything running and with less.

    Raises:
        ExportError: A result changed beside others; says which, and by how much.
    """
    inputs = network.example_inputs(SAMPLES)
    for way in (0.0, 0.5, 1.0) if network.knob_specs() else (0.0,):
        knobs = _knobs(network, way)
        with torch.no_grad():
            together = network.run_stages(inputs, knobs)
            for sample in range(SAMPLES):
                one = {name: tensor[sample : sample + 1] for name, tensor in inputs.items()}
                alone = network.run_stages(one, knobs)
                if not _near_a_tie(alone):
                    _compare(network, sample, together, alone)


def _knobs(network: DerivedNetwork, way: float) -> Named:
    """Every knob this share of the way from everything to least."""
    knobs = {}
    for spec in network.knob_specs():
        least = spec.minimum if spec.default == spec.maximum else spec.maximum
        value = spec.default + way * (least - spec.default)
        knobs[spec.name] = torch.full(spec.shape, value, dtype=torch.float32).to(getattr(torch, spec.dtype))
    return knobs


def _near_a_tie(stages: list[StageOutput]) -> bool:
    """Whether a decision may fall the other way by rounding."""
    margins = [decision.margin for stage in stages for decision in stage.decisions]
    return any(margin.numel() and float(margin.abs().min()) <= _TIE for margin in margins)


def _compare(network: DerivedNetwork, sample: int, together: list[StageOutput], alone: list[StageOutput]) -> None:
    for number, (given, wanted) in enumerate(zip(together, alone, strict=True)):
        for name, expected in _results(wanted).items():
            change = _change(_results(given)[name][sample], expected[0])
            if not change <= TOLERANCE:
                raise ExportError(
                    f"got {name} of {type(network.network).__name__} after stage {number} in which sample {sample} "
                    f"changed by {change:.0e} beside others, expected none to depend on its batch; let no rule and no "
                    "statistic look at the batch, mask padding, and leave rows alone that valid does not mark"
                )


def _results(stage: StageOutput) -> Mapping[str, Tensor]:
    sure = {} if stage.confidence is None else {"sure": stage.confidence}
    return {**stage.outputs, **sure, "macs_fraction": stage.macs_fraction}


def _change(given: Tensor, wanted: Tensor) -> float:
    one, other = given.numpy().astype(np.float64), wanted.numpy().astype(np.float64)
    if one.shape != other.shape:
        return float("inf")
    size = max(1.0, float(np.abs(other[np.isfinite(other)]).max(initial=0.0)))
    with np.errstate(invalid="ignore"):
        difference = np.where(one == other, 0.0, np.abs(one - other))
    largest = float(difference.max(initial=0.0))
    return float("inf") if np.isnan(largest) else largest / size
