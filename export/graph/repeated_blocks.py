"""Trace a network's alike blocks once: each is one node while the rest is traced, and its graph is put in afterwards.

Torch needs about a second for each block of each graph, whatever the block. Blocks whose modules are the same differ in
their weights alone, which are inputs of the one graph that is traced of them. Blocks that select tokens, or that have
parts of further families, are traced where they stand: what they hand on differs. So are blocks with tables of biases
of positions: layers that share a table look up in it once, which a graph of one of them cannot know.

An export traces everything as it stands, so that what it proves depends on nothing here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from adaptrt.export.graph.merged_nodes import merge_nodes
from adaptrt.models.attention import SoftmaxAttention
from adaptrt.models.block import Block, DenseFFN, DenseProjections, Prices
from adaptrt.models.families.acm import AdaptiveFFN
from adaptrt.models.families.gate import Decision
from adaptrt.models.network import Network
from adaptrt.models.staged_network import StagedNetwork
from adaptrt.models.tokens import Selection, Tokens
from adaptrt.models.work import WorkCount

Export = Callable[[nn.Module, tuple[Tensor, ...], dict[str, Any], list[str], list[str]], onnx.ModelProto]

_DOMAIN, _OP = "adaptrt_block", "Block"
_HIDDEN, _VALID, _POSITION, _PRICE = "hidden", "valid", "position", "price"
_WEIGHT = "weight."
_BATCH, _TOKENS = "batch", "tokens"
_EXAMPLE_BATCH, _EXAMPLE_TOKENS = 3, 7


@dataclass(frozen=True)
class _Call:
    """What a traced network asked of one block: the block, what it was given, and a fixed number of tokens."""

    block: Block
    inputs: tuple[str, ...]
    tokens: int | None

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal where the graphs are, but for weights."""
        block = self.block
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in _weights(block).items())
        return repr(block), block.attention.window, shapes, self.inputs, self.tokens


@dataclass
class BlockGraphs:
    """Graphs of the blocks of networks of one shape, each kind traced once."""

    _graphs: dict[tuple[Any, ...], onnx.ModelProto] = field(default_factory=dict)
    _calls: dict[int, _Call] = field(default_factory=dict)

    def with_nodes(self, network: StagedNetwork) -> StagedNetwork:
        """A network that computes the same, and in whose traces blocks that are alike are nodes of their own."""
        if not isinstance(network, Network) or network.hard_budgets:
            return network
        other = copy.copy(network)
        other._modules = dict(network._modules)
        other.blocks = nn.ModuleList(
            _BlockNode(block, number, self._calls) if _is_plain(block) else block
            for number, block in enumerate(network.blocks)
            if isinstance(block, Block)
        )
        return other

    def put_in(self, model: onnx.ModelProto, export: Export) -> None:
        """Replace the nodes of blocks by their graphs.

        Args:
            model: As traced; changed in place.
            export: Traces a module, see ``trace.py``.
        """
        graph, nodes, given = model.graph, [], {value.name for value in model.graph.initializer}
        shapes = {v.name: v.type.tensor_type.shape for v in (*graph.value_info, *graph.input, *graph.output)}
        for node in graph.node:
            if node.domain != _DOMAIN:
                nodes.append(node)
                continue
            number = int(next(attribute.i for attribute in node.attribute if attribute.name == "number"))
            call = self._calls[number]
            if call.kind not in self._graphs:
                self._graphs[call.kind] = _traced(call, export)
            part = self._graphs[call.kind]
            symbols = {name: shapes[node.input[0]].dim[axis] for axis, name in enumerate((_BATCH, _TOKENS))}
            names = dict(zip(call.inputs, node.input, strict=True))
            names |= dict(zip((value.name for value in part.graph.output), node.output, strict=True))
            for name, tensor in _weights(call.block).items():
                weight = f"blocks.{number}.{name}"
                names[_WEIGHT + name] = weight
                if weight not in given:
                    graph.initializer.append(numpy_helper.from_array(tensor.detach().numpy(), weight))
                    given.add(weight)
            nodes += _put(graph, part.graph, f"block{number}.", names, symbols)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        kept = [opset for opset in model.opset_import if opset.domain != _DOMAIN]
        known = {opset.domain for opset in kept}
        for part in self._graphs.values():
            kept += [opset for opset in part.opset_import if opset.domain not in known]
            known |= {opset.domain for opset in part.opset_import}
        copied = [onnx.OperatorSetIdProto.FromString(opset.SerializeToString()) for opset in kept]
        del model.opset_import[:]
        model.opset_import.extend(copied)
        merge_nodes(model)


def _is_plain(block: nn.Module) -> bool:
    """Whether a block's graph needs nothing but its tokens and a price, and gives nothing but tokens and learners."""
    return (
        isinstance(block, Block)
        and block.selector is None
        and block.attention.bias is None
        and not len(block.parts)
        and type(block.ffn) in (DenseFFN, AdaptiveFFN)
        and isinstance(block.projections, DenseProjections)
    )


def _reads_positions(attention: SoftmaxAttention) -> bool:
    turned = attention.rotary_base is not None or attention.cosine is not None
    return turned or bool(attention.window) or attention.causal


def _weights(block: Block) -> dict[str, Tensor]:
    return {**dict(block.named_parameters()), **dict(block.named_buffers())}


class _BlockNode(Block):
    """A block that is one node where torch traces for ONNX, and itself elsewhere."""

    def __init__(self, block: Block, number: int, calls: dict[int, _Call]) -> None:
        nn.Module.__init__(self)
        # Not as a submodule: its weights are none of what is traced.
        self.__dict__.update(block=block, number=number, calls=calls, config=block.config)
        self.selector = None

    def forward(self, tokens: Tokens, prices: Prices) -> tuple[Tokens, list[Decision | Selection]]:
        """As the block's."""
        block: Block = self.__dict__["block"]
        if not torch.onnx.is_in_onnx_export():
            return block(tokens, prices)  # type: ignore[no-any-return]
        grouped = tokens.grouped()
        given = {_HIDDEN: grouped, _VALID: tokens.valid}
        if _reads_positions(block.attention):
            given[_POSITION] = tokens.position
        if isinstance(block.ffn, AdaptiveFFN):
            given[_PRICE] = prices.price
        inputs = {name: tensor for name, tensor in given.items() if tensor is not None}
        size = tokens.per_sample if isinstance(tokens.per_sample, int) else None
        self.__dict__["calls"][self.__dict__["number"]] = _Call(block, tuple(inputs), size)
        count = tokens.x.shape[0]
        decides = _PRICE in inputs
        outputs: Sequence[Tensor] = torch.onnx.ops.symbolic_multi_out(
            f"{_DOMAIN}::{_OP}",
            tuple(inputs.values()),
            attrs={"number": self.__dict__["number"]},
            dtypes=(torch.float32, torch.int32)[: 1 + decides],
            shapes=(grouped.shape, (count,))[: 1 + decides],
            version=1,
        )
        k = outputs[1] if decides else None
        after = tokens._replace(x=outputs[0].reshape(-1, grouped.shape[2]))
        return after, [] if k is None else [Decision(k, k, k, k)]  # of a decision graphs give k alone

    def gates(self) -> Any:
        """The block's."""
        return self.__dict__["block"].gates()

    def count(self, work: WorkCount, before: Tokens, after: Tokens, decisions: Sequence[Decision | Selection]) -> None:
        """As the block's."""
        self.__dict__["block"].count(work, before, after, decisions)

    def layers(self, name: str, tokens: int) -> Any:
        """The block's."""
        return self.__dict__["block"].layers(name, tokens)


class _Alone(nn.Module):
    """A block as a function of its tokens, its price and its weights."""

    def __init__(self, call: _Call) -> None:
        super().__init__()
        self.block, self.inputs, self.weights = call.block, call.inputs, list(_weights(call.block))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.inputs, tensors, strict=False))
        weights = dict(zip(self.weights, tensors[len(self.inputs) :], strict=True))
        hidden = given[_HIDDEN]
        x = hidden.reshape(-1, hidden.shape[2])
        tokens = Tokens(x, hidden.shape[1], given.get(_VALID), given.get(_POSITION))
        arguments = (tokens, Prices(given.get(_PRICE)))
        after, decisions = torch.func.functional_call(self.block, weights, arguments)
        return (after.grouped(), *(decision.k for decision in decisions))


def _traced(call: _Call, export: Export) -> onnx.ModelProto:
    batch = torch.export.Dim(_BATCH)
    tokens = _EXAMPLE_TOKENS if call.tokens is None else call.tokens
    sizes = {0: batch} if call.tokens is not None else {0: batch, 1: torch.export.Dim(_TOKENS)}
    examples = {
        _HIDDEN: torch.rand(_EXAMPLE_BATCH, tokens, call.block.config.width),
        _VALID: torch.ones(_EXAMPLE_BATCH, tokens, dtype=torch.bool),
        _POSITION: torch.arange(tokens, dtype=torch.int32).repeat(_EXAMPLE_BATCH, 1),
        _PRICE: torch.ones(1),
    }
    weights = {_WEIGHT + name: tensor.detach() for name, tensor in _weights(call.block).items()}
    shapes = [None if name == _PRICE else sizes for name in call.inputs] + [None] * len(weights)
    example = (*(examples[name] for name in call.inputs), *weights.values())
    outputs = ["after", "learners"][: 1 + (_PRICE in call.inputs)]
    return export(_Alone(call), example, {"tensors": tuple(shapes)}, [*call.inputs, *weights], outputs)


def _put(
    graph: onnx.GraphProto, part: onnx.GraphProto, prefix: str, names: dict[str, str], symbols: dict[str, Any]
) -> list[onnx.NodeProto]:
    """The nodes of a part under names of the whole; its constants and the shapes of its values become the whole's."""

    def renamed(name: str) -> str:
        return names.get(name, prefix + name) if name else name

    for constant in part.initializer:
        graph.initializer.add().CopyFrom(constant)
        graph.initializer[-1].name = renamed(constant.name)
    for value in part.value_info:
        other = graph.value_info.add()
        other.CopyFrom(value)
        other.name = renamed(value.name)
        for dim in other.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.CopyFrom(symbols[dim.dim_param])
            elif dim.dim_param:
                dim.Clear()  # made of sizes of the part
    nodes = []
    for node in part.node:
        other_node = onnx.NodeProto()
        other_node.CopyFrom(node)
        other_node.name = prefix + node.name
        other_node.input[:] = [renamed(name) for name in node.input]
        other_node.output[:] = [renamed(name) for name in node.output]
        nodes.append(other_node)
    return nodes
