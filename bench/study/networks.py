"""The networks of the study: one adaptive, and what else could be trained with the same effort, for each seed.

All start from, or learn from, the same dense network of their seed. The adaptive one, EViT, ToMe and the dense network
that is trained on get it with its epochs and the same further ones; narrower and shallower ones get as many in all,
from scratch, with its predictions as a teacher.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptrt.bench.families.networks import FamilyNetwork
from adaptrt.bench.families.recipes import family_recipes, longer, narrow, shallow
from adaptrt.bench.rivals.series import ADAPTIVE
from adaptrt.models.training.recipe import Recipe


@dataclass(frozen=True)
class StudyNetwork:
    """One of the networks.

    Attributes:
        name: Of its folder.
        title: What tables call it.
        method: What it is an example of; the best example counts.
        recipe: Makes how it is trained.
        distilled: Whether the dense network is its teacher from the first step.
    """

    name: str
    title: str
    method: str
    recipe: Callable[[], Recipe]
    distilled: bool = False


BASE = StudyNetwork("combined", ADAPTIVE, ADAPTIVE, lambda: family_recipes()["combined"])
"""With all three families; the dense network that all others share is the one that it was made from."""
LONGER, NARROWER, SHALLOWER = "dense, longer", "narrower", "shallower"
NETWORKS = (
    BASE,
    StudyNetwork("longer", LONGER, LONGER, longer, distilled=True),
    StudyNetwork("narrow128", "width 128", NARROWER, lambda: narrow(128), distilled=True),
    StudyNetwork("narrow96", "width 96", NARROWER, lambda: narrow(96), distilled=True),
    StudyNetwork("shallow4", "depth 4", SHALLOWER, lambda: shallow(4), distilled=True),
    StudyNetwork("shallow2", "depth 2", SHALLOWER, lambda: shallow(2), distilled=True),
    StudyNetwork("fixed", "EViT", "EViT", lambda: family_recipes()["fixed"]),
    StudyNetwork("merge", "ToMe", "ToMe", lambda: family_recipes()["merge"]),
)
"""The adaptive one first: it trains the dense network."""


def seed_folder(root: Path, seed: int) -> Path:
    """Where everything of a seed is."""
    return root / f"seed{seed}"


def seed_networks(root: Path, seed: int, effort: float, networks: Sequence[StudyNetwork]) -> list[FamilyNetwork]:
    """The networks of one seed, as they are trained and exported.

    Args:
        root: Folder of the study.
        seed: Of all randomness in training.
        effort: Share of the samples that every epoch sees.
        networks: Which; the adaptive one first.
    """
    folder = seed_folder(root, seed)
    teacher = folder / BASE.name / "model"
    return [
        FamilyNetwork(
            each.name,
            dataclasses.replace(each.recipe(), seed=seed),
            folder / each.name,
            teacher=teacher if each.distilled else None,
            effort=effort,
        )
        for each in networks
    ]
