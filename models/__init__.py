"""Adaptive modules in torch, ready models with their weights, and how they are trained."""

from adaptrt.models.acm import ACMConfig, AdaptiveFFN, AdaptiveProjections
from adaptrt.models.adapt import adapt
from adaptrt.models.conditional_mlp import ConditionalGLU, ConditionalLinear, ConditionalMLP
from adaptrt.models.folder import LoadedModel, ModelFolderError, load_folder, save_model
from adaptrt.models.gate import ArgmaxGate, Decision, PriceGate
from adaptrt.models.recipe import Recipe
from adaptrt.models.registry import RECIPES, load_model
from adaptrt.models.train import train
from adaptrt.models.vit import ViT, ViTConfig

__all__ = [
    "RECIPES",
    "ACMConfig",
    "AdaptiveFFN",
    "AdaptiveProjections",
    "ArgmaxGate",
    "ConditionalGLU",
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
