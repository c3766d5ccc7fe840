"""A small residual network for images, with exit heads between its blocks: a network without tokens or price."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.families.exit_head import ExitConfig, ExitHead
from adaptrt.models.macs import Layer
from adaptrt.models.staged_network import CarriedSpec, KnobSpec, NamedTensor, StagedNetwork, StageOutput
from adaptrt.models.work import WorkCount


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


class ConvNorm(nn.Sequential):
    """Convolution and batch normalisation, which an export folds into the convolution."""

    def __init__(self, before: int, after: int, kernel: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(after)
        )
        self.weights = before * after * kernel**2


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut (arXiv 1512.03385, figure 2; projection shortcuts where shapes change).

    ``size`` is the height and width of what comes out.
    """

    def __init__(self, before: int, after: int, size: int, stride: int) -> None:
        super().__init__()
        self.size = size
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


class ResNet(StagedNetwork):
    """Residual network (arXiv 1512.03385, section 4.2), with heads after some of its blocks.

    Heads read the mean over all places. All samples of a stage cost the same.
    """

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
        self._channels = [width for width, count in zip(c.widths, c.blocks, strict=True) for _ in range(count)]
        criterion = "max_softmax" if c.exits is None else c.exits.criterion
        early = () if c.exits is None else c.exits.after
        self.exit_heads = nn.ModuleList(ExitHead(self._channels[number - 1], c.classes, criterion) for number in early)
        self.head = ExitHead(before, c.classes, criterion)

    @property
    def adaptive(self) -> bool:
        """Whether samples may leave early."""
        return self.config.adaptive

    @property
    def exits(self) -> ExitConfig | None:
        """Where early heads stand."""
        return self.config.exits

    def exit_modules(self) -> list[nn.Module]:
        """Early heads, and the last head's learned certainty."""
        return [*self.exit_heads, *([] if self.head.certainty is None else [self.head.certainty])]

    def input_specs(self) -> list[NamedTensor]:
        """The images."""
        c = self.config
        return [NamedTensor("pixels", "float32", ("batch", c.channels, c.image_size, c.image_size))]

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random images."""
        c = self.config
        return {"pixels": torch.rand(batch, c.channels, c.image_size, c.image_size)}

    def knob_specs(self) -> list[KnobSpec]:
        """None: only the host's thresholds decide how much is computed."""
        return []

    def stage_blocks(self, stage: int) -> range:
        """Numbers of a stage's blocks."""
        ends = [0, *(() if self.config.exits is None else self.config.exits.after), self.config.depth]
        return range(ends[stage], ends[stage + 1])

    def carried_specs(self, stage: int) -> list[CarriedSpec]:
        """What a stage takes from the one before."""
        if stage == 0:
            return []
        last = self.stage_blocks(stage).start - 1
        block = self._block(last)
        hidden = NamedTensor("hidden", "float32", ("batch", self._channels[last], block.size, block.size))
        specs = [
            CarriedSpec(hidden, "next_hidden"),
            CarriedSpec(NamedTensor("macs_before", "float32", ("batch",)), "macs_fraction"),
        ]
        if self.exit_criterion == "patience":
            specs.append(CarriedSpec(NamedTensor("prediction", "int64", ("batch",)), "next_prediction"))
            specs.append(CarriedSpec(NamedTensor("streak", "float32", ("batch",)), "next_streak"))
        return specs

    def run_stage(self, stage: int, inputs: dict[str, Tensor], knobs: dict[str, Tensor]) -> StageOutput:
        """Run one stage; see ``StagedNetwork.run_stage``. No knob is read."""
        del knobs
        work = WorkCount(self.dense_macs())
        x = self._embed(inputs["pixels"]) if stage == 0 else inputs["hidden"]
        if stage == 0:
            work.constant(self._stem_layer().dense)
        for number in self.stage_blocks(stage):
            block = self._block(number)
            x = block(x)
            work.constant(sum(layer.dense for layer in block.layers("")))
        last = stage == len(self.stage_names) - 1
        head = self.head if last else self.exit_heads[stage]
        assert isinstance(head, ExitHead)
        answer = head(x.mean((2, 3)), inputs)
        work.constant(head.macs(last=last))
        macs_fraction = work.total(inputs.get("macs_before"), answer.outputs["logits"])
        carried = {} if last else {"next_hidden": x, **answer.carried}
        confidence = answer.confidence if self.adaptive else None
        return StageOutput(answer.outputs, confidence, macs_fraction, carried, [], answer.certainty)

    def forward(self, pixels: Tensor) -> Tensor:
        """Classify images by the last head, without computing the others.

        Args:
            pixels: float32 ``[B, channels, image_size, image_size]`` in 0..1.

        Returns:
            Logits, ``[B, classes]``.
        """
        x = self._embed(pixels)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head.classifier(x.mean((2, 3)))
        return logits

    def layers(self) -> list[Layer]:
        """Multiply-accumulates of every layer for one image, early heads left out; see ``adaptrt.models.macs``."""
        layers = [self._stem_layer()]
        for number in range(self.config.depth):
            layers += self._block(number).layers(f"blocks.{number}")
        return [*layers, Layer("head", self.head.width * self.head.classes)]

    def dense_macs(self) -> int:
        """Multiply-accumulates of the network without early heads for one image."""
        return sum(layer.dense for layer in self.layers())

    def dense_parameters(self) -> int:
        """Number of weights of the network without early heads."""
        sizes = (parameter.numel() for parameter in self.parameters())
        exits = (parameter.numel() for module in self.exit_modules() for parameter in module.parameters())
        return sum(sizes) - sum(exits)

    def _stem_layer(self) -> Layer:
        return Layer("stem", self.config.image_size**2 * self.stem.weights)

    def _block(self, number: int) -> ResidualBlock:
        block = self.blocks[number]
        assert isinstance(block, ResidualBlock)
        return block

    def _embed(self, pixels: Tensor) -> Tensor:
        return functional.relu(self.stem((pixels - self.config.mean) / self.config.std))

    def unsplit(self) -> ResNet:
        """The same network in one stage, without its early heads."""
        whole = ResNet(dataclasses.replace(self.config, exits=None))
        weights = whole.state_dict()
        whole.load_state_dict({name: value for name, value in self.state_dict().items() if name in weights})
        return whole.train(self.training)


def with_exits(dense: ResNet, exits: ExitConfig) -> ResNet:
    """Copy a trained network and let samples leave it early; the new heads have yet to be trained.

    Raises:
        ValueError: It has exits already, or one would stand behind its last block.
    """
    if dense.adaptive:
        raise ValueError("got a network that has exits already, expected one without")
    network = ResNet(dataclasses.replace(dense.config, exits=exits))
    network.load_state_dict({**network.state_dict(), **dense.state_dict()})
    return network.train(dense.training)
