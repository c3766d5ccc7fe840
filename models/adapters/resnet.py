"""A small residual network for images, with exit heads between its blocks: a network without tokens or price."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.convolutional_network import ConvolutionalNetwork
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.macs import Layer
from adaptrt.models.staged_network import NamedTensor


@dataclass(frozen=True)
class ResNetConfig:
    """Shape of a residual network, and where its exits are.

    Images are float32 ``[B, channels, image_size, image_size]`` in 0..1, normalised inside the network
    by ``mean`` and ``std``.

    Attributes:
        image_size: Height and width of an image.
        channels: Of an image.
        widths: Channels of each group of residual blocks; all groups but the first halve the resolution.
        blocks: Residual blocks of each group.
        classes: Number of classes.
        mean: Of the pixels.
        std: Of the pixels.
        exits: After which residual blocks heads stand; None: at the end only.
    """

    image_size: int = 28
    channels: int = 1
    widths: tuple[int, ...] = (16, 32, 64)
    blocks: tuple[int, ...] = (2, 2, 2)
    classes: int = 10
    mean: float = 0.0
    std: float = 1.0
    exits: ExitConfig | None = None

    def __post_init__(self) -> None:
        sizes = (self.image_size, self.channels, self.classes, *self.widths, *self.blocks)
        if min(sizes) < 1 or self.std <= 0:
            raise ValueError(f"got {self}, expected sizes of at least 1 and a std above 0")
        if not self.widths or len(self.widths) != len(self.blocks):
            raise ValueError(
                f"got {len(self.widths)} widths for {len(self.blocks)} groups of blocks, expected one width for each"
            )
        if self.exits is not None:
            self.exits.require_depth(self.depth)

    @property
    def depth(self) -> int:
        """Residual blocks in all groups."""
        return sum(self.blocks)

    @property
    def adaptive(self) -> bool:
        """Whether samples may leave early."""
        return self.exits is not None

    @property
    def families(self) -> tuple[ExitConfig, ...]:
        """The exits, if any."""
        return () if self.exits is None else (self.exits,)


class ConvNorm(nn.Sequential):
    """Convolution and batch normalisation, which an export folds into the convolution."""

    def __init__(self, before: int, after: int, kernel: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(after)
        )
        self.weights = before * after * kernel**2


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut (arXiv 1512.03385, figure 2; projection shortcuts where shapes change).

    ``channels``, and ``size``, its height and width, are of what comes out.
    """

    def __init__(self, before: int, after: int, size: int, stride: int) -> None:
        super().__init__()
        self.channels, self.size = after, size
        self.first, self.second = ConvNorm(before, after, 3, stride), ConvNorm(after, after, 3, 1)
        self.shortcut = ConvNorm(before, after, 1, stride) if (before, stride) != (after, 1) else None
        nn.init.zeros_(self.second[1].weight)  # type: ignore[arg-type]  # starts as the identity (arXiv 1706.02677)

    def layers(self, name: str) -> Iterator[Layer]:
        """Multiply-accumulates of its convolutions."""
        for part in ("first", "second", "shortcut"):
            convolution = getattr(self, part)
            if convolution is not None:
                yield Layer(f"{name}.{part}", self.size**2 * convolution.weights)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, C', H', W']``."""
        y = self.second(functional.relu(self.first(x)))
        return functional.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(ConvolutionalNetwork):
    """Residual network (arXiv 1512.03385, section 4.2), with heads after some of its blocks."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = c = config
        self.stem = ConvNorm(c.channels, c.widths[0], 3, 1)
        blocks: list[ResidualBlock] = []
        size, before = c.image_size, c.widths[0]
        for group, (width, count) in enumerate(zip(c.widths, c.blocks, strict=True)):
            for position in range(count):
                stride = 2 if group and not position else 1
                size = -(-size // stride)
                blocks.append(ResidualBlock(before, width, size, stride))
                before = width
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.Identity()
        self.make_heads()

    def with_exits(self, exits: ExitConfig | None) -> ResNet:
        """A network of the same shape with other exits and new weights."""
        return ResNet(dataclasses.replace(self.config, exits=exits))

    def input_specs(self) -> list[NamedTensor]:
        """The images."""
        c = self.config
        return [NamedTensor("pixels", "float32", ("batch", c.channels, c.image_size, c.image_size))]

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random images."""
        c = self.config
        return {"pixels": torch.rand(batch, c.channels, c.image_size, c.image_size)}

    def embed(self, inputs: dict[str, Tensor]) -> Tensor:
        """The stem."""
        return functional.relu(self.stem((inputs["pixels"] - self.config.mean) / self.config.std))

    def block_size(self, number: int) -> tuple[int, int, int]:
        """Channels, height and width of what a block gives."""
        block = self._block(number)
        return block.channels, block.size, block.size

    def stem_layer(self) -> Layer:
        """Multiply-accumulates of the stem."""
        return Layer("stem", self.config.image_size**2 * self.stem.weights)

    def block_layers(self, number: int) -> list[Layer]:
        """Multiply-accumulates of a block's convolutions."""
        return list(self._block(number).layers(f"blocks.{number}"))

    def forward(self, pixels: Tensor) -> Tensor:
        """Classify images by the last head, without computing the others.

        Args:
            pixels: float32 ``[B, channels, image_size, image_size]`` in 0..1.

        Returns:
            Logits, ``[B, classes]``.
        """
        x = self.embed({"pixels": pixels})
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head.classifier(x.mean((2, 3)))
        return logits

    def _block(self, number: int) -> ResidualBlock:
        block = self.blocks[number]
        assert isinstance(block, ResidualBlock)
        return block


def with_exits(dense: ResNet, exits: ExitConfig) -> ResNet:
    """Copy a trained network and let samples leave it early; the new heads have yet to be trained.

    Raises:
        ValueError: It has exits already, or one would stand behind its last block.
    """
    if dense.adaptive:
        raise ValueError("got a network that has exits already, expected one without")
    network = dense.with_families([exits])
    assert isinstance(network, ResNet)
    return network
