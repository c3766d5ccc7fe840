"""From a transformers layer to a block of ours: options that follow from its weights, and the weights themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from adaptrt.models.adapters.pretrained.observed import Observed, norm_epsilon, norm_kind
from adaptrt.models.adapters.pretrained.rows import PretrainedError, Row
from adaptrt.models.block import Block, DenseFFN, DenseProjections

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Names of transformers, and ours."""


def layer_config(model: nn.Module, path: str) -> Any:
    """Configuration of the innermost model around a layer: of a tower, not of the whole."""
    found = getattr(model, "config", None)
    names = path.split(".")
    for end in range(1, len(names)):
        module = model.get_submodule(".".join(names[:end]))
        if type(module).__name__.endswith(("Model", "Encoder", "Transformer")):
            found = getattr(module, "config", None) or found
    return found


def shape_options(observed: Observed, row: Row, config: Any) -> dict[str, Any]:
    """Options of ``EncoderConfig`` that follow from the weights and the configuration.

    Raises:
        PretrainedError: The block has no such option, or layers differ.
    """
    first = observed.calls[0].layer
    query, key, _ = _projections(first, row, int(config.num_attention_heads), _key_heads(config))
    out, up = _linear(first, row.out)[0], _linear(first, row.up or row.gate)[0]
    width, heads = int(out.shape[0]), int(config.num_attention_heads)
    head_size = len(query[0]) // heads
    norms = [call.layer.get_submodule(name) for call in observed.calls for name in (row.norm1, row.norm2)]
    if observed.final_norm is not None:
        norms.append(observed.final_norm)
    norms = [norm for norm in norms if not isinstance(norm, nn.Identity)]
    kinds, epsilons = {norm_kind(norm) for norm in norms}, {norm_epsilon(norm) for norm in norms}
    if len(kinds) != 1 or None in kinds or len(epsilons) != 1:
        raise PretrainedError(
            f"got normalisations of the kinds {sorted(map(str, kinds))} and epsilons {sorted(epsilons)}, expected "
            "LayerNorm or RMSNorm with one epsilon; use another model"
        )
    name = row.activation or _configured_activation(config)
    post_norm = row.post_norm if row.post_norm is not None else not getattr(config, row.pre_norm_flag, False)
    return {
        "width": width,
        "depth": len(observed.calls),
        "heads": heads,
        "ffn_width": int(up.shape[0]) // (1 if row.up else 2),
        "head_size": None if head_size * heads == width else head_size,
        "key_heads": None if len(key[0]) == len(query[0]) else len(key[0]) // head_size,
        "post_norm": post_norm,
        "norm": kinds.pop(),
        "epsilon": epsilons.pop(),
        "activation": name,
        "gated": bool(row.gate),
        "attention_bias": _any_bias(first, (*row.projections, row.out)),
        "ffn_bias": _any_bias(first, tuple(part for part in (row.up, row.gate, row.down) if part)),
        "first_norm": not isinstance(first.get_submodule(row.norm1), nn.Identity),
        "final_norm": observed.final_norm is not None,
    }


@torch.no_grad()
def fill_block(block: Block, layer: nn.Module, row: Row) -> None:
    """Give a dense block a layer's weights; scales go into the maps before them."""
    c, p, ffn = block.config, block.projections, block.ffn
    assert isinstance(p, DenseProjections) and isinstance(ffn, DenseFFN)
    parts = _projections(layer, row, c.heads, c.key_heads)
    for linear, (weight, bias) in zip((p.query, p.key, p.value), parts, strict=True):
        _fill(linear, weight, bias)
    scales = [layer.get_parameter(name)[:, None] for name in row.scales] or [torch.ones(1, 1)] * 2
    for linear, name, scale in ((p.out, row.out, scales[0]), (ffn.down, row.down, scales[1])):
        weight, bias = _linear(layer, name)
        _fill(linear, weight * scale, None if bias is None else bias * scale[:, 0])
    if not row.gate:
        _fill(ffn.up, *_linear(layer, row.up))
    else:
        assert ffn.gate_up is not None
        gate, up = _linear(layer, row.gate), None
        if row.up:
            up = _linear(layer, row.up)
        else:
            gate, up = _pieces(gate, [c.ffn_width, c.ffn_width])
        _fill(ffn.gate_up, *gate)
        _fill(ffn.up, *up)
    for norm, name in ((block.norm1, row.norm1), (block.norm2, row.norm2)):
        fill_norm(norm, layer.get_submodule(name))


@torch.no_grad()
def fill_norm(norm: nn.Module, source: nn.Module) -> None:
    """Give a normalisation of ours the weights of another; both may be nothing."""
    if isinstance(norm, nn.Identity):
        return
    norm.weight.copy_(source.weight)  # type: ignore[operator, arg-type]
    if isinstance(norm, nn.LayerNorm):
        bias = getattr(source, "bias", None)
        norm.bias.zero_() if bias is None else norm.bias.copy_(bias)


Linear = tuple[Tensor, Tensor | None]
"""Weight ``[out, in]`` and bias ``[out]`` of a linear map."""


def _linear(layer: nn.Module, name: str) -> Linear:
    module: Any = layer.get_submodule(name)
    return module.weight, getattr(module, "bias", None)


def _projections(layer: nn.Module, row: Row, heads: int, key_heads: int | None) -> list[Linear]:
    """Queries, keys and values."""
    if len(row.projections) == 3:
        return [_linear(layer, name) for name in row.projections]
    fused = _linear(layer, row.projections[0])
    kept = key_heads or heads
    head_width = len(fused[0]) // (heads + 2 * kept)
    return _pieces(fused, [heads * head_width, kept * head_width, kept * head_width])


def _pieces(linear: Linear, sizes: list[int]) -> list[Linear]:
    """A linear map cut into several."""
    weight, bias = linear
    biases = [None] * len(sizes) if bias is None else torch.split(bias, sizes)
    return list(zip(torch.split(weight, sizes), biases, strict=True))


def _fill(linear: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    linear.weight.copy_(weight)
    if linear.bias is not None:
        linear.bias.zero_() if bias is None else linear.bias.copy_(bias)


def _any_bias(layer: nn.Module, names: tuple[str, ...]) -> bool:
    return any(_linear(layer, name)[1] is not None for name in names)


def _key_heads(config: Any) -> int | None:
    found = getattr(config, "num_key_value_heads", None)
    return None if found is None else int(found)


def _configured_activation(config: Any) -> str:
    """Our name of the activation that a configuration names.

    Raises:
        PretrainedError: We have none such.
    """
    for key in ("hidden_act", "hidden_activation", "activation_function", "activation"):
        name = getattr(config, key, None)
        if isinstance(name, str):
            if name not in ACTIVATIONS:
                known = ", ".join(ACTIVATIONS)
                raise PretrainedError(f"got the activation {name!r}, expected one of {known}; use another model")
            return ACTIVATIONS[name]
    raise PretrainedError(f"got a {type(config).__name__} that names no activation, expected hidden_act")
