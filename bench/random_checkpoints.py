"""Checkpoints of usual shapes with random weights, as transformers writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_USUAL: Mapping[str, Any] = {}


def write_checkpoint(model_class: str, folder: Path, made_of: Mapping[str, Any] = _USUAL) -> None:
    """A checkpoint of a class of transformers.

    Args:
        model_class: Of transformers.
        folder: Where it is written.
        made_of: Of its configuration what is not usual.

    Raises:
        PretrainedError: This version of transformers does not know the class.
    """
    from adaptrt.models.adapters.pretrained.splice import build_model

    model: Any = build_model(model_class, made_of)
    model.save_pretrained(folder)


def write_vit(folder: Path, made_of: Mapping[str, Any] = _USUAL) -> None:
    """A vision transformer that classifies pictures, ViT-B's shape unless told otherwise, and what makes these ready.

    Args:
        folder: Where it is written.
        made_of: Of its configuration what is not usual.
    """
    write_checkpoint("ViTForImageClassification", folder, made_of)
    half, size = [0.5, 0.5, 0.5], {"height": 224, "width": 224}
    steps = {"do_resize": True, "size": size, "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255}
    about = {"image_processor_type": "ViTImageProcessor", **steps, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps({**about, "image_mean": half, "image_std": half}))
