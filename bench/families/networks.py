"""The networks that are compared: trained and exported where that is still to be done."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from adaptrt.bench.errors import BenchError
from adaptrt.bench.families.recipes import family_recipes, share_dense
from adaptrt.export.exporter import export_bundle
from adaptrt.export.graph.saved_graph import save_graph
from adaptrt.export.graph.trace import trace_dense
from adaptrt.models.data.split import DataSplits
from adaptrt.models.families.token_pruning import counts_at_share
from adaptrt.models.folder import ADAPTIVE, DENSE, load_folder, save_model
from adaptrt.models.network import Network
from adaptrt.models.registry import RECIPES, load_model, weights_folder
from adaptrt.models.training.phase import Report
from adaptrt.models.training.recipe import Recipe
from adaptrt.models.training.train import EFFORT, TEACHER, train
from adaptrt.runtime.bundle.bundle_file import BUNDLE_FILE, KnobValue

READY = {"combined": "fashion"}
"""Networks that are a ready model, trained by ``adaptrt train``."""

_CHECKPOINTS = Path("build/train")


@dataclass(frozen=True)
class FamilyNetwork:
    """One of the networks.

    Attributes:
        name: In ``family_recipes``.
        recipe: How it is trained.
        folder: Its own, with ``train`` (checkpoints), ``model`` (weights) and ``bundle``, or ``dense.onnx``.
        ready: The ready model that it is, if its weights ship.
        teacher: Folder of the weights of an adaptive network whose dense network teaches this one; None: nobody does.
        effort: Share of the samples that every epoch sees.
    """

    name: str
    recipe: Recipe
    folder: Path
    ready: str | None = None
    teacher: Path | None = None
    effort: float = 1.0

    @property
    def checkpoints(self) -> Path:
        """Folder of the training."""
        return self.folder / "train"

    @property
    def model(self) -> Path:
        """Folder of the weights."""
        return self.folder / "model" if self.ready is None else weights_folder(self.ready)

    @property
    def file(self) -> Path:
        """What is run: the bundle's folder, or the ONNX file of a network with nothing adaptive in it."""
        return self.folder / ("bundle" if self.recipe.adapts else "dense.onnx")

    @property
    def static(self) -> bool:
        """Whether the caller alone chooses how many tokens it keeps: there is no price and no curve."""
        r = self.recipe
        return r.pruning is not None and r.pruning.rule != "price" and r.acm is None and r.exits is None

    @property
    def calibrated(self) -> bool:
        """Whether its bundle has a curve that budgets are solved on."""
        return self.recipe.adapts and not self.static

    @property
    def trained(self) -> bool:
        """Whether there is nothing left to train."""
        return self.ready is not None or (self.model / ADAPTIVE if self.recipe.adapts else self.file).is_file()

    @property
    def exported(self) -> bool:
        """Whether what is run is there, made from these weights."""
        if not self.recipe.adapts:
            return self.file.is_file()
        bundle, weights = self.file / BUNDLE_FILE, self.model / ADAPTIVE
        return bundle.is_file() and weights.is_file() and bundle.stat().st_mtime >= weights.stat().st_mtime

    @property
    def epochs(self) -> dict[str, int]:
        """Epochs of every phase of its training."""
        names = ("dense", "distil", "gate", "exit", "joint")
        counts = {name: int(getattr(self.recipe, f"{name}_epochs")) for name in names}
        unused = () if self.recipe.adapts else names[1:]
        if self.recipe.acm is None:
            unused = (*unused, "distil", "gate")
        if self.recipe.exits is None:
            unused = (*unused, "exit")
        return {name: count for name, count in counts.items() if count and name not in unused}


def find_networks(root: Path, names: Sequence[str] | None = None) -> list[FamilyNetwork]:
    """All networks below a folder, or those named.

    Raises:
        BenchError: One of the names is none of theirs.
    """
    recipes = family_recipes()
    for name in names or ():
        if name not in recipes:
            raise BenchError(f"got network {name!r}, expected one of {', '.join(recipes)}; name one")
    networks = []
    for name, recipe in recipes.items():
        if names is None or name in names:
            ready = READY.get(name)
            ships = ready is not None and (weights_folder(ready) / ADAPTIVE).is_file()
            networks.append(FamilyNetwork(name, recipe, root / name, ready if ships else None))
    return networks


def train_network(network: FamilyNetwork, data: DataSplits, root: Path, *, precision: str, report: Report) -> None:
    """Train a network, going on from its checkpoints; weights, or the graph of a dense one, are written at the end.

    Those that start from the same dense network take it from the first of them that has it.

    Args:
        network: What to train.
        data: With a training part.
        root: Folder of all networks.
        precision: As in ``Recipe``.
        report: Told after every step.

    Raises:
        CheckpointError: Its checkpoints are damaged or another recipe's.
        DataError: There is nothing to train on.
    """
    recipe = dataclasses.replace(network.recipe, precision=precision)
    teacher = load_teacher(network)
    if teacher is None:
        for dense in (_CHECKPOINTS / recipe.data, *(root / name / "train" for name in family_recipes())):
            share_dense(network.checkpoints, recipe, dense, network.effort)
    dense_model, adaptive = train(recipe, data, network.checkpoints, report, teacher=teacher, effort=network.effort)
    beside = dense_model if recipe.adapts else None
    save_model(network.model, adaptive, beside, recipe.data, torch.float16)
    if not recipe.adapts:
        save_graph(trace_dense(dense_model), network.file)


def load_teacher(network: FamilyNetwork) -> Network | None:
    """The dense network that teaches a network; None: nobody does.

    Raises:
        BenchError: It is not trained.
    """
    if network.teacher is None:
        return None
    if not (network.teacher / DENSE).is_file():
        raise BenchError(
            f"got no {network.teacher / DENSE}, expected the teacher of {network.name!r}; train that first"
        )
    dense = load_folder(network.teacher, network.name).dense
    assert isinstance(dense, Network)
    return dense


def export_network(
    network: FamilyNetwork, data: DataSplits, *, evaluations: int | None, progress: Callable[[str, float], None]
) -> None:
    """Export a trained network; one whose caller alone chooses what it does is not calibrated.

    Raises:
        BenchError: It is not trained.
        ExportError: It cannot be exported, or differs from torch.
    """
    if not network.trained:
        raise BenchError(f"network {network.name!r} is not trained, expected its weights; run with --train")
    source = load_folder(network.model, network.name) if network.ready is None else load_model(network.ready)
    export_bundle(
        dataclasses.replace(source, name=network.name),
        network.file,
        calibration=None if network.static else data,
        evaluations=evaluations,
        progress=progress,
    )


def require_recipe(network: FamilyNetwork) -> None:
    """Refuse what was trained by another recipe than today's, or with another effort; the precision does not count.

    Raises:
        BenchError: It was.
    """
    record = network.checkpoints / "recipe.json"
    if network.ready is not None or not record.is_file():
        return
    wanted = json.loads(json.dumps(dataclasses.asdict(network.recipe)))
    trained = json.loads(record.read_text())
    trained.pop(TEACHER, None)
    effort = trained.pop(EFFORT, 1.0)
    if effort != network.effort or trained | {"precision": None} != wanted | {"precision": None}:
        raise BenchError(
            f"{network.folder} was trained by another recipe or with another effort, expected that of network "
            f"{network.name!r}; remove the folder to train it again"
        )


def keep_settings(network: FamilyNetwork, tokens: int, count: int) -> list[dict[str, KnobValue]]:
    """Settings of a static network, from the fewest tokens to all of them, the same share at each selection.

    Args:
        network: A static one.
        tokens: Of a sample, the class token included.
        count: How many settings.

    Returns:
        Values of ``keep``: tokens that stay; the last one is empty, everything stays.
    """
    pruning, class_token = network.recipe.pruning, network.recipe.vit.class_token
    assert pruning is not None
    low, high = network.recipe.keep_range
    settings: list[dict[str, KnobValue]] = [
        {"keep": [float(number) for number in counts_at_share(pruning, float(share), tokens, class_token)]}
        for share in np.linspace(low, high, count)[:-1]
    ]
    return [*settings, {}]


def data_name() -> str:
    """The data set of all networks."""
    return RECIPES[READY["combined"]].data
