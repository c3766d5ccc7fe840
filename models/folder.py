"""Model folders: ``config.json`` with ``model.safetensors`` and, optionally, ``dense.safetensors``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from adaptrt import AdaptrtError, write_atomically
from adaptrt.models.vit import ViT, ViTConfig

CONFIG, ADAPTIVE, DENSE = "config.json", "model.safetensors", "dense.safetensors"


class ModelFolderError(AdaptrtError):
    """A model folder that is missing, incomplete or damaged."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to export.

    Attributes:
        name: Names the bundle.
        model: The adaptive model, in evaluation mode.
        dense: The model it was adapted from; None when the folder has none.
        data_name: Data set it was trained on, if known.
    """

    name: str
    model: ViT
    dense: ViT | None
    data_name: str | None


def save_model(folder: Path, model: ViT, dense: ViT | None, data_name: str | None, dtype: torch.dtype) -> None:
    """Write a model folder, file by file atomically, weights rounded to ``dtype``.

    Computation stays in float32; float16 halves what is shipped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file, module in ((ADAPTIVE, model), (DENSE, dense)):
        if module is None:
            (folder / file).unlink(missing_ok=True)  # another model's
        else:
            weights = {name: value.to(dtype).contiguous() for name, value in module.state_dict().items()}
            write_atomically(folder / file, save(weights))
    config = {"architecture": "vit", "data": data_name, "vit": dataclasses.asdict(model.config)}
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def load_folder(folder: Path, name: str) -> LoadedModel:
    """Read a model folder.

    Raises:
        ModelFolderError: It is no folder, has no configuration or weights, or they do not fit together.
    """
    if not folder.is_dir():
        raise ModelFolderError(f"got model {str(folder)!r}, expected a folder with {CONFIG} and {ADAPTIVE}")
    for file in (CONFIG, ADAPTIVE):
        if not (folder / file).is_file():
            raise ModelFolderError(
                f"model folder {folder} has no {file}; train with `adaptrt train --output {folder}` or point to a "
                "folder that was"
            )
    config, data_name = _read_config(folder / CONFIG)
    if config.acm is None:
        raise ModelFolderError(f"{folder / CONFIG} describes a dense model, expected one with acm; adapt it first")
    model = _load_weights(config, folder / ADAPTIVE)
    dense = None
    if (folder / DENSE).is_file():
        dense = _load_weights(dataclasses.replace(config, acm=None), folder / DENSE)
    return LoadedModel(name, model, dense, data_name)


def _read_config(path: Path) -> tuple[ViTConfig, str | None]:
    try:
        content = json.loads(path.read_text())
        if content["architecture"] != "vit":
            raise ValueError(f"architecture {content['architecture']!r}, expected 'vit'")
        config = msgspec.convert(content["vit"], ViTConfig)
        return config, msgspec.convert(content.get("data"), str | None)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ModelFolderError(f"cannot use {path}: {error}; write it again by training") from error


def _load_weights(config: ViTConfig, path: Path) -> ViT:
    try:
        model = ViT(config)
        weights = {name: value.to(torch.float32) for name, value in load_file(path).items()}
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        cause = lines[min(1, len(lines) - 1)]  # torch names what differs on its second line
        raise ModelFolderError(f"cannot read weights {path}: {cause}; copy or train them again") from error
    return model.eval()
