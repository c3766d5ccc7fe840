"""Phases by layer as jobs that need nothing of each other, and what carries them out.

A job is done when the checkpoint of its phase's end lies in the folder. So an executor hands back nothing else, a job
that is done is never done again, and a run may go on with another executor than it began with.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adaptrt import AdaptrtError
from adaptrt.models.families.acm import AdaptiveFFN
from adaptrt.models.training.activations import Activations
from adaptrt.models.training.layer_phases import distil_phase, gate_phase
from adaptrt.models.training.phase import Progress, Report
from adaptrt.models.training.steps import StepPhase, is_over, run_steps

if TYPE_CHECKING:
    from adaptrt.models.training.adapting import AdaptSettings

Log = list[tuple[int, float]]


class LayerJobError(AdaptrtError):
    """Processes or machines that do not distil layers."""


@dataclass(frozen=True)
class LayerJob:
    """One phase of one block.

    Attributes:
        number: Of the block.
        source: Its FFN in the dense network.
        ffn: The ACM in its place, whose weights the phase changes.
        settings: Of the training.
        quantiles: Of all blocks' gains, ``[512]``: the gate is taught; None: the learners are distilled.
    """

    number: int
    source: nn.Module
    ffn: AdaptiveFFN
    settings: AdaptSettings
    quantiles: Tensor | None = None

    @property
    def kind(self) -> str:
        """What it does, as in its phase's name."""
        return "distil" if self.quantiles is None else "gate"

    def phase(self, kept: Activations) -> StepPhase:
        """The phase on this block's activations; others need not be there."""
        if self.quantiles is None:
            return distil_phase(self.number, self.source, self.ffn, kept, self.settings)
        return gate_phase(self.number, self.source, self.ffn, kept, self.quantiles, self.settings)

    def run(self, kept: Activations, checkpoint: Path, report: Report) -> Log:
        """Run the phase, or what is left of it after its checkpoint.

        Raises:
            CheckpointError: The checkpoint is damaged or another run's.
            TrainingError: A loss is not finite.
        """
        return run_steps(self.phase(kept), seed=self.settings.seed, checkpoint=checkpoint, report=report)

    def packed(self) -> bytes:
        """For another process. Tensors travel inside: torch would pass them as shared memory, which must be freed."""
        return pickle.dumps(self)


class LayerExecutor(ABC):
    """Carries out jobs. Entered before the first of them and left after the last.

    Args:
        threads: Threads of each job: how sums are split among them rounds differently, so that runs are equal bit by
            bit where this number is. None: the executor's own choice.
    """

    def __init__(self, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"got {threads} threads for each layer, expected at least 1")
        self.threads = threads

    def check(self) -> None:  # noqa: B027  # most have nothing to check
        """Find out, within seconds and before any work, whether it can run at all.

        Raises:
            LayerJobError: It cannot.
        """

    def __enter__(self) -> LayerExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027
        """End everything that was started; what is half done goes on from its checkpoint the next time."""

    @abstractmethod
    def run(self, jobs: Sequence[LayerJob], kept: Activations, folder: Path, report: Report) -> None:
        """Leave the checkpoint of every job's end in the folder.

        Args:
            jobs: All of one kind, none of them done; some may have begun.
            kept: Activations of all blocks.
            folder: Of the checkpoints; see ``checkpoint_of``.
            report: Told now and then how far they are.

        Raises:
            LayerJobError: Where the jobs ran is lost.
            CheckpointError: A checkpoint is damaged or another run's.
            TrainingError: A loss is not finite.
        """


class InProcess(LayerExecutor):
    """One job after the other, here, with all of torch's threads."""

    def run(self, jobs: Sequence[LayerJob], kept: Activations, folder: Path, report: Report) -> None:
        """Run them; see the base class."""
        with using_threads(self.threads or torch.get_num_threads()):
            for job in jobs:
                job.run(kept, checkpoint_of(job, folder), report)


def run_jobs(
    jobs: Sequence[LayerJob], kept: Activations, folder: Path, executor: LayerExecutor, report: Report
) -> dict[str, Log]:
    """Have jobs done and take over their weights; those that are done already are not done again.

    Args:
        jobs: All of one kind; afterwards their modules have the weights of the phase's end.
        kept: Activations of all blocks.
        folder: Of the checkpoints.
        executor: Carries them out.
        report: Told how far they are.

    Returns:
        Losses by the phase's name, as ``run_steps`` gives them.

    Raises:
        LayerJobError: Where the jobs ran is lost.
        CheckpointError: A checkpoint is damaged or another run's.
        TrainingError: A loss is not finite.
    """
    left = [job for job in jobs if not is_over(job.phase(kept), checkpoint_of(job, folder))]
    if left:
        executor.run(left, kept, folder, report)
    return {f"{job.kind}{job.number}": job.run(kept, checkpoint_of(job, folder), report) for job in jobs}


def checkpoint_of(job: LayerJob, folder: Path) -> Path:
    """Where a job's checkpoint is."""
    return folder / f"{job.kind}{job.number}.pt"


@contextlib.contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Compute with so many threads within."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class CommonProgress:
    """Several jobs at once as one line of progress: the steps of all, and the mean of their losses.

    Args:
        jobs: All of one kind.
        report: Told of it.
    """

    def __init__(self, jobs: Sequence[LayerJob], report: Report) -> None:
        self._report, self._kind = report, jobs[0].kind
        settings = jobs[0].settings
        self._each = settings.distil_steps if self._kind == "distil" else settings.gate_steps
        self._steps: dict[int, int] = {job.number: 0 for job in jobs}
        self._losses: dict[int, float] = {}
        self._begun, self._resumed = time.monotonic(), 0

    def add(self, number: int, progress: Progress) -> None:
        """How far one block is; its first news says where it began."""
        if number not in self._losses:
            self._resumed += progress.step - 1
        self._steps[number], self._losses[number] = progress.step, progress.loss
        self.tell()

    def over(self, number: int) -> None:
        """One block is done."""
        self._steps[number] = self._each
        self.tell()

    def tell(self) -> None:
        """Say where they stand, also where nothing is new: who listens may want to stop everything."""
        done, steps = sum(self._steps.values()), self._each * len(self._steps)
        speed = max(done - self._resumed, 1) / max(time.monotonic() - self._begun, 1e-3)
        loss = sum(self._losses.values()) / len(self._losses) if self._losses else math.nan
        name = f"{self._kind} {len(self._steps)} layers"
        self._report(Progress(name, done, steps, loss, None, (steps - done) / speed))


def unpacked(content: bytes) -> LayerJob:
    """What ``LayerJob.packed`` packed; never of a file, which could be anybody's."""
    job: Any = pickle.loads(content)
    assert isinstance(job, LayerJob)
    return job
