"""The ready models: those that ship their weights, by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.folder import LoadedModel, ModelFolderError, load_folder
from adaptrt.models.training.augment import Augmentation
from adaptrt.models.training.recipe import Recipe

_FASHION = Recipe(
    data="fashion",
    vit=ViTConfig(
        image_size=28, patch_size=4, stem="convolution", class_token=True, width=192, depth=6, mean=0.286, std=0.353
    ),
    acm=ACMConfig(learners=2),
    pruning=PruningConfig(blocks=(1, 2, 3)),
    exits=ExitConfig(after=(2, 4)),
    dense_epochs=8,
    dense_rate=4e-4,
    distil_epochs=1,
    gate_epochs=1,
    warm_samples=8_000,
    joint_epochs=2,
    batch=64,
    augmentation=Augmentation(rotation=0.0, scale=0.0, shift=0.0, shear=0.0, noise=0.02, flip=True),
)

RECIPES: dict[str, Recipe] = {"digits": Recipe(), "fashion": _FASHION}
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
        shipped = weights_folder(name_or_folder)
        if not shipped.is_dir():
            raise ModelFolderError(
                f"got model {name_or_folder!r}, whose weights do not ship, expected them in {shipped}; run "
                f"`adaptrt train {name_or_folder} --output FOLDER` and name that folder"
            )
        return load_folder(shipped, name_or_folder)
    folder = Path(name_or_folder)
    if not folder.exists():
        raise ModelFolderError(
            f"got model {name_or_folder!r}, expected a ready model ({', '.join(RECIPES)}) or an existing model "
            "folder; name one"
        )
    return load_folder(folder, folder.resolve().name)
