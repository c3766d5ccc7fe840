"""The networks that are compared on Fashion-MNIST, each trained with the same effort.

All adaptive ones start from one dense network and get the same further epochs. The narrower dense
networks get the dense network's epochs and those further ones, from scratch.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.registry import RECIPES
from adaptrt.models.training.recipe import Recipe

BASE = RECIPES["fashion"]
_NARROW_RATE = 1e-3
_SHAPES_DENSE = (
    *("data", "vit", "dense_epochs", "dense_rate", "batch", "weight_decay", "label_smoothing", "augmentation"),
    *("seed", "precision"),
)
"""Entries of a recipe that the dense network depends on."""


def _narrow(width: int) -> Recipe:
    vit = dataclasses.replace(BASE.vit, width=width, ffn_width=4 * width, heads=2)
    epochs = BASE.dense_epochs + BASE.joint_epochs
    return dataclasses.replace(
        BASE, vit=vit, acm=None, pruning=None, exits=None, dense_epochs=epochs, dense_rate=_NARROW_RATE
    )


def _only(**families: object) -> Recipe:
    nothing: dict[str, object] = {"acm": None, "pruning": None, "exits": None}
    return dataclasses.replace(BASE, **{**nothing, **families})  # type: ignore[arg-type]


def family_recipes() -> dict[str, Recipe]:
    """Recipes by name; ``combined`` is the ready model ``fashion``."""
    depth = BASE.vit.depth
    return {
        "combined": BASE,
        "acm": _only(acm=BASE.acm),
        "tokens": _only(pruning=BASE.pruning),
        "exits": _only(exits=BASE.exits),
        "fixed": _only(pruning=PruningConfig(blocks=(1, 2, 3), rule="fixed"), keep_range=(0.4, 1.0)),
        "merge": _only(pruning=PruningConfig(blocks=tuple(range(depth)), rule="merge"), keep_range=(0.75, 1.0)),
        "narrow128": _narrow(128),
        "narrow96": _narrow(96),
    }


def share_dense(folder: Path, recipe: Recipe, dense: Path) -> None:
    """Start a network from the dense one that was trained in ``dense``, if it was trained as ``recipe`` says."""
    checkpoint, recipe_file = dense / "dense.pt", dense / "recipe.json"
    if (folder / "dense.pt").exists() or not (checkpoint.is_file() and recipe_file.is_file()):
        return
    wanted = json.loads(json.dumps(dataclasses.asdict(recipe)))
    trained = json.loads(recipe_file.read_bytes())
    if all(trained.get(name) == wanted[name] for name in _SHAPES_DENSE):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint, folder / "dense.pt")
