"""A checkpoint that became a network, and whether its files had all weights and no others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptrt.models.adapters.pretrained.check import Difference
from adaptrt.models.adapters.pretrained.convolutional.rows import ConvolutionalRow
from adaptrt.models.adapters.pretrained.rows import PretrainedError, Row
from adaptrt.models.adapters.pretrained.task_choice import Choice

if TYPE_CHECKING:
    from adaptrt.models.adaptable_network import AdaptableNetwork


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint as a network.

    Attributes:
        network: Dense, in evaluation mode.
        difference: How far its answers are from transformers' on generated inputs.
        row: By which names it was read.
    """

    network: AdaptableNetwork
    difference: Difference
    row: Row | ConvolutionalRow


def kept_config(model: Any, folder: Path | None) -> dict[str, Any]:
    """A model's configuration with the name of its folder: where that lies is nobody's business."""
    content: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    content["_name_or_path"] = "" if folder is None else folder.resolve().name
    return content


def require_weights(
    info: Mapping[str, Iterable[Any]], needed: set[str], groups: tuple[str, ...], choice: Choice
) -> None:
    """Check that the checkpoint had all weights and, of the layers, no others.

    Of a class of its own it may have no others at all. Else heads for other tasks and other towers are left over.

    Args:
        info: What loading said: ``missing_keys``, ``unexpected_keys``.
        needed: Names of what the network is made of.
        groups: What the names of layers' weights begin with.
        choice: How the checkpoint was read.

    Raises:
        PretrainedError: It did not.
    """
    missing = sorted(
        str(name) for name in info.get("missing_keys", ()) if any(f".{name}".endswith(f".{one}") for one in needed)
    )
    if missing:
        raise PretrainedError(
            f"the checkpoint of {choice.architecture} lacks {missing[0]}{_more(missing)} of {choice.model_class}, "
            f"expected all weights for {choice.task}; name the task that it was trained for, or save it again"
        )
    own = choice.architecture == choice.model_class
    extra = sorted(str(name) for name in info.get("unexpected_keys", ()) if own or str(name).startswith(groups))
    if extra:
        raise PretrainedError(
            f"the checkpoint of {choice.architecture} has {extra[0]}{_more(extra)}, which {choice.model_class} does "
            "not read, expected no weights beyond the model's; merge or remove them and save it again"
        )


def layer_groups(model: Any, group: str, base: str) -> tuple[str, ...]:
    """What the names of layers' weights begin with in checkpoints of this model, with a head or without.

    Args:
        model: Of transformers.
        group: Path in the base model of what holds the layers.
        base: Name of the base model; empty: it is the whole.
    """
    prefixes = {"", base, getattr(model, "base_model_prefix", "")}
    return tuple(f"{prefix}.{group}.".lstrip(".") for prefix in prefixes)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
