"""Transformer networks in stages: an adapter describes them, families make them adaptive, a task says what for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.models.adapters.adapter import Adapter
from adaptrt.models.block import Block, Prices, make_final_norm
from adaptrt.models.encoder_config import EncoderConfig, with_families
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.family import Family
from adaptrt.models.families.gate import ArgmaxGate, Decision, PriceGate
from adaptrt.models.families.hard_budgets import HardBudgets
from adaptrt.models.families.price_scale import PriceScale
from adaptrt.models.heads import EarlyMap
from adaptrt.models.macs import Layer
from adaptrt.models.network_output import NetworkOutput
from adaptrt.models.staged_network import CarriedSpec, KnobSpec, NamedTensor, StageOutput, criterion_carries
from adaptrt.models.tasks import TASKS, Task
from adaptrt.models.tokens import Dropped, Selection, Tokens
from adaptrt.models.work import WorkCount


class Network(AdaptableNetwork):
    """Blocks, heads and the bookkeeping between them.

    Args:
        adapter: Describes the architecture; its modules become the network's.
        families: What is adaptive; none: the dense network.
        task: What it is for; None: what the adapter's shape says.

    Raises:
        ValueError: They do not fit each other.
    """

    def __init__(self, adapter: Adapter[Any], families: Sequence[Family] = (), task: Task | None = None) -> None:
        super().__init__()
        self.adapter = adapter
        name = adapter.shape.task if task is None else task.name
        if name not in TASKS:
            raise ValueError(f"got task {name!r}, expected one of {', '.join(TASKS)}")
        self.task = TASKS[name]
        self.config: Any = with_families(dataclasses.replace(adapter.shape, task=name), families)
        for place, part in adapter.embedding().items():
            setattr(self, place, part)
        c: EncoderConfig = self.config
        self.blocks = nn.ModuleList(Block(c, number) for number in range(c.depth))
        self.norm = make_final_norm(c)
        self.head: Any = adapter.head(c)
        early = () if c.exits is None else c.exits.after
        self.exit_norms = nn.ModuleList(make_final_norm(c) for _ in early)
        self.exit_heads = nn.ModuleList(adapter.head(c) for _ in early)
        for head in self.exit_heads:
            if hasattr(head, "stand_early"):
                head.stand_early()  # type: ignore[operator]
        self.price_scales = nn.ModuleDict()

    @classmethod
    def from_config(cls, config: EncoderConfig) -> Network:
        """The network that ``config.json`` describes.

        Raises:
            ValueError: No adapter takes such a configuration.
        """
        from adaptrt.models.adapters import adapter_for

        return cls(adapter_for(config), config.families)

    @property
    def hard_budgets(self) -> bool:
        """Whether gates and selections can also be told exact numbers."""
        return bool(self.config.hard_budgets)

    def set_price_scales(self, scales: dict[str, PriceScale]) -> None:
        """Make one price steer several families: its map to the price of ``"acm"`` and of ``"tokens"``."""
        self.price_scales = nn.ModuleDict(scales)

    def enable_hard_budgets(self) -> None:
        """Let exports be told exact numbers of learners and tokens; needs no training.

        Raises:
            ValueError: There are no gates or selections, or not of the kind that can be.
        """
        if self.config.acm is None and self.config.pruning is None:
            super().enable_hard_budgets()
        if self.hard_budgets:
            return
        self.config = with_families(self.config, [*self.families, HardBudgets()])

    def fitted_scales(self) -> dict[str, PriceScale]:
        """Its price scales by name; empty where every family has a price on its own scale."""
        return {name: scale for name, scale in self.price_scales.items() if isinstance(scale, PriceScale)}

    def embed_inputs(self, inputs: dict[str, Tensor]) -> Tokens:
        """Make the first block's tokens from the network's inputs."""
        return self.adapter.embed(self, inputs)

    @property
    def tokens(self) -> int:
        """Tokens per sample, the class token included; where these differ, the most."""
        return self.adapter.tokens

    @property
    def class_names(self) -> tuple[str, ...]:
        """The shape's."""
        names: tuple[str, ...] = self.config.class_names
        return names

    @property
    def work_tokens(self) -> int | None:
        """The adapter's, where samples have different numbers of tokens; else None."""
        return self.adapter.work_tokens if self.adapter.ragged else None

    @property
    def token_axis(self) -> int | str:
        """How many tokens a sample has before any selection, or the input's axis that says so."""
        return self.adapter.token_axis

    def input_specs(self) -> list[NamedTensor]:
        """The adapter's inputs."""
        return self.adapter.inputs()

    def axis_limits(self) -> dict[str, tuple[int, int | None]]:
        """The adapter's limits."""
        return self.adapter.axis_limits()

    def traced_limits(self) -> dict[str, tuple[int, int | None]]:
        """The adapter's."""
        return self.adapter.traced_limits()

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random inputs of a batch, by name."""
        return self.adapter.example_inputs(batch)

    def example_sizes(self) -> dict[str, int]:
        """Sizes of named axes in traces, the inputs' own axis of tokens among them."""
        sizes = super().example_sizes()
        return sizes if isinstance(self.token_axis, int) else {**sizes, self.token_axis: sizes["tokens"]}

    def start_exits(self, dense: AdaptableNetwork) -> None:
        """Early heads start as the dense network's last one, with its norm."""
        assert isinstance(dense, Network)
        for head, norm in zip(self.exit_heads, self.exit_norms, strict=True):
            head.load_state_dict(dense.head.state_dict(), strict=False)
            norm.load_state_dict(dense.norm.state_dict())

    def first_maps(self) -> list[nn.Linear]:
        """Those of early vectors."""
        early = [getattr(head, "early", None) for head in self.exit_heads]
        return [module.linear for module in early if isinstance(module, EarlyMap)]

    def fixed_parts(self) -> list[nn.Module | nn.Parameter]:
        """The embedding: nothing in it is adaptive, and tables of words would make up most of an optimiser's work."""
        parts = [getattr(self, name) for name in self.adapter.embedding()]
        return [part for part in parts if part is not None]

    def block_tokens(self, result: tuple[Tokens, Any]) -> Tokens:
        """The tokens."""
        return result[0]

    def exit_modules(self) -> list[nn.Module]:
        """Early heads with their norms, and the last head's learned certainty."""
        modules: list[nn.Module] = [*self.exit_heads, *self.exit_norms]
        return modules if self.head.certainty is None else [*modules, self.head.certainty]

    def _stage_modules(self, stage: int) -> list[Block]:
        modules = [self.blocks[number] for number in self.stage_blocks(stage)]
        assert all(isinstance(block, Block) for block in modules)
        return modules  # type: ignore[return-value]

    def gates(self) -> list[PriceGate | ArgmaxGate]:
        """Every gate, in the order of the decisions in ``NetworkOutput``."""
        gates: list[PriceGate | ArgmaxGate] = []
        for block in self.blocks:
            assert isinstance(block, Block)
            gates += block.gates()
        return gates

    def price_limits(self) -> tuple[float, float]:
        """Prices at which everything runs, and at which as little as may be does.

        Raises:
            ValueError: Nothing in the model has a price.
        """
        if len(self.price_scales):
            return 0.0, max(float(scale.maximum) for scale in self.price_scales.values())  # type: ignore[arg-type]
        limits = [family.price_limits(self) for family in self.families]
        known = [pair for pair in limits if pair is not None]
        if not known:
            raise ValueError("got a model without prices, expected one with ACMs or price-driven pruning")
        return min(low for low, _ in known), max(high for _, high in known)

    def priced(self) -> list[Family]:
        """The families that a price steers: the first by ``price``, each later one by a price of its own, too."""
        return [family for family in self.families if family.price_limits(self) is not None]

    @property
    def prunes_by_price(self) -> bool:
        """Whether token selections compare with a price."""
        return any(family is self.config.pruning for family in self.priced())

    def knob_specs(self) -> list[KnobSpec]:
        """The graph inputs that change how much is computed, of the whole network."""
        knobs, priced = [], self.priced()
        if priced:
            low, high = self.price_limits()
            knobs.append(KnobSpec("price", "float32", (1,), low, high, low))
            knobs += [KnobSpec(family.own_price, "float32", (1,), -1.0, high, -1.0) for family in priced[1:]]
        return knobs + [knob for family in self.families for knob in family.number_knobs(self)]

    def stage_knobs(self, stage: int) -> list[str]:
        """Names of the knobs that a stage reads."""
        blocks, read = self._stage_modules(stage), set()
        priced = self.priced()
        for family in self.families:
            if any(family.stands_in(block) for block in blocks):
                read |= {knob.name for knob in family.number_knobs(self)}
                if family in priced:
                    read |= {"price"} if family is priced[0] else {"price", family.own_price}
        return [spec.name for spec in self.knob_specs() if spec.name in read]

    def carried_specs(self, stage: int) -> list[CarriedSpec]:
        """What a stage takes from the one before."""
        if stage == 0:
            return []
        c = self.config
        ragged = self._ragged_before(self.stage_blocks(stage).start)
        # An answer for every token is as long as the inputs; else padding may be cut off between stages.
        axis: int | str = self.adapter.token_axis if self.task.per_token else "tokens"
        count = axis if ragged else self.tokens
        specs = [CarriedSpec(NamedTensor("hidden", "float32", ("batch", count, c.width)), "next_hidden")]
        if ragged:
            specs.append(CarriedSpec(NamedTensor("valid", "bool", ("batch", count)), "next_valid"))
            specs.append(CarriedSpec(NamedTensor("index", "int32", ("batch", count)), "next_index"))
        if self._cut_before(self.stage_blocks(stage).start) and c.pruning.averages_dropped:
            specs.append(CarriedSpec(NamedTensor("dropped", "float32", ("batch", c.width)), "next_dropped"))
            specs.append(CarriedSpec(NamedTensor("dropped_count", "float32", ("batch",)), "next_dropped_count"))
        specs.append(CarriedSpec(NamedTensor("macs_before", "float32", ("batch",)), "macs_fraction"))
        return specs + criterion_carries(self.exit_criterion)

    def _ragged_before(self, block: int) -> bool:
        """Whether samples may have different numbers of tokens before a block."""
        return self.adapter.ragged or self._cut_before(block)

    def _cut_before(self, block: int) -> bool:
        """Whether tokens are selected before a block."""
        return self.config.pruning is not None and self.config.pruning.blocks[0] < block

    def _prices(self, knobs: dict[str, Tensor]) -> Prices:
        """What each family compares with: the common price or its own knob's, by its scale where there is one."""
        common, families = knobs.get("price"), self.priced()
        prices: dict[str, Tensor] = {}
        for number, family in enumerate(families if common is not None else ()):
            assert common is not None
            prices[family.name] = common
            follows = knobs.get(family.own_price) if number else None
            if follows is not None:  # in training one for each sample, which never follows
                prices[family.name] = torch.where(follows < 0, common, follows) if follows.ndim == 1 else follows
        for family in families:
            if family.name in prices and family.scale in self.price_scales:
                prices[family.name] = self.price_scales[family.scale](prices[family.name])
        known = ("price", "token_price", "capacity", "keep")
        others = {name: value for name, value in knobs.items() if name not in known}
        others |= {
            f.own_price: prices[f.name] for f in families if f.name in prices and f.name not in ("acm", "pruning")
        }
        return Prices(prices.get("acm"), prices.get("pruning"), knobs.get("capacity"), knobs.get("keep"), others)

    def run_stage(self, stage: int, inputs: dict[str, Tensor], knobs: dict[str, Tensor]) -> StageOutput:
        """Run one stage; see ``StagedNetwork.run_stage``."""
        work = WorkCount(self.dense_macs())
        if stage == 0:
            tokens = self.embed_inputs(inputs)
            self.adapter.count_embedding(self, work, tokens)
        else:
            hidden = inputs["hidden"]
            x = hidden.reshape(-1, hidden.shape[2])
            presence = inputs.get("presence")
            gone = Dropped(inputs["dropped"], inputs["dropped_count"]) if "dropped" in inputs else None
            place = inputs.get("index")
            tokens = Tokens(x, hidden.shape[1], inputs.get("valid"), place, presence=presence, dropped=gone)
        prices = self._prices(knobs)
        decisions: list[Decision | Selection] = []
        for block in self._stage_modules(stage):
            before = tokens
            tokens, block_decisions = block(tokens, prices)
            block.count(work, before, tokens, block_decisions)
            decisions += block_decisions
        last = stage == len(self.stage_names) - 1
        head: Any = self.head if last else self.exit_heads[stage]
        norm = self.norm if last else self.exit_norms[stage]
        answer = head.read(tokens, norm, self.config.class_token, inputs)
        head.count(work, tokens, last=last)
        macs_fraction = work.total(inputs.get("macs_before"), next(iter(answer.outputs.values())))
        carried = {} if last else {**self._carried(stage, tokens), **answer.carried}
        confidence = answer.confidence if self.config.exits is not None else None
        return StageOutput(answer.outputs, confidence, macs_fraction, carried, decisions, answer.certainty)

    def _carried(self, stage: int, tokens: Tokens) -> dict[str, Tensor]:
        given = {"next_hidden": tokens.grouped()}
        if tokens.presence is not None:
            given["next_presence"] = tokens.presence
        if tokens.dropped is not None:
            given |= {"next_dropped": tokens.dropped.total, "next_dropped_count": tokens.dropped.number}
        if self._ragged_before(self.stage_blocks(stage).stop) and tokens.valid is not None:
            assert tokens.position is not None
            given |= {"next_valid": tokens.valid, "next_index": tokens.position}
        return given

    def forward(
        self, *tensors: Tensor | None, price: Tensor | None = None, token_price: Tensor | None = None
    ) -> NetworkOutput:
        """Run all stages on all samples, nobody leaving early.

        Args:
            tensors: The inputs in their order; behind them, perhaps, the price and the tokens' price.
            price: float32 ``[1]``, or in training one per sample, ``[B, 1]``. Not read by a dense model.
            token_price: Of token selections, likewise; None: they follow ``price``.
        """
        names = [spec.name for spec in self.input_specs()]
        inputs = {name: tensor for name, tensor in zip(names, tensors, strict=False) if tensor is not None}
        positional = dict(zip(("price", "token_price"), tensors[len(names) :], strict=False))
        given = {"price": price, "token_price": token_price, **positional}
        return self.run(inputs, {name: value for name, value in given.items() if value is not None})

    @property
    def made_from_dense(self) -> bool:
        """Where the adapter's networks are."""
        return self.adapter.made_from_dense

    def layers(self, tokens: int | None = None) -> list[Layer]:
        """Multiply-accumulates of every layer for one sample, no token pruned; see ``adaptrt.models.macs``.

        Args:
            tokens: Of the blocks' and the head's; None: those of the sample that work is relative to.
        """
        tokens = self.adapter.work_tokens if tokens is None else tokens
        layers = [Layer("embed", self.adapter.embedding_macs(self))]
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            layers += block.layers(f"blocks.{number}", tokens)
        return [*layers, Layer("head", int(self.head.dense_macs(tokens)))]

    def with_families(self, families: Sequence[Family]) -> Network:
        """A network of the same shape with these families; weights of the same name and size are these, others new.

        Raises:
            ValueError: The families do not fit.
        """
        network = Network(self.adapter, families, self.task)
        weights = network.state_dict()
        weights.update({name: value for name, value in self.state_dict().items() if name in weights})
        network.load_state_dict(weights)
        return network.train(self.training)

    def unsplit(self) -> Network:
        """The same network in one stage, without its early heads."""
        whole = self.with_families([family for family in self.families if not isinstance(family, ExitConfig)])
        whole.set_price_scales(self.fitted_scales())
        return whole

    def dense_parameters(self) -> int:
        """Number of weights of the dense model."""
        with torch.device("meta"):  # the shape is enough
            return sum(parameter.numel() for parameter in Network(self.adapter, (), self.task).parameters())
