"""A vision model for images of another size: its table of positions is resized once, not in every run of a graph."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptrt.models.adapters.pretrained.rows import PretrainedError
from adaptrt.models.adapters.pretrained.splice import first_line
from adaptrt.models.adapters.pretrained.task_choice import read_json


@torch.no_grad()
def resized(model: Any, size: int) -> Any:
    """The model for square images of so many pixels, with positions as transformers' own code interpolates them.

    Raises:
        PretrainedError: It reads no images, or its positions cannot be resized.
    """
    config = copy.deepcopy(model.config)
    tower = getattr(config, "vision_config", config)
    patch = getattr(tower, "patch_size", None)
    if not isinstance(getattr(tower, "image_size", None), int) or not isinstance(patch, int):
        raise PretrainedError(
            f"got the image size {size} for {type(model).__name__}, expected a model of square images; leave it out"
        )
    if size < patch or size % patch:
        raise PretrainedError(f"got the image size {size}, expected a multiple of the patches' {patch} pixels")
    if size == tower.image_size:
        return model
    before, tower.image_size = tower.image_size, size
    weights = dict(model.state_dict())
    try:
        for path, module in model.named_modules():
            name = _table_name(module)
            if name:
                old = module.get_parameter(name)
                places = old.numel() // old.shape[-1]
                tokens = places - (before // patch) ** 2 + (size // patch) ** 2
                table: Tensor = module.interpolate_pos_encoding(old.new_zeros(1, tokens, old.shape[-1]), size, size)
                weights[f"{path}.{name}"] = table[0] if old.ndim == 2 else table
        other = type(model)(config)
        other.load_state_dict(weights)
    except Exception as error:  # models refuse sizes in many ways
        raise PretrainedError(
            f"{type(model).__name__} cannot be resized from {before} to {size} pixels: {first_line(error)}; give "
            f"image_size={before}"
        ) from error
    return other.eval()


def processor_size(folder: Path) -> int | None:
    """Height and width of the images that a checkpoint's processor gives; None: it does not say.

    DINOv2 was trained on other sizes than it is used with.
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return None
    settings = read_json(path)
    crops = settings.get("do_center_crop", "crop_size" in settings)
    size = settings.get("crop_size") if crops else settings.get("size")
    kind = str(settings.get("image_processor_type") or settings.get("feature_extractor_type"))
    if kind.startswith("ConvNext") and isinstance(size, dict) and "shortest_edge" in size:
        size = size["shortest_edge"]  # this one gives a square of that edge
    if isinstance(size, dict):
        size = size.get("height") if size.get("height") == size.get("width") else None
    return size if isinstance(size, int) else None


def _table_name(module: nn.Module) -> str:
    """Name of a module's table of positions that it can interpolate; empty where there is none."""
    if not hasattr(module, "interpolate_pos_encoding"):
        return ""
    if isinstance(getattr(module, "position_embeddings", None), nn.Parameter):
        return "position_embeddings"
    return "position_embedding.weight" if isinstance(getattr(module, "position_embedding", None), nn.Embedding) else ""
