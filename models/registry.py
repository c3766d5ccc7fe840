"""The ready models: those that ship their weights, by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from adaptrt.models.folder import LoadedModel, ModelFolderError, load_folder
from adaptrt.models.recipe import Recipe

RECIPES: dict[str, Recipe] = {"digits": Recipe()}
"""How each ready model is trained."""


def weights_folder(name: str) -> Path:
    """Folder that a ready model's weights ship in."""
    return Path(str(resources.files("adaptrt.models"))) / "weights" / name


def load_model(name_or_folder: str) -> LoadedModel:
    """Load a ready model by name, or any model folder by path.

    Raises:
        ModelFolderError: Neither is there, or the folder is incomplete or damaged.
    """
    if name_or_folder in RECIPES:
        return load_folder(weights_folder(name_or_folder), name_or_folder)
    folder = Path(name_or_folder)
    if not folder.exists():
        raise ModelFolderError(
            f"got model {name_or_folder!r}, expected a ready model ({', '.join(RECIPES)}) or an existing model "
            "folder; name one"
        )
    return load_folder(folder, folder.resolve().name)
