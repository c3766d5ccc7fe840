"""A BERT-like encoder that classifies texts, given as numbers of words, whose work may be adaptive.

Texts have different lengths from the start, so every stage knows which tokens are real: padding takes
part in nothing, costs nothing, and a text's result does not depend on how far it was padded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adaptrt.models.block import EncoderConfig
from adaptrt.models.encoder import Encoder, EncoderOutput
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


class TextEncoder(Encoder):
    """Text encoder (BERT, arXiv 1810.04805, one segment), dense or adaptive, as its configuration says.

    Shares of work are relative to the dense model on a text of the full ``length``: shorter texts cost
    less even where everything runs.
    """

    config: TextEncoderConfig

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Embedding(config.length, config.width)
        for table in (self.embed, self.position):
            nn.init.normal_(table.weight, std=0.02)
        self.embed_norm = nn.LayerNorm(config.width, eps=1e-6)
        self._add_blocks()

    @property
    def tokens(self) -> int:
        """Tokens of the longest text, for which the dense work is counted."""
        return self.config.length

    @property
    def token_axis(self) -> str:
        """The texts' own axis: they have different lengths."""
        return "length"

    @property
    def embedding_macs(self) -> int:
        """None: words and positions are looked up."""
        return 0

    @property
    def ragged_inputs(self) -> bool:
        """Texts have different lengths."""
        return True

    def input_specs(self) -> list[NamedTensor]:
        """Numbers of the words, and which of them are real."""
        axes = ("batch", "length")
        words = NamedTensor("tokens", "int64", axes, minimum=0, maximum=self.config.vocabulary - 1)
        return [words, NamedTensor("mask", "bool", axes)]

    def axis_limits(self) -> dict[str, tuple[int, int | None]]:
        """The axis ``length`` goes up to the configured one."""
        return {**super().axis_limits(), "length": (1, self.config.length)}

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random texts of random lengths, padded to the full length."""
        length = self.config.length
        real = torch.randint(1, length + 1, (batch, 1))
        tokens = torch.randint(self.config.vocabulary, (batch, length))
        return {"tokens": tokens, "mask": torch.arange(length) < real}

    def embed_inputs(self, inputs: dict[str, Tensor]) -> Tokens:
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
        if not torch.onnx.is_in_onnx_export() and not 1 <= length <= self.config.length:
            raise ValueError(f"got texts of {length} tokens, expected 1 to {self.config.length}; cut them")
        place = torch.arange(length, dtype=torch.int32, device=words.device)
        index = place.expand(batch, -1)
        valid = mask | (place == 0)
        # A negative number would count from the table's end in some engines: let it fall out of the table instead.
        words = torch.where(words < 0, self.config.vocabulary, words)
        x = self.embed(torch.where(valid, words, 0))
        x = self.embed_norm(x + self.position(place))
        presence = valid.to(x.dtype) if self.training else None
        return Tokens(x.reshape(-1, self.config.width), length, valid, index, presence=presence)

    def forward(
        self, tokens: Tensor, mask: Tensor, price: Tensor | None = None, token_price: Tensor | None = None
    ) -> EncoderOutput:
        """Classify texts, nobody leaving early.

        Args:
            tokens: int64 ``[B, L]``, numbers of words; the first is the class token.
            mask: bool ``[B, L]``, true where a token is real, false for padding.
            price: float32 ``[1]``, or in training one per text, ``[B, 1]``. Not read by a dense model.
            token_price: Of token selections, likewise; None: they follow ``price``.
        """
        given = {"price": price, "token_price": token_price}
        knobs = {name: value for name, value in given.items() if value is not None}
        return self.run({"tokens": tokens, "mask": mask}, knobs)
