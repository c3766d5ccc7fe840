"""Adaptive modules in torch, ready models with their weights, and how they are trained.

Names are imported when they are first read: what judges outputs (``tasks``) and describes data needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptrt.models.adaptation import adapt
    from adaptrt.models.adapters.pretrained.load import load_pretrained
    from adaptrt.models.adapters.vit import ViTConfig
    from adaptrt.models.families.acm import ACMConfig, AdaptiveFFN, AdaptiveProjections
    from adaptrt.models.families.gate import ArgmaxGate, Decision, PriceGate
    from adaptrt.models.folder import LoadedModel, ModelFolderError, load_folder, save_model
    from adaptrt.models.network import Network
    from adaptrt.models.own import Adaptive, Judge, Knob, Leave, Taken, take
    from adaptrt.models.registry import RECIPES, load_model
    from adaptrt.models.staged_network import StagedNetwork
    from adaptrt.models.symbolic.conditional_mlp import ConditionalGLU, ConditionalLinear, ConditionalMLP
    from adaptrt.models.training.recipe import Recipe
    from adaptrt.models.training.train import train

_PLACES = {
    "adaptation": ("adapt",),
    "adapters.pretrained.load": ("load_pretrained",),
    "adapters.vit": ("ViTConfig",),
    "network": ("Network",),
    "staged_network": ("StagedNetwork",),
    "families.acm": ("ACMConfig", "AdaptiveFFN", "AdaptiveProjections"),
    "families.gate": ("ArgmaxGate", "Decision", "PriceGate"),
    "folder": ("LoadedModel", "ModelFolderError", "load_folder", "save_model"),
    "own": ("Adaptive", "Judge", "Knob", "Leave", "Taken", "take"),
    "registry": ("RECIPES", "load_model"),
    "symbolic.conditional_mlp": ("ConditionalGLU", "ConditionalLinear", "ConditionalMLP"),
    "training.recipe": ("Recipe",),
    "training.train": ("train",),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "RECIPES",
    "ACMConfig",
    "Adaptive",
    "AdaptiveFFN",
    "AdaptiveProjections",
    "ArgmaxGate",
    "ConditionalGLU",
    "ConditionalLinear",
    "ConditionalMLP",
    "Decision",
    "Judge",
    "Knob",
    "Leave",
    "LoadedModel",
    "ModelFolderError",
    "Network",
    "PriceGate",
    "Recipe",
    "StagedNetwork",
    "Taken",
    "ViTConfig",
    "adapt",
    "load_folder",
    "load_model",
    "load_pretrained",
    "save_model",
    "take",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
