"""The networks that are compared on Fashion-MNIST, each trained with the same effort.

All adaptive ones start from one dense network and get the same further epochs. The narrower dense
networks get the dense network's epochs and those further ones, from scratch.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.registry import RECIPES
from adaptrt.models.training.recipe import Recipe
from adaptrt.models.training.train import EFFORT, TEACHER

BASE = RECIPES["fashion"]
_NARROW_RATE = 1e-3
_SHAPES_DENSE = (
    *("data", "vit", "dense_epochs", "dense_rate", "batch", "weight_decay", "label_smoothing", "augmentation"),
    *("seed", "precision"),
)
"""Entries of a recipe that the dense network depends on."""


def narrow(width: int) -> Recipe:
    """A narrower dense network, trained for as many epochs as an adaptive one in all."""
    vit = dataclasses.replace(BASE.vit, width=width, ffn_width=4 * width, heads=2)
    return _dense(vit, _NARROW_RATE)


def shallow(depth: int) -> Recipe:
    """A shallower dense network, likewise."""
    return _dense(dataclasses.replace(BASE.vit, depth=depth), BASE.dense_rate)


def longer() -> Recipe:
    """The dense network itself, trained on for the epochs that the adaptive ones get beyond it."""
    return dataclasses.replace(_dense(BASE.vit, BASE.joint_rate), dense_epochs=BASE.joint_epochs)


def _dense(vit: ViTConfig, rate: float) -> Recipe:
    return dataclasses.replace(
        BASE,
        vit=vit,
        acm=None,
        pruning=None,
        exits=None,
        dense_epochs=BASE.dense_epochs + BASE.joint_epochs,
        dense_rate=rate,
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
        "narrow128": narrow(128),
        "narrow96": narrow(96),
    }


def share_dense(folder: Path, recipe: Recipe, dense: Path, effort: float = 1.0) -> None:
    """Start a network from the dense one in ``dense``, if it was trained as ``recipe`` says, with this effort."""
    checkpoint, recipe_file = dense / "dense.pt", dense / "recipe.json"
    if (folder / "dense.pt").exists() or not (checkpoint.is_file() and recipe_file.is_file()):
        return
    wanted = json.loads(json.dumps(dataclasses.asdict(recipe)))
    trained = json.loads(recipe_file.read_bytes())
    alike = TEACHER not in trained and trained.get(EFFORT, 1.0) == effort
    if alike and all(trained.get(name) == wanted[name] for name in _SHAPES_DENSE):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint, folder / "dense.pt")
