from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from adaptrt.bench.errors import BenchError
from adaptrt.bench.families import comparison as families
from adaptrt.bench.families import networks as family_networks
from adaptrt.bench.families import points as family_points
from adaptrt.bench.families import recipes as family_recipes
from adaptrt.bench.families.budgets import BUDGETS
from adaptrt.bench.families.comparison import Shown, main, measure, tabulate
from adaptrt.bench.families.networks import FamilyNetwork, find_networks, require_recipe, train_network
from adaptrt.bench.families.plot import plot_families
from adaptrt.bench.families.result import Result, read_result
from adaptrt.bench.reports.result_json import write_json
from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.network import Network
from adaptrt.models.training.precision import PrecisionChoice
from adaptrt.models.training.recipe import Recipe
from adaptrt.runtime import Budget, load
from tests.staged_bundle import images, write_staged

SMALL = ViTConfig(
    image_size=4, patch_size=2, width=16, depth=2, heads=2, ffn_width=32, classes=3, class_token=True
)  # fmt: skip
BASE = Recipe(data="fashion", vit=SMALL, acm=ACMConfig(learners=2), exits=ExitConfig((1,)))
FIXED = PruningConfig(blocks=(0, 1), rule="fixed")
RECIPES = {
    "combined": dataclasses.replace(BASE, pruning=PruningConfig(blocks=(0,))),
    "acm": dataclasses.replace(BASE, exits=None),
    "fixed": dataclasses.replace(BASE, acm=None, exits=None, pruning=FIXED),
    "narrow": dataclasses.replace(
        BASE, acm=None, exits=None, vit=dataclasses.replace(SMALL, width=8, ffn_width=16), dense_epochs=7
    ),
}
TEST = Split(images(90, seed=6), np.arange(90) % 3)
DATA = DataSplits("fashion", calibration=TEST, test=TEST, train=TEST)
SILENT = SimpleNamespace(tell=lambda _what, _share: None, turns=lambda *_turn: None)


@pytest.fixture(autouse=True)
def small_recipes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small networks in place of those for Fashion-MNIST, none of them ready or trained before."""
    monkeypatch.setattr(family_networks, "family_recipes", lambda: RECIPES)
    monkeypatch.setattr(family_networks, "weights_folder", lambda _name: tmp_path / "no weights")
    monkeypatch.setattr(family_recipes, "BASE", BASE)
    monkeypatch.setattr(families, "BASE", BASE)
    monkeypatch.setattr(families, "load_data", lambda _name: DATA)
    monkeypatch.setattr(family_networks, "_CHECKPOINTS", tmp_path / "no checkpoints")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All networks trained and exported: bundles written by hand, which need not be what their recipes say."""
    root = tmp_path / "families"
    for name, stages, calibrated in (("combined", 2, True), ("acm", 1, True), ("fixed", 1, False)):
        (root / name / "model").mkdir(parents=True)
        (root / name / "model" / "model.safetensors").write_bytes(b"weights")
        write_staged(root / name / "bundle", stages=stages, calibrated=calibrated)
    (root / "narrow").mkdir()
    (root / "narrow" / "dense.onnx").write_bytes((root / "acm" / "bundle" / "dense.onnx").read_bytes())
    settings = [{"capacity": [0.0, 0.0], "token_price": 0.0}, {}]
    monkeypatch.setattr(family_points, "keep_settings", lambda *_anything: settings)
    return root


def run(root: Path, names: list[str] | None = None, **changes: Any) -> Result:
    settings = {"batches": [1, 4], "points": 3, "samples": 20, "rounds": 1, "threads": 1, "shown": SILENT, **changes}
    return measure(find_networks(root, names), DATA, **settings)


@pytest.fixture
def result(root: Path) -> Result:
    return run(root)


def test_every_network_is_measured_at_its_points(result: Result, root: Path) -> None:
    found = {network.name: network for network in result.networks}
    assert list(found) == list(RECIPES)
    assert len(found["combined"].points) >= 3 and len(found["fixed"].points) == 2 and len(found["narrow"].points) == 1
    scale = 1000 / Network.from_config(SMALL).dense_macs()  # the bundles written by hand say 1000
    for name in ("combined", "acm", "fixed"):
        model = load(root / name / "bundle", threads=1)
        picked = TEST.inputs[np.arange(20) * 90 // 20]
        for row in found[name].points:
            timed = model.run({"pixels": picked}, knobs=row.knobs)
            share = Network.from_config(SMALL).dense_macs() / 1000 * timed.macs_fraction.mean()
            assert row.timed_macs_fraction[1] == pytest.approx(share, rel=1e-4)
            assert row.timed_macs_fraction[4] == pytest.approx(share, rel=1e-4)
    full = found["fixed"].points[-1]
    expected = load(root / "fixed" / "bundle", threads=1).run({"pixels": TEST.inputs})
    assert full.macs_fraction == pytest.approx(scale * expected.macs_fraction.mean())
    assert full.accuracy == pytest.approx((expected.outputs["logits"].argmax(1) == TEST.labels).mean())
    narrow = found["narrow"].points[0]
    assert narrow.macs_fraction == pytest.approx(
        Network.from_config(RECIPES["narrow"].vit).dense_macs() / Network.from_config(SMALL).dense_macs()
    )
    assert 0 < narrow.macs_fraction < 1
    for network in result.networks:
        shares = [row.macs_fraction for row in network.points]
        assert shares == sorted(shares)
        for row in network.points:
            for spread in (*row.latency_ms.values(), *row.ratio.values()):
                assert 0 < spread.low <= spread.median <= spread.high < math.inf


def test_all_networks_at_the_same_budgets(result: Result, root: Path) -> None:
    assert [row.fraction for row in result.budgets] == list(BUDGETS)
    points = {network.name: network.points for network in result.networks}
    for row in result.budgets:
        assert list(row.accuracy) == list(RECIPES)
        narrow = points["narrow"][0]
        assert row.accuracy["narrow"] == (narrow.accuracy if narrow.macs_fraction <= row.fraction else None)
        share = row.fraction * Network.from_config(SMALL).dense_macs() / 1000  # the bundles written by hand say 1000
        for name in ("combined", "acm"):
            own = load(root / name / "bundle", threads=1).operating_point(Budget.fraction(share))
            assert row.accuracy[name] == (own.quality if own.reachable else None)


def test_what_was_said_of_the_run(result: Result) -> None:
    assert (result.data, result.test_images, result.timed_images) == ("fashion", 90, 20)
    assert result.dense.accuracy == 0.9 and set(result.dense.latency_ms) == {1, 4}
    epochs = {network.name: network.epochs for network in result.networks}
    assert epochs["narrow"] == {"dense": 7}
    assert epochs["fixed"] == {"dense": 100, "joint": 50}
    assert epochs["acm"] == {"dense": 100, "distil": 5, "gate": 3, "joint": 50}
    assert result.machine["cpu"] and "commit" in result.source


def test_result_survives_its_file_and_is_drawn(result: Result, tmp_path: Path) -> None:
    file = tmp_path / "families.json"
    write_json(result, file)
    back = read_result(file)
    assert [network.name for network in back.networks] == list(RECIPES)
    assert back.networks[0].points[0].ratio[4].median == pytest.approx(
        result.networks[0].points[0].ratio[4].median, 1e-5
    )
    points, budgets = tabulate(back).renderables
    assert points.row_count == sum(len(network.points) for network in back.networks) + 1
    assert budgets.row_count == len(BUDGETS) and len(budgets.columns) == 1 + len(RECIPES)
    plot_families(back, tmp_path / "families.png")
    header = (tmp_path / "families.png").read_bytes()[:24]
    width, height = (int.from_bytes(header[at : at + 4], "big") for at in (16, 20))
    assert header[:8] == b"\x89PNG\r\n\x1a\n" and width > 1500 and height > 600
    with pytest.raises(BenchError, match=r"expected one of \.png, \.svg, \.pdf"):
        plot_families(back, tmp_path / "families.bmp")


@pytest.mark.parametrize("content", ["", "{}", '{"benchmark": 3}', None])
def test_a_file_that_is_no_result(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(BenchError, match=r"x\.json.*expected a result of this benchmark"):
        read_result(tmp_path / "x.json")


def test_points_are_measured_once_for_the_same_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fixed,) = find_networks(root, ["fixed"])

    def points() -> list[family_points.NetworkPoint]:
        return family_points.network_points(fixed, TEST, count=2, base=SMALL, progress=lambda _what, _share: None)

    first = points()

    def again(*_anything: object) -> tuple[float, float]:
        raise AssertionError("measured again")

    monkeypatch.setattr(family_points, "_measure", again)
    assert points() == first
    with (fixed.file / "model.onnx").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(AssertionError, match="measured again"):
        points()


def test_what_is_left_to_do(tmp_path: Path, root: Path) -> None:
    assert [n.trained for n in find_networks(tmp_path / "empty")] == [False] * 4
    assert [n.exported for n in find_networks(tmp_path / "empty")] == [False] * 4
    networks = find_networks(root)
    assert all(n.trained and n.exported for n in networks)
    later = (networks[1].file / "bundle.json").stat().st_mtime + 100
    os.utime(networks[1].model / "model.safetensors", (later, later))
    assert [n.name for n in networks if not n.exported] == ["acm"]  # its weights are newer than its bundle
    assert [n.static for n in networks] == [False, False, True, False]
    with pytest.raises(BenchError, match="networks acm are not exported; run with --train --export"):
        run(root)
    with pytest.raises(BenchError, match="got network 'wide', expected one of combined, acm"):
        find_networks(root, ["wide"])


def test_a_ready_model_is_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family_networks, "weights_folder", lambda name: tmp_path / "weights" / name)
    (tmp_path / "weights" / "fashion").mkdir(parents=True)
    (tmp_path / "weights" / "fashion" / "model.safetensors").write_bytes(b"weights")
    combined, acm = find_networks(tmp_path / "families", ["combined", "acm"])
    assert combined.trained and combined.model == tmp_path / "weights" / "fashion" and not acm.trained


def test_a_comparison_needs_a_dense_network(root: Path) -> None:
    with pytest.raises(BenchError, match="add combined"):
        run(root, ["fixed", "narrow"])


def test_networks_of_another_recipe_are_refused(root: Path) -> None:
    (acm,) = find_networks(root, ["acm"])
    acm.checkpoints.mkdir()
    record = dataclasses.asdict(dataclasses.replace(acm.recipe, precision="bfloat16"))
    (acm.checkpoints / "recipe.json").write_text(json.dumps(record))
    require_recipe(acm)
    (acm.checkpoints / "recipe.json").write_text(json.dumps(record | {"seed": 5}))
    with pytest.raises(BenchError, match="another recipe.*remove the folder"):
        require_recipe(acm)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, bool]]:
    """Training that trains nothing; what it was called with, and whether it found the dense network."""
    calls = []

    def train(
        recipe: Recipe, _data: DataSplits, folder: Path, _report: Callable[..., None], **_settings: object
    ) -> tuple[Network, Network]:
        calls.append((recipe, (folder / "dense.pt").is_file()))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dense.pt").write_bytes(b"dense")
        (folder / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe)))
        torch.manual_seed(0)
        dense = Network.from_config(recipe.vit).eval()
        config = dataclasses.replace(recipe.vit, acm=recipe.acm, pruning=recipe.pruning, exits=recipe.exits)
        return dense, Network.from_config(config).eval() if recipe.adapts else dense

    monkeypatch.setattr(family_networks, "train", train)
    return calls


def test_networks_share_the_dense_one_and_leave_their_weights(
    tmp_path: Path, untrained: list[tuple[Recipe, bool]]
) -> None:
    root = tmp_path / "families"
    networks = find_networks(root)
    for network in networks:
        train_network(network, DATA, root, precision="bfloat16", report=lambda _progress: None)
    assert [found for _, found in untrained] == [False, True, True, False]  # the narrower one has its own
    assert {recipe.precision for recipe, _ in untrained} == {"bfloat16"}
    assert all(network.trained for network in networks)
    assert networks[3].exported and not networks[0].exported  # the graph of a dense network is all it needs
    assert (networks[0].model / "config.json").is_file() and (networks[0].model / "dense.safetensors").is_file()


def test_no_network_starts_from_one_of_another_shape(tmp_path: Path, untrained: list[tuple[Recipe, bool]]) -> None:
    root = tmp_path / "families"
    for network in reversed(find_networks(root)):  # the narrower one first
        train_network(network, DATA, root, precision="bfloat16", report=lambda _progress: None)
    assert [found for _, found in untrained] == [False, False, True, True]


def test_static_networks_are_exported_uncalibrated(
    root: Path, untrained: list[tuple[Recipe, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {}

    def export_bundle(source: Any, output: Path, **settings: Any) -> None:
        calls[source.name] = (output, settings["calibration"] is None, settings["evaluations"])

    monkeypatch.setattr(family_networks, "export_bundle", export_bundle)
    for network in find_networks(root, ["acm", "fixed"]):
        train_network(network, DATA, root, precision="float32", report=lambda _progress: None)
        family_networks.export_network(network, DATA, evaluations=33, progress=lambda _what, _share: None)
    assert calls == {
        "acm": (root / "acm" / "bundle", False, 33),
        "fixed": (root / "fixed" / "bundle", True, 33),
    }
    (new,) = find_networks(root / "elsewhere", ["acm"])
    with pytest.raises(BenchError, match="not trained.*--train"):
        family_networks.export_network(new, DATA, evaluations=None, progress=lambda _what, _share: None)
    assert len(untrained) == 2


def test_command_does_all_that_is_missing(
    tmp_path: Path, root: Path, untrained: list[tuple[Recipe, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained or exported that is there; only the acm network has newer weights than its bundle."""
    (acm,) = find_networks(root, ["acm"])
    later = (acm.file / "bundle.json").stat().st_mtime + 100
    os.utime(acm.model / "model.safetensors", (later, later))
    exported = []

    def export(
        network: FamilyNetwork, _data: DataSplits, *, progress: Callable[..., None], **_settings: object
    ) -> None:
        exported.append(network.name)
        progress("tracing", 0.5)
        os.utime(network.file / "bundle.json", (later, later))

    monkeypatch.setattr(families, "export_network", export)
    files = ["--json", str(tmp_path / "f.json"), "--plot", str(tmp_path / "f.svg")]
    quick = ["--points", "2", "--samples", "6", "--rounds", "1", "--batch", "3"]
    done = CliRunner().invoke(main, ["--root", str(root), *files, *quick], catch_exceptions=False)
    assert done.exit_code == 0 and exported == ["acm"] and not untrained
    assert "acm: tracing ..." in done.stderr and "measuring batch 3 ..." in done.stderr
    assert "combined" in done.stdout and "narrow" in done.stdout
    assert json.loads((tmp_path / "f.json").read_text())["benchmark"] == "families"
    assert (tmp_path / "f.svg").read_bytes().startswith(b"<?xml")
    again = ["--redraw", str(tmp_path / "f.json"), "--plot", str(tmp_path / "g.png")]
    redrawn = CliRunner().invoke(main, again, catch_exceptions=False)
    assert redrawn.exit_code == 0 and "combined" in redrawn.stdout and (tmp_path / "g.png").is_file()


def test_steps_alone(tmp_path: Path, untrained: list[tuple[Recipe, bool]]) -> None:
    root = tmp_path / "families"
    arguments = ["--root", str(root), "--train", "--network", "narrow", "--precision", "float32"]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and len(untrained) == 1 and (root / "narrow" / "dense.onnx").is_file()
    assert done.stdout == ""
    wrong = CliRunner().invoke(main, ["--train", "--plot", str(tmp_path / "x.png")])
    assert wrong.exit_code == 2 and "--measure" in wrong.output
    nowhere = CliRunner().invoke(main, ["--plot", str(tmp_path / "absent" / "x.png")])
    assert nowhere.exit_code == 2 and "is no folder" in nowhere.output


def test_all_train_in_the_precision_that_the_first_began_with(
    tmp_path: Path, untrained: list[tuple[Recipe, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--root", str(tmp_path), "--train", "--network"]
    for best in ("bfloat16", "float32"):  # what timing says may change from one call to the next
        choice = PrecisionChoice(best, "so it was timed")
        monkeypatch.setattr("adaptrt.models.training.precision.precision_of_this_machine", lambda choice=choice: choice)
        name = {"bfloat16": "narrow", "float32": "acm"}[best]
        done = CliRunner().invoke(main, [*arguments, name], catch_exceptions=False)
        assert done.exit_code == 0 and f"{name}: training in bfloat16: " in done.stderr
    assert [recipe.precision for recipe, _ in untrained] == ["bfloat16", "bfloat16"]


def test_shown_keeps_a_line_for_every_step() -> None:
    lines: list[str] = []
    tasks: list[tuple[str, float]] = []
    progress = SimpleNamespace(
        console=SimpleNamespace(print=lambda line, **_settings: lines.append(line)),
        add_task=lambda _what, **_settings: len(tasks),
        update=lambda task, completed: tasks.append((str(task), completed)),
    )
    shown = Shown(progress)  # type: ignore[arg-type]
    report = shown.training("acm")
    for step in (1, 2):
        report(SimpleNamespace(phase="joint", step=step, steps=2))  # type: ignore[arg-type]
    shown.turns("batch 1", 1, 4)
    assert lines == ["acm: training, joint ...", "measuring batch 1 ..."]
    assert [share for _, share in tasks] == [0.5, 1.0, 0.25]


def test_recipes_that_are_compared() -> None:
    """The real ones: every rule by itself and together, and narrower networks with as many epochs in all."""
    module = importlib.reload(family_recipes)
    recipes = module.family_recipes()
    base = recipes["combined"]
    assert base.acm and base.pruning and base.exits and base.vit.width >= 192
    for name, recipe in recipes.items():
        epochs = recipe.dense_epochs + (recipe.joint_epochs if recipe.adapts else 0)
        assert epochs == base.dense_epochs + base.joint_epochs, name
        assert recipe.adapts == (not name.startswith("narrow"))
        assert recipe.vit.width == base.vit.width if recipe.adapts else recipe.vit.width < base.vit.width
