"""A decoder as one ONNX graph of standard operators; ``models/decoder.py`` says what its inputs are."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from adaptrt.export.graph.trace import export_module
from adaptrt.models.decoder import CacheRows, Decoder

INPUTS = ("input_ids", "position_ids", "attention_bias", "logit_rows")


class _Flat(nn.Module):
    """A decoder whose cache is a list of tensors: key, value, layer after layer."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs, past = tensors[: len(INPUTS)], tensors[len(INPUTS) :]
        rows = [CacheRows(*past[i : i + 2]) for i in range(0, len(past), 2)]
        logits, new = self.decoder(*inputs, rows)
        return (logits, *(tensor for layer in new for tensor in layer))


def cache_names(prefix: str, depth: int) -> list[str]:
    """Names of the cache's tensors: ``<prefix>.<layer>.key`` and ``.value``, layer after layer."""
    return [f"{prefix}.{layer}.{part}" for layer in range(depth) for part in CacheRows._fields]


def trace_decoder(decoder: Decoder) -> onnx.ModelProto:
    """Trace a decoder in evaluation mode.

    Returns:
        A graph with the inputs ``INPUTS`` and ``past.<layer>.key|value``, the outputs ``logits`` and
        ``new.<layer>.key|value``; sizes ``batch``, ``new``, ``past`` and ``rows`` of logits are dynamic.
    """
    depth = decoder.config.depth
    # No size of the example is 1, or equal to another: the tracer would take them for constants, or for one.
    batch, new, past, rows = 2, 3, 5, 4
    example = (
        torch.zeros(batch, new, dtype=torch.int64),
        torch.arange(new).expand(batch, new).contiguous(),
        torch.zeros(batch, 1, new, past + new),
        torch.zeros(batch, rows, dtype=torch.int64),
        *(tensor for layer in decoder.empty_cache(batch, past) for tensor in layer),
    )
    size = {name: torch.export.Dim(name, min=1) for name in ("batch", "new", "rows")}
    size["past"] = torch.export.Dim("past", min=0)
    tokens = {0: size["batch"], 1: size["new"]}
    shapes = (
        tokens,
        tokens,
        {0: size["batch"], 2: size["new"], 3: torch.export.Dim.DYNAMIC},
        {0: size["batch"], 1: size["rows"]},
        *[{0: size["batch"], 2: size["past"]}] * (2 * depth),
    )
    inputs, outputs = [*INPUTS, *cache_names("past", depth)], ["logits", *cache_names("new", depth)]
    graph = export_module(_Flat(decoder), example, {"tensors": shapes}, inputs, outputs)
    # Past and new together: the exporter takes no sum of two named sizes, and invents a name.
    bias = next(value for value in graph.graph.input if value.name == "attention_bias")
    invented = bias.type.tensor_type.shape.dim[3].dim_param
    for value in (*graph.graph.input, *graph.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == invented:
                dimension.dim_param = "past + new"
    return graph
