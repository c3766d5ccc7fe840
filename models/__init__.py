"""Adaptive modules in torch, ready models with their weights, and how they are trained."""

from adaptrt.models.adapt import adapt
from adaptrt.models.adapters.vit import ViT, ViTConfig
from adaptrt.models.families.acm import ACMConfig, AdaptiveFFN, AdaptiveProjections
from adaptrt.models.families.gate import ArgmaxGate, Decision, PriceGate
from adaptrt.models.folder import LoadedModel, ModelFolderError, load_folder, save_model
from adaptrt.models.registry import RECIPES, load_model
from adaptrt.models.symbolic.conditional_mlp import ConditionalLinear, ConditionalMLP
from adaptrt.models.training.recipe import Recipe
from adaptrt.models.training.train import train

__all__ = [
    "RECIPES",
    "ACMConfig",
    "AdaptiveFFN",
    "AdaptiveProjections",
    "ArgmaxGate",
    "ConditionalLinear",
    "ConditionalMLP",
    "Decision",
    "LoadedModel",
    "ModelFolderError",
    "PriceGate",
    "Recipe",
    "ViT",
    "ViTConfig",
    "adapt",
    "load_folder",
    "load_model",
    "save_model",
    "train",
]
