"""transformers' causal language models of Llama's kind as this project's decoder: Llama, Qwen2, Mistral."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from adaptrt.models.decoder import Decoder
from adaptrt.models.decoder_config import DecoderConfig

KINDS: dict[str, str | bool] = {"llama": "attention_bias", "qwen2": True, "mistral": False}
"""Model types, and whether queries, keys and values have biases: always, never, or as a field of the config says."""


def decoder_config(config: Any) -> DecoderConfig:
    """The shape of a checkpoint by transformers' own configuration.

    Raises:
        ValueError: It is of another kind, or has an option that this decoder lacks.
    """
    kind = config.model_type
    if kind not in KINDS:
        raise ValueError(f"got a model of type {kind!r}, expected one of {', '.join(KINDS)}")
    rope = dict(config.rope_parameters or {})
    window = getattr(config, "sliding_window", None)
    if kind == "qwen2" and not config.use_sliding_window:
        window = None
    for name, value, wanted in (
        ("rope_type", rope.get("rope_type", "default"), "default"),
        ("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0), 1.0),
        ("hidden_act", config.hidden_act, "silu"),
        ("mlp_bias", getattr(config, "mlp_bias", False), False),
    ):
        if value != wanted:
            raise ValueError(f"got {name} {value!r} in the checkpoint, expected {wanted!r}")
    if window is not None and window < config.max_position_embeddings:
        raise ValueError(
            f"got a window of {window} tokens, expected at least the context: windows are not exported yet"
        )
    bias = KINDS[kind]
    biased = bool(getattr(config, bias)) if isinstance(bias, str) else bias
    return DecoderConfig(
        width=config.hidden_size,
        depth=config.num_hidden_layers,
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        head_size=getattr(config, "head_dim", None),
        ffn_width=config.intermediate_size,
        epsilon=config.rms_norm_eps,
        rotary_base=float(rope["rope_theta"]),
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
        tied=config.tie_word_embeddings,
        query_bias=biased,
        attention_bias=biased and kind == "llama",  # whose output has one, too
    )


def decoder_from(model: Any) -> Decoder:
    """A decoder with the weights of a transformers model, in evaluation mode.

    Raises:
        ValueError: See ``decoder_config``; or a weight has another shape than the configuration says.
    """
    decoder = Decoder(decoder_config(model.config)).eval()
    base, blocks = model.model, list[Any](decoder.blocks)
    with torch.no_grad():
        _copy(base.embed_tokens, decoder.embed)
        _copy(base.norm, decoder.norm)
        if not decoder.config.tied:
            _copy(model.lm_head, decoder.head)
        for layer, block in zip(base.layers, blocks, strict=True):
            for source, target in (
                (layer.input_layernorm, block.norm1),
                (layer.post_attention_layernorm, block.norm2),
                (layer.self_attn.q_proj, block.attention.query),
                (layer.self_attn.k_proj, block.attention.key),
                (layer.self_attn.v_proj, block.attention.value),
                (layer.self_attn.o_proj, block.attention.out),
                (layer.mlp.gate_proj, block.ffn.gate_up),
                (layer.mlp.up_proj, block.ffn.up),
                (layer.mlp.down_proj, block.ffn.down),
            ):
                _copy(source, target)
    return decoder


def _copy(source: nn.Module, target: nn.Module) -> None:
    """Copy all parameters; one that only one of them has is an error."""
    wanted, given = dict(target.named_parameters()), dict(source.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in given.items()}
    if shapes != {name: tuple(parameter.shape) for name, parameter in wanted.items()}:
        raise ValueError(f"got weights {shapes} for {target}, expected those of the configuration")
    for name, parameter in wanted.items():
        parameter.copy_(given[name])
