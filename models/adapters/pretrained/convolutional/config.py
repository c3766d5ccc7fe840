"""What ``config.json`` keeps of a convolutional network made from a transformers checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from adaptrt.models.adapters.pretrained.config import named_classes
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.tasks import TASKS

CONVOLUTIONAL_TASKS = ("classification", "embedding")
"""What a mean over all places is good for."""


@dataclass(frozen=True)
class PretrainedConvolutionalConfig:
    """Shape of a convolutional network whose stem, blocks and last norm are transformers' code.

    Attributes:
        made_of: transformers' configuration of the checkpoint, as its ``config.json`` has it.
        model_class: Class of transformers that the checkpoint was loaded as.
        task: One of ``CONVOLUTIONAL_TASKS``.
        classes: Of a classifier; of embeddings it is not read.
        input_size: Channels, height and width of an image.
        stem: Path in the model of what runs before the blocks.
        blocks: Paths of what runs in each block, one after the other.
        norm: Path of what normalises the mean over all places; empty: nothing does.
        sizes: Channels, height and width of what each block gives.
        stem_macs: Multiply-accumulates of the stem for one image.
        block_macs: Of each block.
        exits: After which blocks heads stand; None: at the end only.
    """

    made_of: dict[str, Any]
    model_class: str
    task: str
    classes: int
    input_size: tuple[int, int, int]
    stem: str
    blocks: tuple[tuple[str, ...], ...]
    norm: str
    sizes: tuple[tuple[int, int, int], ...]
    stem_macs: int
    block_macs: tuple[int, ...]
    exits: ExitConfig | None = field(default=None)

    def __post_init__(self) -> None:
        if self.task not in CONVOLUTIONAL_TASKS:
            raise ValueError(f"got task {self.task!r}, expected one of {', '.join(CONVOLUTIONAL_TASKS)}")
        sizes = [*self.input_size, *(size for block in self.sizes for size in block), self.classes]
        if min(sizes) < 1 or min(self.stem_macs, *self.block_macs) < 0:
            raise ValueError(
                f"got sizes down to {min(sizes)} and work of {self.stem_macs} and {list(self.block_macs)}, expected "
                "sizes of at least 1 and no work below 0"
            )
        counts = len(self.blocks), len(self.sizes), len(self.block_macs)
        if len(set(counts)) > 1 or not counts[0] or not all(self.blocks):
            raise ValueError(f"got {counts[0]} blocks, sizes of {counts[1]} and work of {counts[2]}, expected as many")
        if self.exits is not None:
            self.exits.require_depth(len(self.blocks))
            self.exits.require_criterion(self.task)

    @property
    def width(self) -> int:
        """Channels at the end."""
        return self.sizes[-1][0]

    @property
    def modality(self) -> str:
        """Pixels."""
        return "image"

    @property
    def adaptive(self) -> bool:
        """Whether samples may leave early."""
        return self.exits is not None

    @property
    def families(self) -> tuple[ExitConfig, ...]:
        """The exits, if any."""
        return () if self.exits is None else (self.exits,)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the checkpoint, where somebody named them."""
        return named_classes(self.made_of, self.classes) if "logits" in TASKS[self.task].outputs else ()
