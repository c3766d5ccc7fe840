"""Turn a trained dense ViT into one with ACMs, keeping what it has learned."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from adaptrt.models.acm import ACMConfig, AdaptiveFFN, AdaptiveProjections
from adaptrt.models.conditional_mlp import ConditionalLinear, ConditionalMLP
from adaptrt.models.vit import Block, DenseFFN, DenseProjections, ViT


def adapt(dense: ViT, acm: ACMConfig, calibration: Tensor) -> ViT:
    """Build the adaptive model of a trained dense one.

    The paper starts learners from random weights. Here each starts from a part of the layer it
    replaces: hidden units of an FFN sorted by how much they contribute, singular components of a
    projection sorted by size. With every learner running, an FFN then computes exactly what the dense
    one did, and distillation only has to improve the cheaper sums.

    Args:
        dense: The trained model.
        acm: How to replace its layers.
        calibration: Some training images, ``[B, C, H, W]``, to measure the contributions on.

    Raises:
        ValueError: The model is adaptive already.
    """
    if dense.adaptive:
        raise ValueError("got a model that is adaptive already, expected a dense one")
    adaptive = ViT(dataclasses.replace(dense.config, acm=acm))
    own = adaptive.state_dict()
    own.update({name: value for name, value in dense.state_dict().items() if name in own})
    adaptive.load_state_dict(own)
    inputs = [found.ffn for found in layer_inputs(dense, calibration)]
    with torch.no_grad():
        for block, source, x in zip(adaptive.blocks, dense.blocks, inputs, strict=True):
            assert isinstance(block, Block) and isinstance(source, Block)
            if isinstance(block.ffn, AdaptiveFFN) and isinstance(source.ffn, DenseFFN):
                _split_ffn(source.ffn, block.ffn.learners, x)
            if isinstance(block.projections, AdaptiveProjections):
                assert isinstance(source.projections, DenseProjections)
                for name in ("query", "key", "value", "out"):
                    _split_linear(getattr(source.projections, name), getattr(block.projections, name))
    return adaptive


class BlockInputs(NamedTuple):
    """What reaches the layers of one block that may be replaced, each ``[B * T, D]``.

    Attributes:
        qkv: Input of the query, key and value projections.
        out: Attended values, the input of the output projection.
        ffn: Input of the feed-forward network.
    """

    qkv: Tensor
    out: Tensor
    ffn: Tensor


@torch.no_grad()
def layer_inputs(model: ViT, pixels: Tensor) -> list[BlockInputs]:
    """Run a dense model on ``[B, C, H, W]`` and keep what reaches each block's layers."""
    x, found = model.embed_images(pixels), []
    for block in model.blocks:
        assert isinstance(block, Block) and isinstance(block.projections, DenseProjections)
        normed, p = block.norm1(x), block.projections
        attended = block.attention(p.query(normed), p.key(normed), p.value(normed))
        x = x + p.out(attended)
        ffn_input = block.norm2(x)
        x = x + block.ffn(ffn_input)
        found.append(BlockInputs(normed, attended, ffn_input))
    return found


def _split_ffn(source: DenseFFN, learners: ConditionalMLP, x: Tensor) -> None:
    activation = torch.nn.functional.gelu(source.up(x))
    contribution = activation.square().mean(0).sqrt() * source.down.weight.norm(dim=0)
    order = contribution.argsort(descending=True)
    n, hidden = learners.learners, learners.hidden
    learners.w1.copy_(source.up.weight[order].reshape(n, hidden, -1).transpose(1, 2))
    assert learners.b1 is not None
    learners.b1.copy_(source.up.bias[order].reshape(n, hidden))
    learners.w2.copy_(source.down.weight[:, order].T.reshape(n, hidden, -1))
    learners.b2.copy_(source.down.bias)


def _split_linear(source: torch.nn.Linear, learners: ConditionalLinear) -> None:
    u, s, vt = torch.linalg.svd(source.weight.T, full_matrices=False)
    n, rank = learners.learners, learners.hidden
    root = s[: n * rank].sqrt()
    learners.w1.copy_((u[:, : n * rank] * root).reshape(-1, n, rank).transpose(0, 1))
    learners.w2.copy_((root[:, None] * vt[: n * rank]).reshape(n, rank, -1))
    learners.b2.copy_(source.bias)
