"""What ``config.json`` keeps of a network made from a transformers checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adaptrt.models.encoder_config import EncoderConfig
from adaptrt.models.tasks import TASKS

MODALITIES = ("text", "image", "features", "samples")
"""Numbers of tokens, pixels, log-mel features, and samples of sound."""
READS = ("first", "mean", "first and mean", "first two", "tokens", "pooled")
"""What a head reads: the first token, the mean of all, the first and the mean of those behind the prefix, the first and
the second (a distillation token), every token; or, with no weights of its own, what ``pooling`` says."""
POOLINGS = ("first", "mean", "max")


@dataclass(frozen=True)
class PretrainedConfig(EncoderConfig):
    """Shape of a network whose embedding and head are transformers' code.

    Attributes:
        made_of: transformers' configuration of the checkpoint, as its ``config.json`` has it.
        model_class: Class of transformers that the checkpoint was loaded as.
        encoder_only: Whether the encoder of such a model alone is used.
        modality: One of ``MODALITIES``.
        input_size: Shape of one sample of images and sound, batch left out; empty for texts.
        length: Tokens of a sample; of texts the most.
        work_length: Tokens of the text whose dense work all shares of work are relative to; 0: of the longest.
        vocabulary: Of texts.
        token_types: Kinds of tokens that texts may have, such as 2 for first and second sentence; 0: no such input.
        embedding_macs: Multiply-accumulates of the embedding; of a text's for one token.
        base: Name of the base model in a model with a head; empty: it is the whole.
        layers: Paths in the base model of the layers that blocks stand for, each once.
        returns_tuple: Whether these layers give tuples.
        unused: Paths of modules that the embedding does without.
        reads: One of ``READS``.
        prefix: Tokens in front of an image's patches, which "first and mean" leaves out of the mean.
        head_macs: Multiply-accumulates of the head for one sample, or for one token where it reads every token.
        pooling: One of ``POOLINGS``, where a head without weights makes one vector of the tokens.
        normalised: Whether that vector is scaled to length 1.
    """

    made_of: dict[str, Any] = field(default_factory=dict)
    model_class: str = ""
    encoder_only: bool = False
    modality: str = "text"
    input_size: tuple[int, ...] = ()
    length: int = 0
    work_length: int = 0
    vocabulary: int = 0
    token_types: int = 0
    embedding_macs: int = 0
    base: str = ""
    layers: tuple[str, ...] = ()
    returns_tuple: bool = False
    unused: tuple[str, ...] = ()
    reads: str = "tokens"
    prefix: int = 1
    head_macs: int = 0
    pooling: str = "mean"
    normalised: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the checkpoint, where its heads have classes and somebody named them."""
        return named_classes(self.made_of, self.classes) if "logits" in TASKS[self.task].outputs else ()

    @property
    def averages_tokens(self) -> bool:
        """Whether the head reads the tokens' mean, and nothing else of them."""
        return self.reads == "mean" or (self.reads == "pooled" and self.pooling == "mean")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, known in (
            ("modality", self.modality, MODALITIES),
            ("reads", self.reads, READS),
            ("pooling", self.pooling, POOLINGS),
        ):
            if value not in known:
                raise ValueError(f"got {name} {value!r}, expected one of {', '.join(known)}")
        if self.length < 1 or (self.modality == "text") != (not self.input_size):
            raise ValueError(
                f"got length {self.length} and input size {list(self.input_size)} for {self.modality}, expected at "
                "least 1 and a size for everything but texts"
            )
        if not 0 <= self.work_length <= self.length or (self.work_length and self.modality != "text"):
            raise ValueError(
                f"got a work length of {self.work_length} for {self.modality} of {self.length} tokens, expected 0 to "
                "that length for texts, else 0"
            )
        if self.pruning is not None and self.reads in ("tokens", "first two"):
            raise ValueError(
                f"got pruning for a head that reads {'every token' if self.reads == 'tokens' else 'two tokens'}, "
                "expected it left out: only the first token always stays"
            )
        if self.pruning is not None and self.pruning.rule == "merge" and self.modality == "text":
            raise ValueError("got pruning rule 'merge' for texts, expected 'price' or 'fixed': it would merge padding")


def named_classes(made_of: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """What a configuration of transformers calls its classes, in order; empty: nobody named them."""
    named = {str(number): str(name) for number, name in dict(made_of.get("id2label") or {}).items()}
    found = tuple(named.get(str(number), "") for number in range(classes))
    usual = tuple(f"LABEL_{number}" for number in range(classes))  # transformers' own where nobody did
    return found if all(found) and found != usual else ()
