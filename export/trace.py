"""Torch model to ONNX graph with ``adaptrt`` nodes; their bodies are attached in ``bodies.py``."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from adaptrt.models.vit import ViT
from adaptrt.ops.record import IR_VERSION, ONNX_OPSET

_EXAMPLE_BATCH = 3  # a dynamic dimension whose example size is 0 or 1 would be frozen


class _Adaptive(nn.Module):
    """The adaptive model with a graph's flat outputs."""

    def __init__(self, model: ViT, debug: bool) -> None:
        super().__init__()
        self.model, self.debug = model, debug

    def forward(self, pixels: Tensor, price: Tensor) -> tuple[Tensor, ...]:
        out = self.model(pixels, price)
        if not self.debug:
            return out.logits, out.macs_fraction
        runs = torch.stack([decision.k for decision in out.decisions])
        learners = runs.reshape(len(out.decisions), -1, self.model.config.tokens).transpose(0, 1)
        return out.logits, out.macs_fraction, learners


class _Dense(nn.Module):
    """The dense model with logits as its only output."""

    def __init__(self, model: ViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(pixels).logits
        return logits


def trace(model: ViT, *, debug: bool = False) -> onnx.ModelProto:
    """Trace a model in evaluation mode to ONNX opset 20 with a dynamic batch.

    Args:
        model: Dense or adaptive.
        debug: Adds the output ``learners``, int32 ``[B, L, T]``: learners run per gate and token.

    Returns:
        A graph with input ``pixels`` ``[batch, C, H, W]`` and, for an adaptive model, ``price`` float32
        ``[1]``; outputs ``logits`` and, for an adaptive model, ``macs_fraction`` float32 ``[batch]``.
        Nodes of adaptive modules are in the domain ``adaptrt`` and have no bodies yet.

    The example's price is the highest one: nothing runs in it. What a graph can do must not depend on
    what its example did, and an export that lost unused learners would show at once.
    """
    c = model.config
    pixels = torch.rand(_EXAMPLE_BATCH, c.channels, c.image_size, c.image_size)
    shapes: dict[str, Any] = {"pixels": {0: torch.export.Dim("batch")}}
    if model.adaptive:
        price = torch.tensor([model.price_limits()[1]])
        outputs = ["logits", "macs_fraction"] + ["learners"] * debug
        return _export(
            _Adaptive(model, debug), (pixels, price), {**shapes, "price": None}, ["pixels", "price"], outputs
        )
    return _export(_Dense(model), (pixels,), shapes, ["pixels"], ["logits"])


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    shapes: dict[str, Any],
    inputs: list[str],
    outputs: list[str],
) -> onnx.ModelProto:
    module.eval()
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # it lists every torchvision op that it could not register
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=ONNX_OPSET,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
    finally:
        quiet.setLevel(level)
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    graph.ir_version = IR_VERSION
    for node in [*graph.graph.node, *graph.graph.initializer, *graph.graph.value_info]:
        del node.metadata_props[:]  # traces of the source files, machine paths among them
        node.doc_string = ""
    for value in [*graph.graph.input, *graph.graph.output]:
        del value.metadata_props[:]
    del graph.metadata_props[:]
    del graph.graph.metadata_props[:]
    graph.graph.doc_string = ""
    return graph
