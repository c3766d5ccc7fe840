"""Transformer encoders that classify, in stages: what vision and text encoders share."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from adaptrt.models.block import Block, EncoderConfig, Prices
from adaptrt.models.families.acm import AdaptiveFFN, AdaptiveProjections
from adaptrt.models.families.exit_head import ExitConfig, ExitHead
from adaptrt.models.families.gate import ArgmaxGate, Decision, PriceGate
from adaptrt.models.families.price_scale import PriceScale
from adaptrt.models.macs import Layer
from adaptrt.models.staged_network import CarriedSpec, KnobSpec, NamedTensor, StagedNetwork, StageOutput
from adaptrt.models.tokens import Selection, Tokens
from adaptrt.models.work import WorkCount


class EncoderOutput(NamedTuple):
    """Output of an encoder when nobody leaves early.

    Attributes:
        logits: ``[B, classes]``.
        macs_fraction: float32 ``[B]``: multiply-accumulates as a share of the dense model's.
        decisions: One per gate, in the order of ``Encoder.gates()``; each over B * K tokens.
        selections: One per token selection.
        stages: What each stage gave, the last one's logits and share being those above.
    """

    logits: Tensor
    macs_fraction: Tensor
    decisions: list[Decision]
    selections: list[Selection]
    stages: list[StageOutput]


class Encoder(StagedNetwork):
    """Blocks, heads and the bookkeeping between them; subclasses make the tokens."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config

    def _add_blocks(self) -> None:
        """Add what follows the embedding: blocks, heads, and, where the model is adaptive, price scales."""
        c = self.config
        self.blocks = nn.ModuleList(Block(c, number) for number in range(c.depth))
        self.norm = nn.LayerNorm(c.width, eps=1e-6)
        criterion = "max_softmax" if c.exits is None else c.exits.criterion
        self.head = ExitHead(c.width, c.classes, criterion)
        early = () if c.exits is None else c.exits.after
        self.exit_norms = nn.ModuleList(nn.LayerNorm(c.width, eps=1e-6) for _ in early)
        self.exit_heads = nn.ModuleList(ExitHead(c.width, c.classes, criterion) for _ in early)
        self.price_scales = nn.ModuleDict()

    def set_price_scales(self, scales: dict[str, PriceScale]) -> None:
        """Make one price steer several families: its map to the price of ``"acm"`` and of ``"tokens"``."""
        self.price_scales = nn.ModuleDict(scales)

    def enable_hard_budgets(self) -> None:
        """Let exports be told exact numbers of learners and tokens; needs no training.

        Raises:
            ValueError: Gates or selections are not of the kind that can be.
        """
        self.config = dataclasses.replace(self.config, hard_budgets=True)

    def clear_price_scales(self) -> None:
        """Let every family have a price on its own scale."""
        self.price_scales = nn.ModuleDict()

    @abc.abstractmethod
    def embed_inputs(self, inputs: dict[str, Tensor]) -> Tokens:
        """Make the first block's tokens from the network's inputs."""

    @property
    @abc.abstractmethod
    def tokens(self) -> int:
        """Tokens per sample that work is counted for, the class token included."""

    @property
    def ragged_inputs(self) -> bool:
        """Whether samples have different numbers of tokens from the start, which ``embed_inputs`` then marks."""
        return False

    @property
    @abc.abstractmethod
    def embedding_macs(self) -> int:
        """Multiply-accumulates of the embedding for one sample."""

    @property
    def adaptive(self) -> bool:
        """Whether any module's work depends on its input or on a knob."""
        return self.config.adaptive

    @property
    def exits(self) -> ExitConfig | None:
        """Where early heads stand."""
        return self.config.exits

    def exit_modules(self) -> list[nn.Module]:
        """Early heads with their norms, and the last head's learned certainty."""
        found: list[nn.Module] = [*self.exit_heads, *self.exit_norms]
        return found if self.head.certainty is None else [*found, self.head.certainty]

    def stage_blocks(self, stage: int) -> range:
        """Numbers of a stage's blocks."""
        ends = [0, *(() if self.config.exits is None else self.config.exits.after), self.config.depth]
        return range(ends[stage], ends[stage + 1])

    def _stage_modules(self, stage: int) -> list[Block]:
        found = [self.blocks[number] for number in self.stage_blocks(stage)]
        assert all(isinstance(block, Block) for block in found)
        return found  # type: ignore[return-value]

    def gates(self) -> list[PriceGate | ArgmaxGate]:
        """Every gate, in the order of the decisions in ``EncoderOutput``."""
        found: list[PriceGate | ArgmaxGate] = []
        for block in self.blocks:
            assert isinstance(block, Block)
            found += block.gates()
        return found

    def price_limits(self) -> tuple[float, float]:
        """Prices at which everything runs, and at which as little as may be does.

        Raises:
            ValueError: Nothing in the model has a price.
        """
        if len(self.price_scales):
            return 0.0, max(float(scale.maximum) for scale in self.price_scales.values())  # type: ignore[arg-type]
        limits = [gate.price_limits for gate in self.gates()]
        if self.prunes_by_price:
            limits.append((0.0, 1.0))
        if not limits:
            raise ValueError("got a model without prices, expected one with ACMs or price-driven pruning")
        return min(low for low, _ in limits), max(high for _, high in limits)

    @property
    def prunes_by_price(self) -> bool:
        """Whether token selections compare with a price."""
        return self.config.pruning is not None and self.config.pruning.rule == "price"

    def knob_specs(self) -> list[KnobSpec]:
        """The graph inputs that change how much is computed, of the whole network."""
        c, found = self.config, []
        if c.acm is not None or self.prunes_by_price:
            low, high = self.price_limits()
            found.append(KnobSpec("price", "float32", (1,), low, high, low))
            if c.acm is not None and self.prunes_by_price:
                found.append(KnobSpec("token_price", "float32", (1,), -1.0, high, -1.0))
        if c.acm is not None and c.hard_budgets:
            gates = len(self.gates())
            most = c.acm.learners * self.tokens
            found.append(KnobSpec("capacity", "int32", (gates,), -1, most, -1))
        if c.pruning is not None and (c.hard_budgets or c.pruning.rule != "price"):
            found.append(KnobSpec("keep", "int32", (len(c.pruning.blocks),), -1, self.tokens, -1))
        return found

    def stage_knobs(self, stage: int) -> list[str]:
        """Names of the knobs that a stage reads."""
        blocks = self._stage_modules(stage)
        adaptive = any(block.gates() for block in blocks)
        prunes = any(block.selector is not None for block in blocks)
        read = {"capacity": adaptive, "keep": prunes, "token_price": prunes}
        read["price"] = adaptive or (prunes and self.prunes_by_price)
        return [spec.name for spec in self.knob_specs() if read[spec.name]]

    def carried_specs(self, stage: int) -> list[CarriedSpec]:
        """What a stage takes from the one before."""
        if stage == 0:
            return []
        c = self.config
        ragged = self._ragged_before(self.stage_blocks(stage).start)
        count: int | str = "tokens" if ragged else self.tokens
        specs = [CarriedSpec(NamedTensor("hidden", "float32", ("batch", count, c.width)), "next_hidden")]
        if ragged:
            specs.append(CarriedSpec(NamedTensor("valid", "bool", ("batch", "tokens")), "next_valid"))
            specs.append(CarriedSpec(NamedTensor("index", "int32", ("batch", "tokens")), "next_index"))
        specs.append(CarriedSpec(NamedTensor("macs_before", "float32", ("batch",)), "macs_fraction"))
        if self.exit_criterion == "patience":
            specs.append(CarriedSpec(NamedTensor("prediction", "int64", ("batch",)), "next_prediction"))
            specs.append(CarriedSpec(NamedTensor("streak", "float32", ("batch",)), "next_streak"))
        return specs

    def _ragged_before(self, block: int) -> bool:
        """Whether samples may have different numbers of tokens before a block."""
        pruning = self.config.pruning
        return self.ragged_inputs or (pruning is not None and any(number < block for number in pruning.blocks))

    def selections_in(self, stage: int) -> int:
        """How many token selections a stage makes."""
        return sum(block.selector is not None for block in self._stage_modules(stage))

    def gates_in(self, stage: int) -> int:
        """How many gates a stage has."""
        return sum(len(block.gates()) for block in self._stage_modules(stage))

    def _prices(self, knobs: dict[str, Tensor]) -> Prices:
        price = knobs.get("price")
        follows = knobs.get("token_price")
        token_price = price
        if follows is not None and price is not None:
            token_price = torch.where(follows < 0, price, follows) if follows.ndim == 1 else follows
        if price is not None:
            if "acm" in self.price_scales:
                price = self.price_scales["acm"](price)
            if "tokens" in self.price_scales and token_price is not None:
                token_price = self.price_scales["tokens"](token_price)
        return Prices(price, token_price, knobs.get("capacity"), knobs.get("keep"))

    def run_stage(self, stage: int, inputs: dict[str, Tensor], knobs: dict[str, Tensor]) -> StageOutput:
        """Run one stage; see ``StagedNetwork.run_stage``."""
        work = WorkCount(self.dense_macs())
        if stage == 0:
            tokens = self.embed_inputs(inputs)
            work.constant(self.embedding_macs)
        else:
            hidden = inputs["hidden"]
            x = hidden.reshape(-1, hidden.shape[2])
            presence = inputs.get("presence")
            tokens = Tokens(x, hidden.shape[1], inputs.get("valid"), inputs.get("index"), presence=presence)
        prices = self._prices(knobs)
        decisions: list[Decision | Selection] = []
        for block in self._stage_modules(stage):
            before = tokens
            tokens, made = block(tokens, prices)
            self._count(work, block, before, tokens, made)
            decisions += made
        last = stage == len(self.stage_names) - 1
        head, norm = (self.head, self.norm) if last else (self.exit_heads[stage], self.exit_norms[stage])
        assert isinstance(head, ExitHead)
        found = head(norm(self._pooled(tokens)), inputs)
        work.constant(head.macs(last=last))
        macs_fraction = work.total(inputs.get("macs_before"), found.logits)
        carried = {} if last else {**self._carried(stage, tokens), **found.carried}
        confidence = found.confidence if self.config.exits is not None else None
        outputs = {"logits": found.logits}
        return StageOutput(outputs, confidence, macs_fraction, carried, decisions, found.certainty)

    def _carried(self, stage: int, tokens: Tokens) -> dict[str, Tensor]:
        given = {"next_hidden": tokens.grouped()}
        if tokens.presence is not None:
            given["next_presence"] = tokens.presence
        if self._ragged_before(self.stage_blocks(stage).stop) and tokens.valid is not None:
            assert tokens.position is not None
            given |= {"next_valid": tokens.valid, "next_index": tokens.position}
        return given

    def _pooled(self, tokens: Tokens) -> Tensor:
        """What a head reads, ``[B, D]``: the class token, or the mean of the tokens there are."""
        grouped = tokens.grouped()
        if self.config.class_token:
            return grouped[:, 0]
        weight = tokens.valid if tokens.presence is None else tokens.presence
        if tokens.size is not None:
            weight = tokens.size
        if weight is None:
            return grouped.mean(1)
        weight = weight.to(grouped.dtype)[:, :, None]
        mean: Tensor = (grouped * weight).sum(1) / weight.sum(1)
        return mean

    def _count(
        self, work: WorkCount, block: Block, before: Tokens, after: Tokens, made: Sequence[Decision | Selection]
    ) -> None:
        """Count a block: projections and attention for the tokens before its selection, the FFN after."""
        c = self.config
        gates = [decision for decision in made if isinstance(decision, Decision)]
        if isinstance(block.projections, AdaptiveProjections):
            parts = block.projections.layers("", 1)
            for part, decision in zip(parts, gates, strict=False):
                work.tokens(before, per_token=part.gate)
                work.learners(before, decision.k, part.per_run)
            work.tokens(before, per_pair=2 * c.width)
        else:
            work.tokens(before, per_token=4 * c.width**2, per_pair=2 * c.width)
        if block.selector is not None:
            work.constant(block.selector.macs(before.per_sample, c.width // c.heads))
        if isinstance(block.ffn, AdaptiveFFN):
            work.tokens(after, per_token=block.ffn.gate.macs_per_token)
            work.learners(after, gates[-1].k, block.ffn.learners.macs_per_run)
        else:
            work.tokens(after, per_token=2 * c.width * c.ffn_width)

    def run(self, inputs: dict[str, Tensor], knobs: dict[str, Tensor]) -> EncoderOutput:
        """Run all stages on all samples, nobody leaving."""
        stages = self.run_stages(inputs, knobs)
        made = [decision for stage in stages for decision in stage.decisions]
        return EncoderOutput(
            stages[-1].logits,
            stages[-1].macs_fraction,
            [decision for decision in made if isinstance(decision, Decision)],
            [decision for decision in made if isinstance(decision, Selection)],
            stages,
        )

    def layers(self) -> list[Layer]:
        """Multiply-accumulates of every layer for one sample, no token pruned; see ``adaptrt.models.macs``."""
        c, tokens = self.config, self.tokens
        found = [Layer("embed", self.embedding_macs)]
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            found.append(Layer(f"blocks.{index}.attention", 2 * tokens**2 * c.width))
            if isinstance(block.projections, AdaptiveProjections):
                found += block.projections.layers(f"blocks.{index}", tokens)
            else:
                found.append(Layer(f"blocks.{index}.projections", tokens * 4 * c.width**2))
            dense_ffn = tokens * 2 * c.width * c.ffn_width
            if isinstance(block.ffn, AdaptiveFFN):
                found.append(block.ffn.layer(f"blocks.{index}.ffn", tokens, dense_ffn))
            else:
                found.append(Layer(f"blocks.{index}.ffn", dense_ffn))
        found.append(Layer("head", c.width * c.classes))
        return found

    def dense_macs(self) -> int:
        """Multiply-accumulates of the dense model for one sample."""
        return sum(layer.dense for layer in self.layers())

    def unsplit(self) -> Encoder:
        """The same network in one stage, without its early heads."""
        whole = type(self)(dataclasses.replace(self.config, exits=None))
        own = whole.state_dict()
        whole.load_state_dict({name: value for name, value in self.state_dict().items() if name in own})
        scales = {name: scale for name, scale in self.price_scales.items() if isinstance(scale, PriceScale)}
        whole.set_price_scales(scales)
        return whole.train(self.training)

    def dense_parameters(self) -> int:
        """Number of weights of the dense model."""
        plain = dataclasses.replace(self.config, acm=None, pruning=None, exits=None, hard_budgets=False)
        with torch.device("meta"):  # the shape is enough
            return sum(parameter.numel() for parameter in type(self)(plain).parameters())
