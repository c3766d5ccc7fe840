"""What a user's own network is for, by its judge: quality and loss of each sample."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaptrt.models.own import Adaptive, Judge
from adaptrt.models.tasks import CLASSIFICATION, Judged, Task, TaskError, closeness
from adaptrt.models.tasks.task import Array, Outputs

OWN_TASK = "own"


def own_task(network: Adaptive, outputs: Sequence[str]) -> Task:
    """The task of a network: classification where ``logits`` are all it gives and it has no judge of its own."""
    names = tuple(outputs)
    if network.judge is None and names == CLASSIFICATION.outputs:
        return CLASSIFICATION
    judge = _OwnJudge(type(network).__name__, names, _unbound(network))
    return Task(OWN_TASK, names, "accuracy" if network.judge is None else "quality", judge, closeness)


def _unbound(network: Adaptive) -> Judge | None:
    """The judge as it is called: a function of two arguments that stands in a class is no method."""
    plain = inspect.getattr_static(network, "judge")
    if inspect.isfunction(plain) and len(inspect.signature(plain).parameters) == 2:
        return plain
    return network.judge


@dataclass(frozen=True)
class _OwnJudge:
    """The user's judge, with what it gives checked; without one, classification of an output ``logits``."""

    kind: str
    names: tuple[str, ...]
    judge: Judge | None

    def __call__(self, outputs: Outputs, targets: Array) -> Judged:
        """Judge n samples.

        Raises:
            TaskError: There is nothing to judge by, or the judge gives something else than numbers.
        """
        answers = {name: outputs[name] for name in self.names}
        if self.judge is None:
            if "logits" not in answers:
                raise TaskError(
                    f"got labels and no judge for the outputs {', '.join(self.names)} of {self.kind}, expected judge, "
                    "or an output logits [batch, classes]; write judge(outputs, targets), or export with --no-calibrate"
                )
            return CLASSIFICATION.judge(answers, targets)
        try:
            quality, loss = (np.asarray(each, np.float64) for each in self.judge(answers, {"labels": targets}))
        except Exception as error:  # the user's code raises what it likes
            raise TaskError(
                f"{self.kind}.judge raised {type(error).__name__}: {error}; expected quality and loss of each sample"
            ) from error
        for name, given in (("quality", quality), ("loss", loss)):
            if given.shape != (len(targets),) or not np.isfinite(given).all():
                raise TaskError(
                    f"{self.kind}.judge gave {name} of shape {list(given.shape)}, expected a finite number for each of "
                    f"{len(targets)} samples"
                )
        return Judged(quality.astype(np.float32), loss.astype(np.float32))
