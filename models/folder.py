"""Model folders: ``config.json`` with ``model.safetensors`` and, optionally, ``dense.safetensors``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from adaptrt import AdaptrtError, write_atomically
from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.models.adapters import ADAPTERS
from adaptrt.models.adapters.pretrained.config import PretrainedConfig
from adaptrt.models.adapters.pretrained.convolutional.config import PretrainedConvolutionalConfig
from adaptrt.models.adapters.pretrained.convolutional.network import PretrainedConvolutional
from adaptrt.models.adapters.resnet import ResNet, ResNetConfig
from adaptrt.models.adapters.text_encoder import TextEncoderConfig
from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.network import Network
from adaptrt.models.staged_network import StagedNetwork

CONFIG, ADAPTIVE, DENSE = "config.json", "model.safetensors", "dense.safetensors"
SAMPLES, PREPROCESSING = "samples.npz", "preprocessing"
"""Of a network that was adapted: what to calibrate with, and the files that say how inputs are made."""


class ModelFolderError(AdaptrtError):
    """A model folder that is missing, incomplete or damaged."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to export.

    Attributes:
        name: Names the bundle.
        model: The adaptive model, in evaluation mode.
        dense: The model it was adapted from; None when the folder has none.
        data_name: Data set it was trained on, if known; or the file with samples in its folder.
        preprocessing: Folder that says how inputs are made, as transformers writes it; None: there is none.
    """

    name: str
    model: StagedNetwork
    dense: StagedNetwork | None
    data_name: str | None
    preprocessing: Path | None = None


AnyConfig = ViTConfig | ResNetConfig | TextEncoderConfig | PretrainedConfig | PretrainedConvolutionalConfig


def architectures() -> dict[str, tuple[type[Any], Callable[[Any], AdaptableNetwork]]]:
    """What ``architecture`` in ``config.json`` can be; the configuration itself stands under the same name."""
    adapted = {adapter.architecture: (config, Network.from_config) for config, adapter in ADAPTERS.items()}
    convolutional = (PretrainedConvolutionalConfig, PretrainedConvolutional)
    return {**adapted, "resnet": (ResNetConfig, ResNet), "pretrained-convolutional": convolutional}


def save_model(
    folder: Path, model: AdaptableNetwork, dense: AdaptableNetwork | None, data_name: str | None, dtype: torch.dtype
) -> None:
    """Write a model folder, file by file atomically, weights rounded to ``dtype``.

    Computation stays in float32; float16 halves what is shipped. Statistics of normalisations, which may
    be out of float16's range, are not rounded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file, module in ((ADAPTIVE, model), (DENSE, dense)):
        if module is None:
            (folder / file).unlink(missing_ok=True)  # another model's
        else:
            kept = {name for name, _ in module.named_buffers()}
            weights = {
                name: (value if name in kept else value.to(dtype)).contiguous()
                for name, value in module.state_dict().items()
            }
            write_atomically(folder / file, save(weights))
    name = next(name for name, (kind, _) in architectures().items() if type(model.config) is kind)
    config = {"architecture": name, "data": data_name, name: dataclasses.asdict(model.config)}
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def load_folder(folder: Path, name: str, *, dense_too: bool = False) -> LoadedModel:
    """Read a model folder.

    Args:
        folder: Where it is.
        name: Names the bundle.
        dense_too: Whether a model with nothing adaptive in it will do.

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
    architecture, config, data_name = _read_config(folder / CONFIG)
    if not config.adaptive and not dense_too:
        raise ModelFolderError(
            f"{folder / CONFIG} describes a model with nothing adaptive in it, expected one with acm, pruning or "
            "exits; adapt it first"
        )
    model = _load_weights(architecture, config, folder / ADAPTIVE)
    dense = None
    if (folder / DENSE).is_file():
        dense = _load_weights(architecture, _dense(config), folder / DENSE)
    if data_name is not None and data_name == SAMPLES and (folder / SAMPLES).is_file():
        data_name = str(folder / SAMPLES)
    preprocessing = folder / PREPROCESSING
    return LoadedModel(name, model, dense, data_name, preprocessing if preprocessing.is_dir() else None)


def _read_config(path: Path) -> tuple[str, AnyConfig, str | None]:
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"got a {type(content).__name__}, expected an object with an architecture")
        if "architecture" not in content and "architectures" in content:
            raise ModelFolderError(
                f"got a checkpoint of transformers in {path.parent}, expected an adaptive model; make it one with "
                "`adaptrt adapt`, which takes some data and no labels"
            )
        architecture = content["architecture"]
        if not isinstance(architecture, str) or architecture not in architectures():
            raise ValueError(f"architecture {architecture!r}, expected {' or '.join(map(repr, architectures()))}")
        config = msgspec.convert(content[architecture], architectures()[architecture][0])
        if unknown := _unknown(content[architecture], msgspec.to_builtins(config)):
            raise ValueError(f"got {', '.join(unknown)} in {architecture!r}, which it does not have; leave it out")
        return architecture, config, msgspec.convert(content.get("data"), str | None)
    except KeyError as error:
        raise ModelFolderError(f"cannot use {path}: it has no {error}; write it again by training") from error
    except (ValueError, TypeError, OSError) as error:
        raise ModelFolderError(f"cannot use {path}: {error}; write it again by training") from error


def _unknown(given: Any, known: Any, before: str = "") -> list[str]:
    """Keys of a configuration that nothing reads: a misspelt one would leave a default in its place."""
    if not isinstance(given, dict) or not isinstance(known, dict):
        return []
    unknown = [repr(f"{before}{key}") for key in given if key not in known]
    shared = [key for key in given if key in known]
    return unknown + [name for key in shared for name in _unknown(given[key], known[key], f"{before}{key}.")]


def _dense(config: AnyConfig) -> AnyConfig:
    """The configuration with nothing adaptive in it."""
    plain: dict[str, Any] = {"acm": None, "pruning": None, "exits": None, "hard_budgets": False, "others": {}}
    known = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{name: value for name, value in plain.items() if name in known})


def _load_weights(architecture: str, config: AnyConfig, path: Path) -> StagedNetwork:
    try:
        model = architectures()[architecture][1](config)
        weights = {
            name: value.to(torch.float32) if value.is_floating_point() else value
            for name, value in load_file(path).items()
        }
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        cause = lines[min(1, len(lines) - 1)]  # torch names what differs on its second line
        raise ModelFolderError(f"cannot read weights {path}: {cause}; copy or train them again") from error
    return model.eval()
