"""The study at a tiny size: trained, exported, in int8 and compared; interrupted, it goes on where it ended."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from adaptrt.bench.errors import BenchError
from adaptrt.bench.families import networks as family_networks
from adaptrt.bench.families import recipes as family_recipes
from adaptrt.bench.rivals import comparison as rival_comparison
from adaptrt.bench.rivals import static_models
from adaptrt.bench.study import command, seeds
from adaptrt.bench.study.networks import NETWORKS, seed_networks
from adaptrt.bench.study.seeds import shortened
from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.training.recipe import Recipe
from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND

SMALL = ViTConfig(image_size=8, patch_size=2, width=32, depth=4, heads=2, ffn_width=64, class_token=True)
BASE = Recipe(
    data="fashion",
    vit=SMALL,
    acm=ACMConfig(learners=2),
    pruning=PruningConfig((1,)),
    exits=ExitConfig((2,)),
    dense_epochs=2,
    distil_epochs=1,
    gate_epochs=1,
    joint_epochs=1,
    batch=8,
)
SOME = tuple(each for each in NETWORKS if each.name in ("combined", "narrow96", "fixed"))
QUICK = [
    "--seeds",
    1,
    "--effort",
    0.5,
    "--evaluations",
    12,
    "--points",
    2,
    "--calibration-samples",
    16,
    "--samples",
    40,
]


def split(count: int) -> Split:
    generator = np.random.default_rng(count)
    return Split(generator.random((count, 1, 8, 8), dtype=np.float32), np.arange(count) % 10)


DATA = DataSplits("fashion", calibration=split(30), test=split(40), train=split(64))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(family_recipes, "BASE", BASE)
    monkeypatch.setattr(family_networks, "_CHECKPOINTS", tmp_path / "no checkpoints")
    monkeypatch.setattr(command, "NETWORKS", SOME)
    monkeypatch.setattr(command, "load_data", lambda _name: DATA)
    monkeypatch.setattr(static_models, "BACKENDS", {DEFAULT_BACKEND: BACKENDS[DEFAULT_BACKEND]})
    monkeypatch.setattr(rival_comparison, "_SECONDS", 0.01)


def run(root: Path, *more: object) -> str:
    arguments = ["--root", root, *QUICK, "--precision", "float32", *more]
    done = CliRunner().invoke(command.main, [str(argument) for argument in arguments], catch_exceptions=False)
    return done.output if done.exit_code == 0 else f"exit code {done.exit_code}"


def never(*_anything: object, **_named: object) -> None:
    raise AssertionError("made again")


def interrupted(*_anything: object, **_named: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, numbers, picture = tmp_path / "study", tmp_path / "study.json", tmp_path / "study.png"
    monkeypatch.setattr(seeds, "compare_rivals", interrupted)
    assert run(root, "--json", numbers) == "exit code 1" and not numbers.exists()
    weights = (root / "seed0" / "combined" / "model" / "model.safetensors").read_bytes()
    monkeypatch.setattr(family_networks, "train", never)
    monkeypatch.setattr(family_networks, "export_bundle", never)
    monkeypatch.setattr(seeds, "calibrate_engine", never)
    monkeypatch.setattr(seeds, "compare_rivals", rival_comparison.compare_rivals)
    said = run(root, "--json", numbers, "--plot", picture)
    assert "training in float32: what a seed takes" in said and "At batch 1 " in said
    assert (root / "seed0" / "combined" / "model" / "model.safetensors").read_bytes() == weights
    result = json.loads(numbers.read_text())
    (seed,) = result["seeds"]
    assert not seed["left_out"] and picture.read_bytes().startswith(b"\x89PNG")
    names = {entry["name"] for entry in seed["entries"]}
    assert {"adaptive", "adaptive int8", "dense int8", "width 96 int8", "EViT float32", "EViT int8"} <= names
    methods = {entry["method"] for entry in seed["entries"]}
    assert methods == {"adaptive int8", "adaptive float32", "dense", "uniform width", "narrower", "EViT"}
    assert set(result["everything"]) >= {"adaptive over dense float32", "adaptive int8 over dense int8"}
    assert result["effort"] == 0.5 and result["epochs"]["narrow96"] == {"dense": 3}
    assert result["source"]["command"] and seed["machine"]["cpu"] and str(tmp_path) not in numbers.read_text()
    monkeypatch.setattr(seeds, "compare_rivals", never)
    again = run(root, "--json", numbers)
    assert "what a seed takes" not in again and "At batch 1 " in again
    assert "At batch 1 " in run(tmp_path / "elsewhere", "--redraw", numbers)
    with pytest.raises(AssertionError, match="made again"):
        run(root, "--samples", 20)  # another comparison
    with pytest.raises(BenchError, match="with another effort, expected that of network 'combined'; remove"):
        run(root, "--effort", 0.25)


def test_the_plan_counts_what_is_left(tmp_path: Path) -> None:
    said = run(tmp_path / "study", "--plan", "--seeds", 2)
    assert not (tmp_path / "study" / "seed0" / "combined" / "model").exists()
    lines = [line.replace("│", "|").replace("┃", "|").split("|") for line in said.splitlines()]
    rows = {(line[1].strip(), line[2].strip()): line[3].strip() for line in lines if len(line) > 4}
    # Half of eight steps each: two epochs of the dense network, three of the narrower one.
    assert rows["combined", "dense"] == "8" and rows["combined", "joint"] == "4"
    assert rows["narrow96", "dense"] == "12" and rows["fixed", "joint"] == "4"
    assert ("fixed", "dense") not in rows  # the first network's serves it


def test_networks_that_are_compared() -> None:
    """The real ones: as many epochs in all, narrower and shallower ones with a teacher from the start."""
    importlib.reload(family_recipes)
    base = family_recipes.BASE
    every = {network.name: network for network in seed_networks(Path("study"), 3, 0.1, NETWORKS)}
    assert {network.recipe.seed for network in every.values()} == {3}
    assert {network.effort for network in every.values()} == {0.1}
    for name, network in every.items():
        recipe = network.recipe
        epochs = recipe.dense_epochs + (recipe.joint_epochs if recipe.adapts else 0)
        from_scratch = base.dense_epochs + base.joint_epochs
        assert epochs == (base.joint_epochs if name == "longer" else from_scratch), name
        assert (network.teacher is None) == recipe.adapts
    assert every["shallow2"].recipe.vit == dataclasses.replace(base.vit, depth=2)
    assert every["narrow96"].recipe.vit.width == 96 and every["longer"].recipe.vit == base.vit
    assert NETWORKS[0].name == "combined" and all(part is not None for part in (base.acm, base.pruning, base.exits))


def test_calibration_sees_a_part_and_training_all() -> None:
    short = shortened(DATA, 16)
    assert (len(short.calibration), len(short.test)) == (16, 16) and short.train is DATA.train
    assert short.name == "fashion" and np.array_equal(short.test.inputs[1], DATA.test.inputs[2])
