"""How a sentence-transformers folder makes one vector of a text: ``modules.json`` and the files that it names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptrt.models.adapters.pretrained.rows import PretrainedError
from adaptrt.models.adapters.pretrained.task_choice import read_json

_POOLINGS = {
    "cls": "first",
    "mean": "mean",
    "max": "max",
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}
"""As new and as old files name them."""


@dataclass(frozen=True)
class SentenceSettings:
    """How tokens become a vector.

    Attributes:
        pooling: One of ``POOLINGS`` in ``config.py``.
        normalised: Whether it is scaled to length 1.
        length: Most tokens of a text; None: not said.
    """

    pooling: str
    normalised: bool
    length: int | None = None


def sentence_settings(folder: Path) -> SentenceSettings | None:
    """Read a folder; None where it is none of sentence-transformers.

    Raises:
        PretrainedError: It pools in a way, or has a module, that is not covered.
    """
    if not (folder / "modules.json").is_file():
        return None
    pooling, normalised = "", False
    for module in read_json(folder / "modules.json"):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _pooling(read_json(folder / module.get("path", "") / "config.json"), folder)
        elif kind == "Normalize":
            normalised = True
        elif kind != "Transformer":
            raise PretrainedError(
                f"got the module {kind!r} in {folder / 'modules.json'}, expected Transformer, Pooling and Normalize; "
                "use a model of these"
            )
    if not pooling:
        raise PretrainedError(f"{folder / 'modules.json'} has no Pooling, expected one; name another task")
    length = None
    if (folder / "sentence_bert_config.json").is_file():
        length = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
    return SentenceSettings(pooling, normalised, length if isinstance(length, int) else None)


def _pooling(settings: dict[str, Any], folder: Path) -> str:
    """The one pooling that is on."""
    named = settings.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named or ())
    modes += [name for name, on in settings.items() if name.startswith("pooling_mode_") and on is True]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise PretrainedError(
            f"got the pooling {', '.join(map(str, modes)) or 'none'} in {folder}, expected one of cls, mean and max; "
            "use a model that pools so"
        )
    return _POOLINGS[modes[0]]
