"""The shape of a decoder: a language model that reads a text from left to right."""

from __future__ import annotations

from dataclasses import dataclass

from adaptrt.models.encoder_config import EncoderConfig


@dataclass(frozen=True)
class DecoderConfig(EncoderConfig):
    """Shape of a decoder of Llama's kind (arXiv 2302.13971): RMSNorm first, rotary positions, gated networks.

    Attributes:
        vocabulary: Number of ids.
        context: Most tokens of a text.
        tied: Whether the head's weights are the embedding's.
        query_bias: Whether queries, keys and values have biases; ``attention_bias`` is about the output, too.
    """

    norm: str = "rms"
    activation: str = "silu"
    gated: bool = True
    ffn_bias: bool = False
    attention_bias: bool = False
    positions: str = "rotary"
    causal: bool = True
    vocabulary: int = 49_152
    context: int = 2048
    tied: bool = True
    query_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocabulary < 1 or self.context < 1:
            raise ValueError(f"got {self}, expected a vocabulary and a context of at least 1")
        if self.positions != "rotary" or self.post_norm or not self.causal or not self.gated:
            raise ValueError(f"got {self}, expected rotary positions, norms first, causal attention, gated networks")
        if self.families:
            names = ", ".join(family.name for family in self.families)
            raise ValueError(f"got a decoder with {names}, expected none: decoders are dense so far")
        if self.windows:
            raise ValueError(
                f"got windows {self.windows}, expected none: what a token sees is an input of the decoder's graph"
            )
