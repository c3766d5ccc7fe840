"""Do the graphs compute what torch computed? Decisions teacher-forced, outputs, work counted, batches.

The reference's decisions are fed to the graphs, so that hidden states are the same, and each gate's and
selector's own decision is compared there. A decision may differ only in a tie. Free-running agreement,
where one tie may change what follows, is reported beside it. All stages run on all samples: leaving
early drops rows, and a row's result does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptrt.export.errors import ParityError
from adaptrt.export.parity.reference import Reference, StageValues
from adaptrt.export.parity.stage_graphs import StageGraphs

TIE = 1e-4  # a decision whose comparison is closer than this may fall either way
OUTPUT_TOLERANCE = 1e-4
MACS_TOLERANCE = 1e-6

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ParityRow:
    """Comparison at one setting of the knobs and one batch size.

    Attributes:
        knobs: The knobs' values, those at their defaults left out.
        batch: Batch size.
        samples: Samples compared.
        decisions: Decisions (one per gate and token, one per selection and token) compared, teacher-forced.
        flips: Decisions that differ outside ties.
        ties: Decisions that differ in a tie.
        max_output_error: Largest absolute difference of the outputs of any stage under the same decisions.
        max_confidence_error: Likewise of confidences; 0 where there are none.
        max_macs_error: Likewise of ``macs_fraction``.
        agreeing: Share of samples whose free-running work equals the reference's.
        unexplained: Samples whose free-running work differs though no decision of theirs is near a tie.
        free_output_error: Largest absolute difference of the last outputs, free-running, over the samples with no
            decision near a tie.
    """

    knobs: dict[str, float | list[float]]
    batch: int
    samples: int
    decisions: int
    flips: int
    ties: int
    max_output_error: float
    max_confidence_error: float
    max_macs_error: float
    agreeing: float
    unexplained: int
    free_output_error: float

    @property
    def price(self) -> float:
        """The price; NaN where the model has none."""
        price = self.knobs.get("price", float("nan"))
        return price[0] if isinstance(price, list) else price

    def failures(self) -> list[str]:
        """What is out of tolerance, in words; empty if nothing."""
        failures = []
        if not self.samples:
            failures.append("0 samples were compared, expected at least 1")
        if self.flips:
            failures.append(f"{self.flips} of {self.decisions} decisions differ outside ties, expected 0")
        if self.unexplained:
            failures.append(f"{self.unexplained} samples differ free-running without a tie, expected 0")
        for name, error, limit in (
            ("outputs", self.max_output_error, OUTPUT_TOLERANCE),
            ("confidences", self.max_confidence_error, OUTPUT_TOLERANCE),
            ("free-running outputs", self.free_output_error, OUTPUT_TOLERANCE),
            ("macs_fraction", self.max_macs_error, MACS_TOLERANCE),
        ):
            if not error <= limit:
                failures.append(f"{name} differ by {error:.2e}, expected at most {limit:.0e}")
        return failures


@dataclass(frozen=True)
class ParityReport:
    """All rows of a parity check."""

    rows: list[ParityRow]

    @property
    def passed(self) -> bool:
        """Whether something was compared and everything was within its tolerance."""
        return bool(self.rows) and not any(row.failures() for row in self.rows)

    def require(self, what: str) -> ParityReport:
        """Give the report back if it passed.

        Raises:
            ParityError: Nothing was compared, or something was out of tolerance.
        """
        if not self.rows:
            raise ParityError(f"{what}: nothing was compared, expected at least one setting and one input")
        for row in self.rows:
            if failures := row.failures():
                knobs = ", ".join(f"{name} {_short(value)}" for name, value in row.knobs.items()) or "defaults"
                raise ParityError(
                    f"{what}: at {knobs}, batch {row.batch}: {'; '.join(failures)}; "
                    "do not deploy this file, export again or report the model"
                )
        return self


def compare(graphs: StageGraphs, reference: Reference, tie: float = TIE) -> ParityRow:
    """Compare graphs with one run of the torch network; decisions closer than ``tie`` may fall either way.

    Raises:
        ParityError: The reference is of other graphs.
    """
    if (len(reference.k), len(reference.kept)) != (graphs.gates, graphs.selections):
        raise ParityError(
            f"the reference has {len(reference.k)} gates and {len(reference.kept)} selections, expected "
            f"{graphs.gates} and {graphs.selections} as in the graph"
        )
    if len(reference.stages) != len(graphs.stages):
        raise ParityError(f"the reference has {len(reference.stages)} stages, expected {len(graphs.stages)}")
    forced, free = graphs.run(reference, forced=True), graphs.run(reference, forced=False)
    batch = reference.samples
    shape = (graphs.gates, -1)
    flips, ties = 0, 0
    if graphs.gates and batch:
        margin = reference.margin.reshape(graphs.gates, -1, reference.margin.shape[-1])
        flips, ties = count_flips(forced.k.reshape(shape), reference.k.reshape(shape), margin, tie)
    differ = forced.kept != reference.kept
    outside = differ & (np.abs(reference.selection_margin) > tie)
    agreeing = np.abs(free.stages[-1].macs_fraction - reference.macs_fraction) <= MACS_TOLERANCE
    clear = reference.clear(tie)
    # What a graph does not disclose cannot be forced either: there a tie excuses the whole sample.
    same = reference.undisclosed > tie if len(reference.undisclosed) else np.ones(batch, bool)
    stages = list(zip(forced.stages, reference.stages, strict=True))
    return ParityRow(
        knobs={name: _plain(value) for name, value in reference.knobs.items()},
        batch=batch,
        samples=batch,
        decisions=int((reference.k >= 0).sum() + reference.selection_margin.size),
        flips=flips + int(outside.sum()),
        ties=ties + int((differ & ~outside).sum()),
        max_output_error=max(_outputs_error(got, want, same) for got, want in stages),
        max_confidence_error=max(
            0.0
            if want.confidence is None
            else np.inf
            if got.confidence is None
            else _largest((got.confidence - want.confidence)[same])
            for got, want in stages
        ),
        max_macs_error=max(_largest((got.macs_fraction - want.macs_fraction)[same]) for got, want in stages),
        agreeing=float(agreeing.mean()) if batch else 0.0,
        unexplained=int((clear & ~agreeing).sum()),
        free_output_error=_outputs_error(free.stages[-1], reference.stages[-1], clear),
    )


def tie_allowed(reference: Reference, defaults: Mapping[str, Array]) -> float:
    """How near a tie excuses a difference: not at all where everything has to run."""
    at_default = all(np.array_equal(value, defaults[name]) for name, value in reference.knobs.items())
    return 0.0 if at_default else TIE


def count_flips(
    chosen: npt.NDArray[np.int32], wanted: npt.NDArray[np.int32], margin: Floats, tie: float = TIE
) -> tuple[int, int]:
    """Count decisions that differ, outside ties and in ties.

    A difference between k and k' is a tie if every comparison between them is: |margin| <= tie for
    all n from min(k, k') up to max(k, k').

    Args:
        chosen: int32 ``[L, T]``.
        wanted: int32 ``[L, T]``.
        margin: The reference's margins, ``[L, T, N]``, or ``[L, T, 1]`` for an argmax gate.
        tie: Largest margin that excuses a difference.

    Raises:
        ParityError: The shapes do not fit together.
    """
    if chosen.shape != wanted.shape or margin.shape[:2] != wanted.shape:
        raise ParityError(f"got decisions of shape {chosen.shape}, expected {wanted.shape}")
    low, high = np.minimum(chosen, wanted)[..., None], np.maximum(chosen, wanted)[..., None]
    n = np.arange(margin.shape[-1])
    crossed = (n >= low) & (n < high) if margin.shape[-1] > 1 else low != high
    outside = (crossed & (np.abs(margin) > tie)).any(-1)
    differ = chosen != wanted
    # A difference that no margin accounts for (k beyond the learners) is a flip too.
    flips = differ & (outside | ~crossed.any(-1))
    return int(flips.sum()), int((differ & ~flips).sum())


def merge_rows(rows: Sequence[ParityRow]) -> ParityRow:
    """Join rows of the same knobs and batch size into one, worst values kept."""
    samples = sum(row.samples for row in rows)
    return replace(
        rows[0],
        samples=samples,
        decisions=sum(row.decisions for row in rows),
        flips=sum(row.flips for row in rows),
        ties=sum(row.ties for row in rows),
        max_output_error=max(row.max_output_error for row in rows),
        max_confidence_error=max(row.max_confidence_error for row in rows),
        max_macs_error=max(row.max_macs_error for row in rows),
        agreeing=sum(row.agreeing * row.samples for row in rows) / max(samples, 1),
        unexplained=sum(row.unexplained for row in rows),
        free_output_error=max(row.free_output_error for row in rows),
    )


def largest_difference(one: Array, other: Array, rows: npt.NDArray[np.bool_]) -> float:
    """Largest absolute difference over some of the samples; infinite where shapes differ or NaN is met, 0 for nothing.

    Args:
        one: ``[B, ...]``.
        other: Likewise.
        rows: Which samples count, ``[B]``.
    """
    if one.shape != other.shape:
        return float("inf")
    return _largest(one[rows].astype(np.float64) - other[rows].astype(np.float64))


def _outputs_error(got: StageValues, want: StageValues, rows: npt.NDArray[np.bool_]) -> float:
    return max(largest_difference(got.outputs[name], value, rows) for name, value in want.outputs.items())


def _largest(difference: Array) -> float:
    """Largest absolute value; NaN counts as infinite, nothing as 0."""
    if not difference.size:
        return 0.0
    largest = float(np.abs(difference).max())
    return largest if np.isfinite(largest) else float("inf")


def _plain(value: Array) -> float | list[float]:
    return float(value[0]) if value.size == 1 else [float(v) for v in value]


def _short(value: float | list[float]) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "[" + ", ".join(f"{v:.4g}" for v in value) + "]"
