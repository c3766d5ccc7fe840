"""What a training run is made of: sizes, lengths, rates and weights of the losses."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import torch

from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.training.augment import Augmentation

PRECISIONS = ("float32", "bfloat16")
"""To train in."""

RECIPE_FILE = "recipe.json"
"""Beside checkpoints: the recipe of their training."""


@dataclass(frozen=True)
class Recipe:
    """One training run, from nothing to an adaptive model.

    Attributes:
        data: Name of the data set.
        vit: Shape of the dense model.
        acm: How its layers are replaced; None: they are not.
        pruning: Where tokens are selected; None: nowhere.
        exits: Where exit heads stand; None: at the end only.
        dense_epochs: Epochs of the dense model.
        distil_epochs: Epochs of phase 1, layer-wise distillation.
        gate_epochs: Epochs of phase 2, gates.
        warm_samples: Samples that phases 1 and 2 see in an epoch; None: all.
        exit_epochs: Epochs in which exit heads alone are trained, all else frozen, before phase 3.
        joint_epochs: Epochs of phase 3, everything together.
        batch: Images per step.
        dense_rate: Largest learning rate of the dense model.
        distil_rate: Of phases 1 and 2.
        joint_rate: Of phase 3; gates learn at ten times this rate.
        weight_decay: AdamW's.
        label_smoothing: Of the task loss.
        prices: Prices per batch in phase 3; each is shared by batch / prices images.
        budget_weight: Weight of the budget loss (0.1 in the paper, for one budget; here it ties prices to work).
        entropy_weight: Weight of the entropy loss (0.05 in the paper; it works against the traffic loss).
        diversity_weight: Weight of the diversity loss (0.05 in the paper).
        exit_weight: Weight of each early head's losses in phase 3, against 1 for the last head's.
        keep_range: Smallest and largest share of tokens that phase 3 asks each ``fixed`` or ``merge``
            selection to keep; drawn anew for every batch.
        traffic_weight: Weight of the loss that keeps a learner from running for a few tokens only.
        teacher_weight: Weight of the dense model's predictions in phase 3.
        augmentation: Random maps of the training images.
        seed: Everything random derives from it.
        precision: "float32" or "bfloat16" (autocast; gates stay in float32).
    """

    data: str = "digits"
    vit: ViTConfig = field(default_factory=lambda: ViTConfig(mean=0.3, std=0.37))
    acm: ACMConfig | None = field(default_factory=lambda: ACMConfig(learners=2))
    pruning: PruningConfig | None = None
    exits: ExitConfig | None = None
    dense_epochs: int = 100
    distil_epochs: int = 5
    gate_epochs: int = 3
    warm_samples: int | None = None
    exit_epochs: int = 0
    joint_epochs: int = 50
    batch: int = 32
    dense_rate: float = 1e-3
    distil_rate: float = 1e-3
    joint_rate: float = 3e-4
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    prices: int = 4
    budget_weight: float = 4.0
    entropy_weight: float = 0.01
    diversity_weight: float = 0.05
    traffic_weight: float = 0.2
    teacher_weight: float = 1.0
    exit_weight: float = 0.5
    keep_range: tuple[float, float] = (0.3, 1.0)
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.batch % self.prices:
            raise ValueError(f"batch {self.batch} is no multiple of {self.prices} prices")
        if self.precision not in PRECISIONS:
            raise ValueError(f"got precision {self.precision!r}, expected {' or '.join(PRECISIONS)}")

    @property
    def adapts(self) -> bool:
        """Whether anything is made adaptive."""
        return any(part is not None for part in (self.acm, self.pruning, self.exits))

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision to compute in."""
        return autocast(self.precision)


def autocast(precision: str, device: str = "cpu") -> contextlib.AbstractContextManager[Any]:
    """Compute in a precision of ``PRECISIONS`` within, on a device of that type."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")
