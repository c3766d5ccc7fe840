"""A BERT-like encoder that classifies texts, given as numbers of words, whose work may be adaptive.

Texts have different lengths from the start, so every stage knows which tokens are real: padding takes
part in nothing, costs nothing, and a text's result does not depend on how far it was padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adaptrt.models.adapters.adapter import Adapter
from adaptrt.models.encoder_config import EncoderConfig
from adaptrt.models.staged_network import NamedTensor
from adaptrt.models.tokens import Tokens


@dataclass(frozen=True)
class TextEncoderConfig(EncoderConfig):
    """Shape of a text encoder.

    Attributes:
        vocabulary: Words there are; tokens are numbers below it.
        length: Most tokens of a text, the class token included.
    """

    class_token: bool = True
    post_norm: bool = True
    vocabulary: int = 30_522
    length: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocabulary < 1 or self.length < 2:
            raise ValueError(f"got {self}, expected a vocabulary of at least 1 and texts of at least 2 tokens")
        if not self.class_token:
            raise ValueError("got a text encoder without class token, expected one: heads read the first token")
        if self.pruning is not None and self.pruning.rule == "merge":
            raise ValueError("got pruning rule 'merge' for texts, expected 'price' or 'fixed': it would merge padding")


class TextAdapter(Adapter[TextEncoderConfig]):
    """Text encoder (BERT, arXiv 1810.04805, one segment).

    Shares of work are relative to the dense model on a text of the full ``length``: shorter texts cost
    less even where everything runs.
    """

    architecture: ClassVar[str] = "text"

    def embedding(self) -> dict[str, nn.Module | nn.Parameter | None]:
        """Tables of words and positions, and the normalisation of their sum."""
        c = self.shape
        words = nn.Embedding(c.vocabulary, c.width)
        position = nn.Embedding(c.length, c.width) if c.positions == "added" else None
        for table in (words, position):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)
        return {"embed": words, "position": position, "embed_norm": nn.LayerNorm(c.width, eps=c.epsilon)}

    def embed(self, network: Any, inputs: dict[str, Tensor]) -> Tokens:
        """Tokens of the texts.

        Whatever stands at padded places is not read; the first token, which heads read, always is real.

        Raises:
            ValueError: The shapes do not fit, or the texts are longer than the model allows. An exported
                graph fails at its position table instead.
        """
        words, mask = inputs["tokens"], inputs["mask"]
        if words.ndim != 2 or words.shape != mask.shape:
            raise ValueError(
                f"got tokens of shape {list(words.shape)} and a mask of shape {list(mask.shape)}, expected "
                "[batch, length] twice"
            )
        batch, length = words.shape
        if not torch.onnx.is_in_onnx_export() and not 1 <= length <= self.shape.length:
            raise ValueError(f"got texts of {length} tokens, expected 1 to {self.shape.length}; cut them")
        place = torch.arange(length, dtype=torch.int32, device=words.device)
        index = place.expand(batch, -1)
        valid = mask | (place == 0)
        # A negative number would count from the table's end in some engines: let it fall out of the table instead.
        words = torch.where(words < 0, self.shape.vocabulary, words)
        x = network.embed(torch.where(valid, words, 0))
        x = network.embed_norm(x if network.position is None else x + network.position(place))
        presence = valid.to(x.dtype) if network.training else None
        return Tokens(x.reshape(-1, self.shape.width), length, valid, index, presence=presence)

    def embedding_macs(self, network: Any) -> int:
        """None: words and positions are looked up."""
        del network
        return 0

    @property
    def tokens(self) -> int:
        """Tokens of the longest text, for which the dense work is counted."""
        return self.shape.length

    @property
    def ragged(self) -> bool:
        """Texts have different lengths."""
        return True

    @property
    def token_axis(self) -> str:
        """The texts' own axis: they have different lengths."""
        return "length"

    def inputs(self) -> list[NamedTensor]:
        """Numbers of the words, and which of them are real."""
        axes = ("batch", "length")
        words = NamedTensor("tokens", "int64", axes, minimum=0, maximum=self.shape.vocabulary - 1)
        return [words, NamedTensor("mask", "bool", axes)]

    def axis_limits(self) -> dict[str, tuple[int, int | None]]:
        """The axis ``length`` goes up to the configured one."""
        return {**super().axis_limits(), "length": (1, self.shape.length)}

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random texts of random lengths, padded to the full length."""
        length = self.shape.length
        real = torch.randint(1, length + 1, (batch, 1))
        tokens = torch.randint(self.shape.vocabulary, (batch, length))
        return {"tokens": tokens, "mask": torch.arange(length) < real}
