"""Networks of convolutional blocks: no tokens and no price, samples leave early at heads between the blocks."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.family import Family
from adaptrt.models.heads import EmbeddingHead, task_head
from adaptrt.models.macs import Layer
from adaptrt.models.staged_network import CarriedSpec, KnobSpec, NamedTensor, StageOutput, criterion_carries
from adaptrt.models.tokens import Tokens
from adaptrt.models.work import WorkCount


class ConvolutionalNetwork(AdaptableNetwork):
    """Blocks that give ``[B, C, H, W]``, and heads that read the mean over all places.

    All samples of a stage cost the same. A subclass makes ``blocks`` and ``norm``, calls ``make_heads``, and says what
    is abstract here.

    Attributes:
        norm: What normalises the mean that the last head reads.
    """

    norm: nn.Module

    def make_heads(self) -> None:
        """Make the early heads and the last one, of the task and the exits in the configuration."""
        last = len(self.blocks)
        self.exit_heads = nn.ModuleList(self._head(number) for number in (self.exits.after if self.exits else ()))
        self.head: Any = self._head(last)

    def _head(self, after: int) -> nn.Module:
        """A head after so many blocks; one of vectors maps its own to the width of the last."""
        criterion = "max_softmax" if self.exits is None else self.exits.criterion
        channels, last = self.block_size(after - 1)[0], self.block_size(len(self.blocks) - 1)[0]
        vectors = "logits" not in self.task.outputs
        head: Any = task_head(self.task.name, last if vectors else channels, self.config.classes, criterion)
        if vectors and after < len(self.blocks):
            head.stand_early(channels)
        made: nn.Module = head
        return made

    @abc.abstractmethod
    def embed(self, inputs: dict[str, Tensor]) -> Tensor:
        """What the first block reads, ``[B, C, H, W]``."""

    @abc.abstractmethod
    def block_size(self, number: int) -> tuple[int, int, int]:
        """Channels, height and width of what a block gives."""

    @abc.abstractmethod
    def stem_layer(self) -> Layer:
        """Multiply-accumulates before the first block."""

    @abc.abstractmethod
    def block_layers(self, number: int) -> list[Layer]:
        """Multiply-accumulates of one block."""

    @abc.abstractmethod
    def with_exits(self, exits: ExitConfig | None) -> ConvolutionalNetwork:
        """A network of the same shape with other exits; what has weights of its own may have any."""

    def check_family(self, kind: type[Family]) -> None:
        """Exits alone.

        Raises:
            ValueError: It is another one.
        """
        if kind is not ExitConfig:
            raise ValueError(
                "got a convolutional network, which has no tokens and no FFNs, expected a transformer for every family "
                "but exits; use exits"
            )

    def with_families(self, families: Sequence[Family]) -> ConvolutionalNetwork:
        """A network of the same shape with these exits or none; weights of the same name and size are these.

        Raises:
            ValueError: The families do not fit.
        """
        for family in families:
            self.check_family(type(family))
        exits = [family for family in families if isinstance(family, ExitConfig)]
        if len(exits) > 1:
            raise ValueError("got two families 'exits', expected it at most once")
        network = self.with_exits(exits[0] if exits else None)
        own = network.state_dict()
        same = {name: value for name, value in self.state_dict().items() if name in own}
        network.load_state_dict({**own, **{n: value for n, value in same.items() if value.shape == own[n].shape}})
        return network.train(self.training)

    def unsplit(self) -> ConvolutionalNetwork:
        """The same network in one stage, without its early heads."""
        return self.with_families([])

    def first_maps(self) -> list[nn.Linear]:
        """What early heads read their answer from: no other head has as many channels."""
        found: list[nn.Linear] = []
        for head in self.exit_heads:
            linear: Any = head.early.linear if isinstance(head, EmbeddingHead) and head.early else head.classifier
            found.append(linear)
        return found

    def exit_modules(self) -> list[nn.Module]:
        """Early heads, and the last head's learned certainty."""
        return [*self.exit_heads, *([] if self.head.certainty is None else [self.head.certainty])]

    def block_tokens(self, result: Any) -> Tokens:
        """Every place is one: ``[B, C, H, W]`` -> ``[B * H * W, C]``."""
        places: Tensor = result.flatten(2).transpose(1, 2)
        return Tokens(places.reshape(-1, places.shape[2]), places.shape[1])

    def usual_exits(self) -> tuple[int, ...]:
        """After the blocks that end nearest to a third and to two thirds of the work."""
        work = [self.stem_layer().dense]
        for number in range(len(self.blocks)):
            work.append(work[-1] + sum(layer.dense for layer in self.block_layers(number)))
        places = range(1, len(self.blocks))
        wanted = [share * work[-1] for share in (1 / 3, 2 / 3)]
        return tuple(sorted({min(places, key=lambda at: abs(work[at] - macs)) for macs in wanted})) if places else ()

    def knob_specs(self) -> list[KnobSpec]:
        """None: only the host's thresholds decide how much is computed."""
        return []

    def stage_knobs(self, stage: int) -> list[str]:
        """None."""
        del stage
        return []

    def carried_specs(self, stage: int) -> list[CarriedSpec]:
        """What a stage takes from the one before."""
        if stage == 0:
            return []
        size = self.block_size(self.stage_blocks(stage).start - 1)
        hidden = NamedTensor("hidden", "float32", ("batch", *size))
        return [
            CarriedSpec(hidden, "next_hidden"),
            CarriedSpec(NamedTensor("macs_before", "float32", ("batch",)), "macs_fraction"),
            *criterion_carries(self.exit_criterion),
        ]

    def run_stage(self, stage: int, inputs: dict[str, Tensor], knobs: dict[str, Tensor]) -> StageOutput:
        """Run one stage; see ``StagedNetwork.run_stage``. No knob is read."""
        del knobs
        work = WorkCount(self.dense_macs())
        x = self.embed(inputs) if stage == 0 else inputs["hidden"]
        if stage == 0:
            work.constant(self.stem_layer().dense)
        for number in self.stage_blocks(stage):
            x = self.blocks[number](x)
            work.constant(sum(layer.dense for layer in self.block_layers(number)))
        last = stage == len(self.stage_names) - 1
        head: Any = self.head if last else self.exit_heads[stage]
        mean = x.mean((2, 3))
        found = head(self.norm(mean) if last else mean, inputs)
        work.constant(head.macs(last=last))
        macs_fraction = work.total(inputs.get("macs_before"), next(iter(found.outputs.values())))
        carried = {} if last else {"next_hidden": x, **found.carried}
        confidence = found.confidence if self.adaptive else None
        return StageOutput(found.outputs, confidence, macs_fraction, carried, [], found.certainty)

    def layers(self, tokens: int | None = None) -> list[Layer]:
        """Multiply-accumulates of every layer for one image, early heads left out; see ``adaptrt.models.macs``."""
        del tokens
        found = [self.stem_layer()]
        for number in range(len(self.blocks)):
            found += self.block_layers(number)
        return [*found, Layer("head", int(self.head.dense_macs(1)))]

    def dense_parameters(self) -> int:
        """Number of weights of the network without early heads."""
        own = (parameter.numel() for parameter in self.parameters())
        exits = (parameter.numel() for module in self.exit_modules() for parameter in module.parameters())
        return sum(own) - sum(exits)
