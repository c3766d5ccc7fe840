"""How far prepared graphs are from the bundle on its golden inputs, free-running: decisions, outputs, answers.

A decision near its threshold falls the other way when its inputs are rounded, and what follows goes on from
there. That is no error, but it has to be counted, and the predictions have to stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from adaptrt.export.calibration.exit_thresholds import exits_taken
from adaptrt.export.calibration.stage_records import agreement
from adaptrt.export.errors import ExportError
from adaptrt.export.parity.comparison import TIE, largest_difference
from adaptrt.export.parity.reference import GOLDEN_FILE, Reference, StageValues, read_golden
from adaptrt.export.parity.stage_graphs import GraphRun, StageFile, StageGraphs
from adaptrt.runtime.bundle.schema import Bundle

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class QualityRow:
    """Prepared graphs beside the bundle's at one setting of the knobs.

    Attributes:
        knobs: Values of the golden run.
        samples: Golden inputs.
        quality: How far the answers, over samples and stages, are torch's, in 0..1: for classifiers the share of
            predictions that are the same (see ``Task.agreement``).
        reference_quality: The same of the bundle's own graphs.
        decisions: Decisions made by both: learners per token, tokens kept, and exits at thresholds that half of the
            samples pass.
        learner_flips: Tokens that run another number of learners.
        token_flips: Tokens kept by one and not by the other.
        exit_flips: Samples that leave at another exit.
        largest_difference: Between outputs.
        clear_difference: Likewise, over the samples of which no decision is near a tie.
    """

    knobs: dict[str, list[float]]
    samples: int
    quality: float
    reference_quality: float
    decisions: int
    learner_flips: int
    token_flips: int
    exit_flips: int
    largest_difference: float
    clear_difference: float

    @property
    def flips(self) -> int:
        """Decisions that differ."""
        return self.learner_flips + self.token_flips + self.exit_flips


@dataclass(frozen=True)
class QualityReport:
    """All settings of the golden runs."""

    rows: list[QualityRow]

    @property
    def quality(self) -> float:
        """Mean over the settings."""
        return float(np.mean([row.quality for row in self.rows]))

    @property
    def reference_quality(self) -> float:
        """Mean over the settings."""
        return float(np.mean([row.reference_quality for row in self.rows]))

    @property
    def flip_rate(self) -> float | None:
        """Share of all decisions; None where the graphs disclose none."""
        decisions = sum(row.decisions for row in self.rows)
        return sum(row.flips for row in self.rows) / decisions if decisions else None

    @property
    def largest_difference(self) -> float:
        """Between outputs, over all settings."""
        return max(row.largest_difference for row in self.rows)


def require_quality(
    what: str, quality: float, reference_quality: float, flip_rate: float | None, max_drop: float
) -> None:
    """Refuse a quality that is more than ``max_drop`` below the bundle's.

    Raises:
        ExportError: It is, or it is no number.
    """
    if not reference_quality - quality <= max_drop:
        flips = "" if flip_rate is None else f", with {flip_rate:.1%} of the decisions otherwise"
        raise ExportError(
            f"{what} predicts {quality:.1%} of the golden outputs{flips}, expected at most {max_drop:.1%} less than "
            f"the bundle's {reference_quality:.1%}; nothing was written: use --precision fp32 or raise "
            "--max-quality-drop"
        )


def compare_quality(
    folder: Path,
    bundle: Bundle,
    original: Sequence[onnx.ModelProto],
    prepared: Sequence[onnx.ModelProto],
    open_session: Callable[[onnx.ModelProto], Any] | None = None,
) -> QualityReport:
    """Run both on all golden inputs and settings.

    Args:
        folder: Of the bundle.
        bundle: As read from there.
        original: Its stages' graphs, with bodies.
        prepared: What they became, as ONNX Runtime can run it.
        open_session: Another engine that runs ``prepared``; see ``StageGraphs``.

    Raises:
        ExportError: ``golden.npz`` is missing or damaged.
        ParityError: A graph does not run.
    """
    golden = folder / GOLDEN_FILE
    if not golden.is_file():
        raise ExportError(f"{folder} has no {GOLDEN_FILE}, expected the runs to compare with; export the bundle again")
    defaults = {knob.name: np.full(knob.shape, knob.default, knob.dtype) for knob in bundle.knobs}
    portable, other = _graphs(bundle, original, defaults), _graphs(bundle, prepared, defaults, open_session)
    rows = [
        _compared(bundle, reference, portable.run(reference, forced=False), other.run(reference, forced=False))
        for reference in read_golden(golden)
    ]
    return QualityReport(rows)


def _graphs(
    bundle: Bundle,
    graphs: Sequence[onnx.ModelProto],
    defaults: Mapping[str, Array],
    open_session: Callable[[onnx.ModelProto], Any] | None = None,
) -> StageGraphs:
    files = [
        StageFile(graph, list(stage.carry), list(stage.decisions))
        for stage, graph in zip(bundle.stages, graphs, strict=True)
    ]
    return StageGraphs(files, defaults, forcible=False, open_session=open_session)


def _compared(bundle: Bundle, reference: Reference, portable: GraphRun, other: GraphRun) -> QualityRow:
    both = (portable.k >= 0) & (other.k >= 0)
    samples = reference.samples
    exits = _exits(portable.stages, portable.stages), _exits(portable.stages, other.stages)
    deciding = samples if len(portable.stages) > 1 else 0
    agreement = [_agreement(bundle, run.stages, reference.stages) for run in (other, portable)]
    pairs = [
        (one.outputs[name], two.outputs[name])
        for one, two in zip(portable.stages, other.stages, strict=True)
        for name in reference.outputs
    ]
    clear = reference.clear(TIE)
    return QualityRow(
        knobs={name: [float(number) for number in value] for name, value in reference.knobs.items()},
        samples=samples,
        quality=agreement[0],
        reference_quality=agreement[1],
        decisions=int(both.sum()) + _selected_from(portable.kept) + deciding,
        learner_flips=int((both & (portable.k != other.k)).sum()),
        token_flips=int((portable.kept != other.kept).sum()),
        exit_flips=int((exits[0] != exits[1]).sum()),
        largest_difference=max(largest_difference(*pair, np.ones(samples, bool)) for pair in pairs),
        clear_difference=max(largest_difference(*pair, clear) for pair in pairs),
    )


def _selected_from(kept: npt.NDArray[np.bool_]) -> int:
    """Tokens that selections ``[S, B, T]`` decided about: those that the one before kept."""
    return int(kept[0].size + kept[:-1].sum()) if len(kept) else 0


def _agreement(bundle: Bundle, stages: Sequence[StageValues], golden: Sequence[StageValues]) -> float:
    """How far answers are torch's; one made of NaN is none."""
    agree = agreement(bundle)
    same = [agree(got.outputs, want.outputs) for got, want in zip(stages, golden, strict=True)]
    return float(np.mean(same))


def _exits(deciding: Sequence[StageValues], stages: Sequence[StageValues]) -> npt.NDArray[np.int64]:
    """Where samples leave, int64 ``[B]``, at thresholds in the middle of what the bundle's own stages say."""
    confidences = [(mine.confidence, his.confidence) for mine, his in zip(deciding[:-1], stages[:-1], strict=True)]
    pairs = [(mine, his) for mine, his in confidences if mine is not None and his is not None]
    if not pairs:
        return np.zeros(len(deciding[0].macs_fraction), np.int64)
    thresholds = np.array([np.median(mine) for mine, _ in pairs], np.float32)
    never = np.zeros_like(pairs[0][1])  # the last stage, where nobody has a choice
    return np.asarray(exits_taken(np.stack([*(his for _, his in pairs), never]), thresholds))
