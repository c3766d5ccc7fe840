"""Does a sample's result depend on the others in its batch? Found out by running some alone and beside others.

The others differ in one set of inputs at a time, then in all of them: so a dependence in one set is seen by itself,
whatever the other sets do, and is told by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adaptrt.export.errors import ExportError
from adaptrt.export.own.declaration import Declaration
from adaptrt.export.own.derivation import SIZE
from adaptrt.export.own.derived_network import DerivedNetwork
from adaptrt.models.families.gate import Decision
from adaptrt.models.own import Named
from adaptrt.models.staged_network import StageOutput
from adaptrt.models.tokens import Selection

SAMPLES = 4
TOLERANCE = 1e-3
"""Largest change of a result, of its size where that is above 1: float32 products differ a little with the batch."""
_TIE = 1e-4


@dataclass(frozen=True)
class _Neighbours:
    """What differs between a sample and the others in its batch.

    Attributes:
        inputs: Names; the others are copies of the sample in what is not among them.
        text: The same for messages.
        shorter: A mask of real rows; half of its real rows go, of the sample or of the others. None: none go.
        sample_shorter: Whether they go of the sample.
    """

    inputs: frozenset[str]
    text: str
    shorter: str | None = None
    sample_shorter: bool = False


def require_independent(network: DerivedNetwork) -> None:
    """Check that samples are computed each by itself, with everything running and with less.

    Compared are the network's outputs, how sure it is, its share of work, and the state that goes on, each by its own
    size: what is small in the outputs can be all there is in one set of rows.

    Raises:
        ExportError: A result changed beside others, says which, beside what, and by how much; or nothing could be
            compared, as decisions fell otherwise at a tie in every sample.
    """
    inputs = network.example_inputs(SAMPLES)
    for way in (0.0, 0.5, 1.0) if network.knob_specs() else (0.0,):
        knobs = _knobs(network, way)
        for neighbours in _kinds(network.declaration):
            compared = [_compare(network, inputs, sample, neighbours, knobs) for sample in range(SAMPLES)]
            if not any(compared):
                raise ExportError(
                    f"got takes of {type(network.network).__name__} that fall otherwise{_beside(neighbours)} in every "
                    "sample, each at a tie, so that nothing can be compared, expected scores that differ from the "
                    "threshold; let example give such, or the score"
                )


def input_sets(declaration: Declaration) -> dict[str, frozenset[str]]:
    """Inputs that belong together: those with a named axis, by its name; each other one alone, by its own name."""
    sets: dict[str, set[str]] = {}
    for name, shape in declaration.shapes.items():
        axes = [size for size in shape[1:] if isinstance(size, str)]
        for key in axes or [name]:
            sets.setdefault(key, set()).add(name)
    return {key: frozenset(names) for key, names in sets.items()}


def _kinds(declaration: Declaration) -> Iterator[_Neighbours]:
    """Each set by itself where there are several, with fewer real rows on either side if it has padding; then all."""
    sets = input_sets(declaration)
    for key, names in sets.items() if len(sets) > 1 else ():
        text, mask = ", ".join(name for name in declaration.shapes if name in names), declaration.padding.get(key)
        yield _Neighbours(names, text, mask)
        if mask is not None:
            yield _Neighbours(names, text, mask, sample_shorter=True)
    yield _Neighbours(frozenset(declaration.shapes), "")


def _compare(network: DerivedNetwork, inputs: Named, sample: int, neighbours: _Neighbours, knobs: Named) -> bool:
    """Whether a sample could be compared: not where rounding made a decision fall otherwise.

    Raises:
        ExportError: It changed.
    """
    batch = _batch(inputs, sample, neighbours)
    with torch.no_grad():
        alone = network.run_stages({name: tensor[:1] for name, tensor in batch.items()}, knobs)
        together = network.run_stages(batch, knobs)
    for number, (given, wanted) in enumerate(zip(together, alone, strict=True)):
        if _fell_at_a_tie(given, wanted):
            return False
        for name, (result, expected) in _results(network, number, given, wanted).items():
            change = _change(result, expected)
            if not change <= TOLERANCE:
                raise ExportError(
                    f"got {name} of {type(network.network).__name__} after stage {number} in which sample {sample} "
                    f"changed by {change:.0e}{_beside(neighbours)}, expected none to depend on its batch; let no rule "
                    "and no statistic look at the batch, mask padding, and leave rows alone that valid does not mark"
                )
    return True


def _beside(neighbours: _Neighbours) -> str:
    return f" beside others that differ in {neighbours.text} alone" if neighbours.text else " beside others"


def _batch(inputs: Named, sample: int, neighbours: _Neighbours) -> Named:
    """The sample first, then as many others as there are."""
    order = torch.tensor([sample, *(other for other in range(SAMPLES) if other != sample)])
    copies = torch.full_like(order, sample)
    batch = {name: tensor[order if name in neighbours.inputs else copies] for name, tensor in inputs.items()}
    if neighbours.shorter is not None:
        real = batch[neighbours.shorter]
        first = real & (real.cumsum(1) <= (real.sum(1, keepdim=True) + 1) // 2)
        cut = (torch.arange(SAMPLES) == 0) == neighbours.sample_shorter
        batch[neighbours.shorter] = torch.where(cut[:, None], first, real)
    return batch


def _knobs(network: DerivedNetwork, way: float) -> Named:
    """Every knob this share of the way from everything to least."""
    knobs = {}
    for spec in network.knob_specs():
        least = spec.minimum if spec.default == spec.maximum else spec.maximum
        value = spec.default + way * (least - spec.default)
        knobs[spec.name] = torch.full(spec.shape, value, dtype=torch.float32).to(getattr(torch, spec.dtype))
    return knobs


def _fell_at_a_tie(given: StageOutput, wanted: StageOutput) -> bool:
    """Whether the first decision of a stage that differs in the first sample does so at ties alone."""
    for one, other in zip(given.decisions, wanted.decisions, strict=True):
        taken, expected = _taken(one), _taken(other)
        if not torch.equal(taken[: len(expected)], expected):
            return bool((other.margin[0][taken[: len(expected)] != expected].abs() <= _TIE).all())
    return False


def _taken(decision: Decision | Selection) -> Tensor:
    """Which rows were taken of the first sample, bool ``[K]``."""
    assert isinstance(decision, Selection)  # a user's network discloses no gates
    taken = torch.zeros(decision.margin.shape[1], dtype=torch.bool)
    taken[decision.index[0, : int(decision.count[0])].to(torch.int64)] = True
    return taken


def _results(
    network: DerivedNetwork, number: int, given: StageOutput, wanted: StageOutput
) -> Mapping[str, tuple[Tensor, Tensor]]:
    """What a stage gives for the first sample in both runs, of the state the rows that are there in both."""
    results = {name: (given.outputs[name][0], tensor[0]) for name, tensor in wanted.outputs.items()}
    for name, one, other in (
        ("sure", given.confidence, wanted.confidence),
        ("macs_fraction", given.macs_fraction, wanted.macs_fraction),
    ):
        if one is not None and other is not None:
            results[name] = one[0], other[0]
    for call, (decision, alone) in enumerate(zip(given.decisions, wanted.decisions, strict=True)):
        expected = _taken(alone)
        results[f"the rows that take {call} takes"] = _taken(decision)[: len(expected)], expected
    last = number + 1 == len(network.stage_names)
    for spec in () if last else network.carried_state(number + 1):
        one, other = given.carried[spec.source][0], wanted.carried[spec.source][0]
        if any(isinstance(axis, str) and axis.startswith(SIZE.format("")) for axis in spec.tensor.shape):
            continue  # which of its places are the sample's nobody knows
        # A sample alone has its own rows only; beside others there may be padding behind them.
        results[f"the state {spec.source.removeprefix('next_')!r}"] = (
            one[tuple(slice(size) for size in other.shape)],
            other,
        )
    return results


def _change(given: Tensor, wanted: Tensor) -> float:
    one, other = given.numpy().astype(np.float64), wanted.numpy().astype(np.float64)
    if one.shape != other.shape:
        return float("inf")
    size = max(1.0, float(np.abs(other[np.isfinite(other)]).max(initial=0.0)))
    with np.errstate(invalid="ignore"):
        difference = np.where(one == other, 0.0, np.abs(one - other))
    largest = float(difference.max(initial=0.0))
    return float("inf") if np.isnan(largest) else largest / size
