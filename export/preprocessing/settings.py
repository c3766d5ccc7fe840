"""The JSON files of a transformers folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from adaptrt.export.errors import ExportError
from adaptrt.runtime.errors import one_line

T = TypeVar("T")

CONFIG = "config.json"
PROCESSOR = "processor_config.json"
PREPROCESSOR = "preprocessor_config.json"


def read_json(folder: Path, file: str, form: type[T]) -> T | None:
    """What a file says, None where there is no such file; keys that ``form`` does not name are ignored.

    Raises:
        ExportError: It cannot be read, is no JSON, or a key has another type.
    """
    path = folder / file
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ExportError(f"cannot read {path} ({one_line(error)}), expected JSON; check its permissions") from None
    try:
        return msgspec.json.decode(content, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ExportError(
            f"{path} is not as transformers writes it ({one_line(error)}); save the model's processor there again"
        ) from None


def read_processor(folder: Path, part: str) -> dict[str, Any] | None:
    """The settings of a folder's image processor or feature extractor.

    Args:
        folder: Of the model.
        part: ``image_processor`` or ``feature_extractor``, as ``processor_config.json`` calls it.

    Raises:
        ExportError: As ``read_json``.
    """
    settings = read_json(folder, PREPROCESSOR, dict[str, Any])
    if settings is not None:
        return settings
    whole = read_json(folder, PROCESSOR, dict[str, Any]) or {}
    inner = whole.get(part)
    return inner if isinstance(inner, dict) else None


class _ModelConfig(msgspec.Struct):
    model_type: str | None = None


def model_type(folder: Path) -> str | None:
    """What ``config.json`` says the network is.

    Raises:
        ExportError: As ``read_json``.
    """
    config = read_json(folder, CONFIG, _ModelConfig)
    return None if config is None else config.model_type


def convert(folder: Path, settings: dict[str, Any], form: type[T]) -> T:
    """Settings with their types checked; null stands for a key that is left out.

    Raises:
        ExportError: A key has another type.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    try:
        return msgspec.convert(given, type=form)
    except msgspec.ValidationError as error:
        raise ExportError(
            f"{folder / PREPROCESSOR} is not as transformers writes it ({one_line(error)}); save the model's processor "
            "there again"
        ) from None
