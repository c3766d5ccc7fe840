"""What every stage says of every sample, recorded in one pass; all exit thresholds are then judged in numpy.

A sample's result never depends on its batch-mates, so where it would have left under any thresholds, at
which cost and with which prediction, follows from one run in which nobody leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from adaptrt.export.calibration.exit_thresholds import exits_taken
from adaptrt.export.calibration.worker_process import Call
from adaptrt.export.calibration.workers import Workers
from adaptrt.export.errors import CalibrationError
from adaptrt.models.data.padding import InputShape, Rows, lengths, mask_name, only_axis
from adaptrt.models.tasks import TASKS, Task, TaskError, closeness, task_of
from adaptrt.models.tasks.task import Outputs
from adaptrt.runtime.bundle.schema import CONFIDENCE_OUTPUT, MACS_OUTPUT, Bundle, KnobValue

if TYPE_CHECKING:
    from adaptrt.models.data.split import Split

Array = npt.NDArray[Any]
Knobs = dict[str, KnobValue]
"""Values to feed, by knob: one number, or a list of as many as the knob has."""

BATCH = 64


class StagedModel(Protocol):
    """What calibration needs of a loaded bundle; ``adaptrt.runtime.AdaptiveModel`` is one."""

    @property
    def bundle(self) -> Bundle:
        """What ``bundle.json`` says."""
        ...

    def run(self, inputs: Mapping[str, Array], *, knobs: Any = None, decisions: bool = False) -> Any:
        """Run a batch; see ``AdaptiveModel.run``."""
        ...

    def run_stages(self, inputs: Mapping[str, Array], *, knobs: Any = None) -> list[dict[str, Array]]:
        """Run every stage on all samples; see ``AdaptiveModel.run_stages``."""
        ...


@dataclass(frozen=True)
class StageRecords:
    """What the stages said of n samples when nobody left.

    Attributes:
        confidence: float32 ``[stages, n]``; NaN in a bundle of one stage, which has none.
        quality: The task's metric, float32 ``[stages, n]``; higher is better.
        loss: The task's loss, float32 ``[stages, n]``, computed in float64; cross-entropy in nats of classifiers.
        macs_fraction: Share of the dense model's work up to the stage, float32 ``[stages, n]``.
    """

    confidence: npt.NDArray[np.float32]
    quality: npt.NDArray[np.float32]
    loss: npt.NDArray[np.float32]
    macs_fraction: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        shapes = {array.shape for array in (self.confidence, self.quality, self.loss, self.macs_fraction)}
        if len(shapes) != 1 or self.confidence.ndim != 2 or not self.confidence.size:
            raise ValueError(f"got records of shapes {sorted(shapes)}, expected one shape [stages, samples]")

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.confidence)

    def outcome(self, thresholds: Sequence[float] | Array | None = None) -> Outcome:
        """What the samples cost and give under exit thresholds ``[stages - 1]``; None: nobody leaves early."""
        samples = np.arange(self.confidence.shape[1])
        if thresholds is None:
            exits = np.full(len(samples), self.stages - 1)
        else:
            exits = exits_taken(self.confidence, np.asarray(thresholds, np.float32))
        return Outcome(
            cost=float(self.macs_fraction[exits, samples].mean(dtype=np.float64)),
            loss=float(self.loss[exits, samples].mean(dtype=np.float64)),
            qualities=self.quality[exits, samples],
        )


@dataclass(frozen=True)
class Outcome:
    """What samples cost and gave under some knobs.

    Attributes:
        cost: Mean share of the dense model's work.
        loss: The task's mean loss.
        qualities: The task's metric of each sample, float32 ``[n]``.
    """

    cost: float
    loss: float
    qualities: npt.NDArray[np.float32]

    @property
    def quality(self) -> float:
        """The mean over the samples."""
        return float(self.qualities.sum(dtype=np.float64)) / len(self.qualities)

    def error_against(self, other: Outcome) -> float:
        """Standard error of the difference between the two qualities, sample by sample."""
        difference = self.qualities.astype(np.float64) - other.qualities
        return float(difference.std() / math.sqrt(len(difference)))


def record_stages(model: StagedModel, split: Split, knobs: Knobs, task: Task | None = None) -> StageRecords:
    """Run a bundle over a split once; see ``record_passes``."""
    return next(record_passes(model, split, [knobs], task))


def record_passes(
    model: StagedModel, split: Split, passes: Sequence[Knobs], task: Task | None = None
) -> Iterator[StageRecords]:
    """Run a bundle over a split, exits off, in batches of ``BATCH``, texts with such of about their length.

    Args:
        model: The bundle. Where it is loaded by several processes, they run batches of the passes to come as well.
        split: Inputs and targets.
        passes: Values to feed in each.
        task: What judges the outputs; None: the bundle's own.

    Yields:
        What each pass recorded.

    Raises:
        CalibrationError: The split's inputs or targets do not fit the bundle, or nothing can judge its outputs.
        InputError: A knob does not take its value.
    """
    task = task or bundle_task(model.bundle)
    # The longest texts first: the memory that they take serves the others, and the last batch to end is a short one.
    given = list(batches_by_length(model.bundle, split_feeds(model.bundle.inputs, split)))[::-1]
    back = np.argsort(np.concatenate([rows for rows, _ in given]))
    answers = run_calls(
        model, (Call("run_stages", inputs, {"knobs": knobs}) for knobs in passes for _, inputs in given)
    )
    for _ in passes:
        batches: list[list[tuple[Array, ...]]] = []
        for (rows, _), stages in zip(given, answers, strict=False):
            batches.append([_judged(task, stage, split.labels[rows]) for stage in stages])
        columns = [
            np.stack(
                [np.concatenate([batch[stage][part] for batch in batches])[back] for stage in range(len(batches[0]))]
            )
            for part in range(4)
        ]
        yield StageRecords(*columns)


def run_calls(model: StagedModel, calls: Iterable[Call]) -> Iterator[Any]:
    """What calls of a model's methods give, in their order; several at once where several processes have the model."""
    if isinstance(model, Workers):
        return model.answers(calls)
    return (call.on(model) for call in calls)


def batches_by_length(bundle: Bundle, feeds: Mapping[str, Array]) -> Iterator[tuple[Rows, dict[str, Array]]]:
    """Batches of ``BATCH`` samples: their numbers, and their inputs.

    Texts come with such of about their length, cut to the longest: padding costs as much as words do. Where every token
    has an answer, or nothing marks what is real, they stay as they are.
    """
    axis = only_axis(bundle.inputs)
    mask = None if any(axis in spec.shape for spec in bundle.outputs) else mask_name(bundle.inputs, axis)
    count = len(next(iter(feeds.values())))
    long = None if mask is None or axis is None else np.maximum(lengths(feeds[mask]), bundle.axes[axis].shortest)
    order = np.arange(count) if long is None else np.argsort(long, kind="stable")
    for start in range(0, count, BATCH):
        rows = order[start : start + BATCH]
        inputs = {name: array[rows] for name, array in feeds.items()}
        if long is not None:
            end = int(long[rows].max())
            for spec in bundle.inputs:
                if axis in spec.shape:
                    cut = tuple(slice(end) if size == axis else slice(None) for size in spec.shape)
                    inputs[spec.name] = np.ascontiguousarray(inputs[spec.name][cut])
        yield rows, inputs


def split_feeds(specs: Sequence[InputShape], split: Split) -> dict[str, Array]:
    """A split's inputs as a bundle takes them: by name, whole numbers converted where it computes in fractions.

    Raises:
        CalibrationError: Names, shapes or types do not fit.
    """
    given = split.named(specs[0].name)
    if sorted(given) != sorted(spec.name for spec in specs):
        raise CalibrationError(
            f"got data for {', '.join(given)}, expected it for the inputs {', '.join(spec.name for spec in specs)}; "
            f"give an array for each, such as calibration_{specs[-1].name} in an .npz file"
        )
    feeds = {}
    for spec in specs:
        array = given[spec.name]
        if len(array.shape) != len(spec.shape) or any(
            isinstance(size, int) and size != got for size, got in zip(spec.shape, array.shape, strict=True)
        ):
            raise CalibrationError(
                f"got inputs of shape {list(array.shape)}, expected {spec.shape} as input {spec.name}; give data of "
                "that shape"
            )
        if not np.can_cast(array.dtype, spec.dtype, casting="same_kind"):
            raise CalibrationError(
                f"got {array.dtype} data, expected {spec.dtype} as input {spec.name}; give data of that type"
            )
        feeds[spec.name] = array.astype(spec.dtype, copy=False)
    return feeds


def bundle_task(bundle: Bundle) -> Task:
    """What judges a bundle's outputs.

    Raises:
        CalibrationError: Nothing here can.
    """
    task = task_of(bundle.task, {spec.name: spec.shape for spec in bundle.outputs})
    if task is None:
        raise CalibrationError(
            f"got labels for the task {bundle.task!r} of bundle {bundle.name!r}, expected one of {', '.join(TASKS)}: "
            "what judges this network's outputs is in its own code; export it again with the data"
        )
    return task


def agreement(bundle: Bundle) -> Callable[[Outputs, Outputs], npt.NDArray[np.float32]]:
    """How far two answers of a bundle are the same: by its task, or where none is known by how close they are."""
    task = task_of(bundle.task, {spec.name: spec.shape for spec in bundle.outputs})
    return closeness if task is None else task.agreement


def _judged(task: Task, stage: Outputs, targets: Array) -> tuple[Array, ...]:
    """Confidence, quality, loss and work of one batch at one stage, each ``[B]``.

    Raises:
        CalibrationError: The outputs cannot be judged by these targets.
    """
    try:
        judged = task.judge(stage, targets)
    except TaskError as error:
        raise CalibrationError(str(error)) from error
    confidence = stage.get(CONFIDENCE_OUTPUT, np.full(len(targets), np.nan))
    macs = stage[MACS_OUTPUT].astype(np.float32)
    return confidence.astype(np.float32), judged.quality, judged.loss, macs
