"""A vision transformer whose FFNs, attention projections, tokens and depth may be adaptive.

Tokens of the whole batch stay flat, ``[B * T, D]``, from embedding to head: that is the shape the
``adaptrt`` ops work on, and it spares the graph a reshape around every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adaptrt.models.adapters.stem import STEMS
from adaptrt.models.block import EncoderConfig
from adaptrt.models.encoder import Encoder, EncoderOutput
from adaptrt.models.staged_network import NamedTensor
from adaptrt.models.tokens import Tokens


@dataclass(frozen=True)
class ViTConfig(EncoderConfig):
    """Shape of a vision transformer.

    Images are float32 ``[B, channels, image_size, image_size]`` in 0..1, normalised inside the model
    by ``mean`` and ``std``. ``stem`` is "patch" (one linear map per patch) or "convolution".
    """

    image_size: int = 8
    patch_size: int = 1
    channels: int = 1
    mean: float = 0.0
    std: float = 1.0
    stem: str = "patch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.image_size, self.patch_size, self.channels) < 1 or self.std <= 0:
            raise ValueError(f"got {self}, expected sizes of at least 1 and a std above 0")
        if self.image_size % self.patch_size:
            raise ValueError(f"image size {self.image_size} must be a multiple of patch size {self.patch_size}")
        if self.stem not in STEMS:
            raise ValueError(f"got stem {self.stem!r}, expected one of {', '.join(STEMS)}")
        if self.stem == "convolution" and (self.patch_size < 2 or self.patch_size & (self.patch_size - 1)):
            raise ValueError(f"got patch size {self.patch_size} with a convolutional stem, expected 2, 4, 8, ...")

    @property
    def tokens(self) -> int:
        """Tokens per image, the class token included."""
        return (self.image_size // self.patch_size) ** 2 + int(self.class_token)


class ViT(Encoder):
    """Vision transformer (arXiv 2010.11929), dense or adaptive, as its configuration says."""

    config: ViTConfig

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        self.embed = STEMS[config.stem](config.channels, config.image_size, config.patch_size, config.width)
        # As large as the embedded pixels: with the customary 0.02 a pixel token hardly knows where it is.
        self.position = nn.Parameter(torch.randn(config.tokens, config.width) * 0.5)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width)) if config.class_token else None
        self._add_blocks()

    @property
    def tokens(self) -> int:
        """Tokens per image, the class token included."""
        return self.config.tokens

    @property
    def token_axis(self) -> int:
        """Tokens per image, the class token included."""
        return self.config.tokens

    @property
    def embedding_macs(self) -> int:
        """Multiply-accumulates of the stem."""
        return self.embed.macs

    def input_specs(self) -> list[NamedTensor]:
        """The images."""
        c = self.config
        return [NamedTensor("pixels", "float32", ("batch", c.channels, c.image_size, c.image_size))]

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random images."""
        c = self.config
        return {"pixels": torch.rand(batch, c.channels, c.image_size, c.image_size)}

    def embed_images(self, pixels: Tensor) -> Tensor:
        """``[B, C, H, W]`` in 0..1 -> flat tokens ``[B * T, D]``."""
        c = self.config
        x: Tensor = self.embed((pixels - c.mean) / c.std)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], 1)
        return (x + self.position).reshape(-1, c.width)

    def embed_inputs(self, inputs: dict[str, Tensor]) -> Tokens:
        """Tokens of the images."""
        return Tokens(self.embed_images(inputs["pixels"]), self.config.tokens)

    def forward(self, pixels: Tensor, price: Tensor | None = None, token_price: Tensor | None = None) -> EncoderOutput:
        """Classify images, nobody leaving early.

        Args:
            pixels: float32 ``[B, channels, image_size, image_size]`` in 0..1.
            price: float32 ``[1]``, or in training one per image, ``[B, 1]``. Not read by a dense model.
            token_price: Of token selections, likewise; None: they follow ``price``.
        """
        given = {"price": price, "token_price": token_price}
        return self.run({"pixels": pixels}, {name: value for name, value in given.items() if value is not None})
