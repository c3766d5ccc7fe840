"""Turn a trained dense encoder into an adaptive one, keeping what it has learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.models.block import Block, DenseFFN, DenseProjections
from adaptrt.models.encoder_config import with_families
from adaptrt.models.families.acm import ACMConfig, AdaptiveFFN, AdaptiveProjections
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.routed_ffn import RoutedFFNConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.network import Network
from adaptrt.models.symbolic.conditional_mlp import ConditionalLinear

Kind = TypeVar("Kind", bound=AdaptableNetwork)


def adapt(
    dense: Kind,
    calibration: dict[str, Tensor],
    *,
    acm: ACMConfig | None = None,
    pruning: PruningConfig | None = None,
    exits: ExitConfig | None = None,
    routed: RoutedFFNConfig | None = None,
) -> Kind:
    """Build the adaptive model of a trained dense one.

    The paper starts learners from random weights. Here each starts from a part of the layer it
    replaces: hidden units of an FFN sorted by how much they contribute, singular components of a
    projection sorted by size. With every learner running, an FFN then computes exactly what the dense
    one did, and distillation only has to improve the cheaper sums. Exit heads start as the last head; those of
    convolutional networks, whose blocks have other widths, from random weights.

    Args:
        dense: The trained model.
        calibration: Some training inputs by name, ``[B, ...]``, to measure the contributions on.
        acm: How to replace its layers; None leaves them.
        pruning: Where to select tokens; None keeps all.
        exits: Where heads stand; None leaves the last one only.
        routed: How its FFNs become a big and a small one with a router; None leaves them.

    Raises:
        ValueError: The model is adaptive already, or cannot have a family.
    """
    if dense.adaptive:
        raise ValueError("got a model that is adaptive already, expected a dense one")
    families = [family for family in (acm, pruning, exits, routed) if family is not None]
    adaptive = cast(Kind, dense.with_families(families))  # of the same class
    adaptive.train()
    with torch.no_grad():
        adaptive.start_exits(dense)
        if acm is None and routed is None:
            return adaptive
        assert isinstance(dense, Network)  # others refuse these families
        inputs = layer_inputs(dense, calibration)
        for block, source, reaching in zip(adaptive.blocks, dense.blocks, inputs, strict=True):
            assert isinstance(block, Block) and isinstance(source, Block)
            if isinstance(block.ffn, AdaptiveFFN) and isinstance(source.ffn, DenseFFN):
                block.ffn.take_over(source.ffn, reaching.ffn)
            if isinstance(block.projections, AdaptiveProjections):
                assert isinstance(source.projections, DenseProjections)
                for name in ("query", "key", "value", "out"):
                    _split_linear(getattr(source.projections, name), getattr(block.projections, name))
    return adaptive


def count_work_for(network: Network, tokens: int) -> None:
    """Make all shares of a network's work relative to the dense work of a sample of so many tokens.

    Raises:
        ValueError: Samples have one size, or never so many tokens.
    """
    network.adapter = network.adapter.counting_work_for(tokens)
    shape = dataclasses.replace(network.adapter.shape, task=network.task.name)
    network.config = with_families(shape, network.families)


class BlockInputs(NamedTuple):
    """What reaches the layers of one block that may be replaced, each ``[T, D]`` over all tokens, padding left out.

    Attributes:
        qkv: Input of the query, key and value projections.
        out: Attended values, the input of the output projection.
        ffn: Input of the feed-forward network.
    """

    qkv: Tensor
    out: Tensor
    ffn: Tensor


@torch.no_grad()
def layer_inputs(model: Network, inputs: dict[str, Tensor]) -> Iterator[BlockInputs]:
    """Run a dense model on a batch of inputs and give what reaches each block's layers, block by block.

    Those of all blocks together take gigabytes of a large model.
    """
    tokens = model.embed_inputs(inputs)
    for block in model.blocks:
        assert isinstance(block, Block) and isinstance(block.projections, DenseProjections)
        p, x = block.projections, tokens.x
        normed = x if block.post_norm else block.norm1(x)
        attended, _ = block.attention(p.query(normed), p.key(normed), p.value(normed), tokens)
        projected = p.out(attended)
        x = x + (projected if block.scale1 is None else projected * block.scale1)
        if block.post_norm:
            x = ffn_input = block.norm1(x)
        else:
            ffn_input = block.norm2(x)
        tokens = tokens._replace(x=block.ffn_sum(x, block.ffn(ffn_input)))
        reaching = BlockInputs(normed, attended, ffn_input)
        if tokens.valid is not None:
            real = tokens.valid.reshape(-1)
            reaching = BlockInputs(*(part[real] for part in reaching))
        yield reaching


def _split_linear(source: torch.nn.Linear, learners: ConditionalLinear) -> None:
    u, s, vt = torch.linalg.svd(source.weight.T, full_matrices=False)
    n, rank = learners.learners, learners.hidden
    root = s[: n * rank].sqrt()
    learners.w1.copy_((u[:, : n * rank] * root).reshape(-1, n, rank).transpose(0, 1))
    learners.w2.copy_((root[:, None] * vt[: n * rank]).reshape(n, rank, -1))
    learners.b2.copy_(source.bias)
