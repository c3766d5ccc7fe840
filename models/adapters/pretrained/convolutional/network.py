"""A convolutional network of transformers as stages: its own modules, one after the other, and heads of ours."""

from __future__ import annotations

import copy
import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor, nn

from adaptrt.models.adapters.pretrained.convolutional.config import PretrainedConvolutionalConfig
from adaptrt.models.adapters.pretrained.rows import PretrainedError
from adaptrt.models.adapters.pretrained.splice import build_model
from adaptrt.models.convolutional_network import ConvolutionalNetwork
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.macs import Layer
from adaptrt.models.staged_network import NamedTensor
from adaptrt.models.tasks import TASKS

INPUT = "pixel_values"


class Parts(NamedTuple):
    """What of a model the network is made of.

    Attributes:
        stem: Before the blocks.
        blocks: Each of what runs one after the other.
        norm: Of the mean over all places.
    """

    stem: nn.Module
    blocks: nn.ModuleList
    norm: nn.Module


def copy_parts(model: nn.Module, config: PretrainedConvolutionalConfig) -> Parts:
    """Copies of a model's modules.

    Raises:
        PretrainedError: The model has none of such a name.
    """

    def module(path: str) -> nn.Module:
        try:
            return copy.deepcopy(model.get_submodule(path))
        except AttributeError as error:
            raise PretrainedError(
                f"{config.model_class} has no {path}, expected the one that the network was made of; install the "
                "version of transformers that it was made with"
            ) from error

    blocks = nn.ModuleList(nn.Sequential(*(module(path) for path in block)) for block in config.blocks)
    return Parts(module(config.stem), blocks, module(config.norm) if config.norm else nn.Identity())


class PretrainedConvolutional(ConvolutionalNetwork):
    """A convolutional network of transformers: its own code up to the mean over all places.

    In training stem and blocks stay in evaluation: statistics of normalisations are the checkpoint's, and no layer is
    dropped at random. Their weights learn, but for the stem's.

    Args:
        config: Its shape.
        parts: What it is made of, which become its own; None: a new model's.

    Raises:
        PretrainedError: transformers is missing, or does not build such a model.
    """

    def __init__(self, config: PretrainedConvolutionalConfig, parts: Parts | None = None) -> None:
        super().__init__()
        self.config = config
        self.task = TASKS[config.task]
        if parts is None:
            parts = copy_parts(build_model(config.model_class, config.made_of), config)
        self.stem, self.blocks, self.norm = parts
        self.make_heads()

    def train(self, mode: bool = True) -> PretrainedConvolutional:
        """Heads alone train; see the class."""
        super().train(mode)
        self.stem.eval()
        self.blocks.eval()
        return self

    def with_exits(self, exits: ExitConfig | None) -> PretrainedConvolutional:
        """A network of copies of these parts with other exits."""
        parts = Parts(copy.deepcopy(self.stem), copy.deepcopy(self.blocks), copy.deepcopy(self.norm))
        return PretrainedConvolutional(dataclasses.replace(self.config, exits=exits), parts)

    @property
    def made_from_dense(self) -> bool:
        """True: the checkpoint is what its heads were taught by."""
        return True

    def fixed_parts(self) -> list[nn.Module | nn.Parameter]:
        """The stem, which stands before everything that may be left out."""
        return [self.stem]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The checkpoint's."""
        names: tuple[str, ...] = self.config.class_names
        return names

    def input_specs(self) -> list[NamedTensor]:
        """The images, under the name of Optimum's exports."""
        return [NamedTensor(INPUT, "float32", ("batch", *self.config.input_size), prepared=True)]

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random images."""
        return {INPUT: torch.randn(batch, *self.config.input_size)}

    def embed(self, inputs: dict[str, Tensor]) -> Tensor:
        """The stem."""
        x: Tensor = self.stem(inputs[INPUT])
        return x

    def block_size(self, number: int) -> tuple[int, int, int]:
        """Channels, height and width of what a block gives."""
        size: tuple[int, int, int] = self.config.sizes[number]
        return size

    def stem_layer(self) -> Layer:
        """As measured when the checkpoint was loaded."""
        return Layer("stem", self.config.stem_macs)

    def block_layers(self, number: int) -> list[Layer]:
        """As measured when the checkpoint was loaded."""
        return [Layer(f"blocks.{number}", self.config.block_macs[number])]
