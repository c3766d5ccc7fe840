"""Exit heads: logits and a confidence at the end of a stage.

Criteria, each a confidence of which higher is surer; a sample leaves where it is strictly above the
stage's threshold:

- ``max_softmax``: the largest probability (BranchyNet, MSDNet, arXiv 1703.09844).
- ``entropy``: 1 - H / ln(classes) (BranchyNet, arXiv 1709.01686).
- ``certainty``: a learned probability of being right (BERxiT, EACL 2021).
- ``patience``: how many heads before this one, in a row, agree with it (PABEE, arXiv 2006.04152).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from adaptrt.models.families.family import Family
from adaptrt.models.tasks import TASKS

if TYPE_CHECKING:
    from adaptrt.models.encoder_config import EncoderConfig

CRITERIA = ("max_softmax", "entropy", "certainty", "patience")


@dataclass(frozen=True)
class ExitConfig(Family):
    """Where exit heads stand.

    Attributes:
        after: Numbers of blocks after which a head stands, ascending; the last head always follows all.
        criterion: One of ``CRITERIA``.
    """

    name: ClassVar[str] = "exits"

    after: tuple[int, ...]
    criterion: str = "max_softmax"

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(f"got exit criterion {self.criterion!r}, expected one of {', '.join(CRITERIA)}")
        if not isinstance(self.after, tuple) or not all(type(block) is int for block in self.after):
            raise ValueError(f"got exits after {self.after!r}, expected a tuple of whole numbers, such as (2, 4)")
        if not self.after or list(self.after) != sorted(set(self.after)) or self.after[0] < 1:
            raise ValueError(f"got exits after blocks {list(self.after)}, expected ascending numbers from 1")

    def check(self, shape: EncoderConfig) -> None:
        """Check that every head stands before the end, and can say how sure it is.

        Raises:
            ValueError: One does not.
        """
        self.require_depth(shape.depth)
        self.require_criterion(shape.task)

    def require_criterion(self, task: str) -> None:
        """Check that heads of a task can say how sure they are in this way.

        Raises:
            ValueError: They cannot.
        """
        criteria = TASKS[task].criteria
        if self.criterion not in criteria:
            known = ", ".join(map(repr, criteria))
            raise ValueError(f"got exit criterion {self.criterion!r} for {task}, expected {known}")

    def require_depth(self, depth: int) -> None:
        """Check that every head stands before the end.

        Raises:
            ValueError: One does not.
        """
        if self.after[-1] >= depth:
            raise ValueError(f"got an exit after block {self.after[-1]} of {depth}, expected one before the last")


class HeadOutput(NamedTuple):
    """Output of an exit head.

    Attributes:
        outputs: The task's, ``[B, ...]`` each.
        confidence: float32 ``[B]``.
        carried: What the criterion hands to the next head, by source name: nothing, or for patience
            ``next_prediction`` int64 ``[B]`` and ``next_streak`` float32 ``[B]``.
        certainty: Logit of the learned certainty, ``[B]``, for training; None for other criteria.
    """

    outputs: dict[str, Tensor]
    confidence: Tensor
    carried: dict[str, Tensor]
    certainty: Tensor | None


class ExitHead(nn.Module):
    """Linear classifier with a confidence. Features come normalised."""

    def __init__(self, width: int, classes: int, criterion: str) -> None:
        super().__init__()
        self.width, self.classes, self.criterion = width, classes, criterion
        self.classifier = nn.Linear(width, classes)
        self.certainty = nn.Linear(width, 1) if criterion == "certainty" else None

    def macs(self, *, last: bool) -> int:
        """Multiply-accumulates for one sample; the last head's certainty is for training, and never computed else."""
        return self.width * (self.classes + int(self.certainty is not None and not last))

    def forward(self, features: Tensor, carried: dict[str, Tensor]) -> HeadOutput:
        """Classify ``[B, D]``; ``carried`` has ``prediction`` and ``streak`` of the head before, if any."""
        logits = self.classifier(features)
        certainty = None if self.certainty is None else self.certainty(features)[:, 0]
        return class_answer(logits, self.criterion, certainty, carried)


def class_answer(logits: Tensor, criterion: str, certainty: Tensor | None, carried: Mapping[str, Tensor]) -> HeadOutput:
    """Classes of samples, ``[B, classes]``, with how sure a criterion is of them.

    Args:
        logits: ``[B, classes]``.
        criterion: One of ``CRITERIA``.
        certainty: Logit of the learned certainty, ``[B]``, where that is the criterion.
        carried: ``prediction`` and ``streak`` of the head before, if any.
    """
    if certainty is not None:
        return HeadOutput({"logits": logits}, torch.sigmoid(certainty), {}, certainty)
    if criterion == "patience":
        prediction = logits.argmax(1)
        streak = torch.zeros_like(logits[:, 0])
        if "prediction" in carried:
            streak = torch.where(prediction == carried["prediction"], carried["streak"] + 1, streak)
        handed_on = {"next_prediction": prediction, "next_streak": streak}
        return HeadOutput({"logits": logits}, streak, handed_on, None)
    return HeadOutput({"logits": logits}, sureness(logits, criterion), {}, None)


def sureness(logits: Tensor, criterion: str) -> Tensor:
    """How sure ``max_softmax`` or ``entropy`` is of logits ``[..., classes]``, ``[...]``."""
    last = logits.ndim - 1
    if criterion == "max_softmax":
        return logits.softmax(last).amax(last)
    logarithms = logits.log_softmax(last)
    entropy = -(logarithms.exp() * logarithms).sum(last)
    return 1 - entropy / math.log(max(logits.shape[last], 2))  # a single class has no entropy
