"""Sizes of a checkpoint's inputs: what it reads, how long texts may be, how large images are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from adaptrt.models.adapters.pretrained.rows import PretrainedError
from adaptrt.models.adapters.pretrained.sentence import SentenceSettings
from adaptrt.models.adapters.pretrained.task_choice import read_json

USUAL_LENGTH = 512
"""Tokens of a text at most, where nobody says anything else."""
USUAL_SAMPLES = 160_000
"""Of a sound: ten seconds at 16 kHz."""


def input_facts(
    model: Any, config: Any, length: int | None, sentence: SentenceSettings | None, folder: Path | None
) -> dict[str, Any]:
    """Fields of ``PretrainedConfig`` that say what a model reads; ``length`` of others than texts is not known yet.

    Args:
        model: Of transformers.
        config: Of the tower that is used.
        length: What the user wants.
        sentence: What the folder says of sentences.
        folder: The checkpoint's, if there is one.

    Raises:
        PretrainedError: It reads something else, or the length is not possible.
    """
    labels = getattr(model.config, "num_labels", None)
    facts: dict[str, Any] = {"classes": max(int(labels or 1), 1), "length": 1, "class_token": False}
    main = getattr(model, "main_input_name", "")
    if main == "input_ids":
        limit = _position_limit(model, config)
        said = [limit, sentence.length if sentence else None, _tokenizer_length(folder), USUAL_LENGTH]
        wanted = length or min(size for size in said if size)
        if not 2 <= wanted <= limit:
            raise PretrainedError(f"got texts of {wanted} tokens, expected 2 to {limit}; give another length")
        types = int(getattr(config, "type_vocab_size", 0) or 0)
        return facts | {
            "modality": "text",
            "length": wanted,
            "class_token": True,
            "vocabulary": int(config.vocab_size),
            "token_types": types if types > 1 and _takes_types(model) else 0,
        }
    if main == "pixel_values":
        size = config.image_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        names = [name.rpartition(".")[2] for name, _ in model.named_parameters()]
        return facts | {
            "modality": "image",
            "input_size": (int(config.num_channels), int(height), int(width)),
            "class_token": any(name in ("cls_token", "class_embedding") for name in names),
        }
    if main == "input_features":
        return facts | {
            "modality": "features",
            "input_size": (int(config.num_mel_bins), 2 * int(config.max_source_positions)),
        }
    if main == "input_values" and hasattr(config, "conv_stride"):
        return facts | {"modality": "samples", "input_size": (length or USUAL_SAMPLES,)}
    raise PretrainedError(
        f"got {type(model).__name__} with the input {main!r}, expected input_ids, pixel_values, input_features or "
        "input_values of sound; use another model"
    )


def _position_limit(model: nn.Module, config: Any) -> int:
    """Most tokens that have a position."""
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and last in ("position_embeddings", "position_embedding"):
            padding = module.padding_idx
            return module.num_embeddings - (0 if padding is None else padding + 1)
    return int(getattr(config, "max_position_embeddings", USUAL_LENGTH))


def _tokenizer_length(folder: Path | None) -> int | None:
    """What the tokenizer's file says; it says a huge number where it does not know."""
    if folder is None or not (folder / "tokenizer_config.json").is_file():
        return None
    settings = read_json(folder / "tokenizer_config.json")
    length = settings.get("model_max_length")
    return length if isinstance(length, int) and length < 10**6 else None


def _takes_types(model: nn.Module) -> bool:
    """Whether the embedding reads kinds of tokens."""
    return any("token_type" in name for name, _ in model.named_parameters())
