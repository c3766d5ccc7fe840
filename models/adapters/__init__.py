"""One architecture family per file: its inputs, and how they become tokens."""

from __future__ import annotations

from typing import Any

from adaptrt.models.adapters.adapter import Adapter
from adaptrt.models.adapters.pretrained.adapter import PretrainedAdapter
from adaptrt.models.adapters.pretrained.config import PretrainedConfig
from adaptrt.models.adapters.text_encoder import TextAdapter, TextEncoderConfig
from adaptrt.models.adapters.vit import ViTAdapter, ViTConfig
from adaptrt.models.encoder_config import EncoderConfig

ADAPTERS: dict[type[EncoderConfig], type[Adapter[Any]]] = {
    ViTConfig: ViTAdapter,
    TextEncoderConfig: TextAdapter,
    PretrainedConfig: PretrainedAdapter,
}
"""The adapter of each kind of configuration."""


def adapter_for(config: EncoderConfig) -> Adapter[Any]:
    """The adapter that describes a configuration's architecture.

    Raises:
        ValueError: There is none.
    """
    kind = ADAPTERS.get(type(config))
    if kind is None:
        known = ", ".join(each.__name__ for each in ADAPTERS)
        raise ValueError(f"got a {type(config).__name__}, expected one of {known}; add an adapter for it")
    return kind(config)
