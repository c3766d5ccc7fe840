"""A vision transformer whose FFNs, attention projections, tokens and depth may be adaptive.

Tokens of the whole batch stay flat, ``[B * T, D]``, from embedding to head: that is the shape the
``adaptrt`` ops work on, and it spares the graph a reshape around every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adaptrt.models.adapters.adapter import Adapter
from adaptrt.models.adapters.stem import STEMS
from adaptrt.models.encoder_config import EncoderConfig
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


class ViTAdapter(Adapter[ViTConfig]):
    """Vision transformer (arXiv 2010.11929)."""

    architecture: ClassVar[str] = "vit"

    def embedding(self) -> dict[str, nn.Module | nn.Parameter | None]:
        """The stem, the positions and, perhaps, the class token."""
        c = self.shape
        stem = STEMS[c.stem](c.channels, c.image_size, c.patch_size, c.width)
        # As large as the embedded pixels: with the customary 0.02 a pixel token hardly knows where it is.
        position = nn.Parameter(torch.randn(c.tokens, c.width) * 0.5) if c.positions == "added" else None
        class_token = nn.Parameter(torch.zeros(1, 1, c.width)) if c.class_token else None
        return {"embed": stem, "position": position, "class_token": class_token}

    def embed(self, network: Any, inputs: dict[str, Tensor]) -> Tokens:
        """``pixels`` ``[B, C, H, W]`` in 0..1 -> flat tokens ``[B * T, D]``."""
        c = self.shape
        x: Tensor = network.embed((inputs["pixels"] - c.mean) / c.std)
        if network.class_token is not None:
            x = torch.cat([network.class_token.expand(x.shape[0], -1, -1), x], 1)
        if network.position is not None:
            x = x + network.position
        return Tokens(x.reshape(-1, c.width), c.tokens)

    def embedding_macs(self, network: Any) -> int:
        """Of the stem."""
        macs: int = network.embed.macs
        return macs

    @property
    def tokens(self) -> int:
        """Tokens per image, the class token included."""
        return self.shape.tokens

    @property
    def token_axis(self) -> int:
        """Tokens per image, the class token included."""
        return self.shape.tokens

    def inputs(self) -> list[NamedTensor]:
        """The images."""
        c = self.shape
        return [NamedTensor("pixels", "float32", ("batch", c.channels, c.image_size, c.image_size))]

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random images."""
        c = self.shape
        return {"pixels": torch.rand(batch, c.channels, c.image_size, c.image_size)}
