"""``adaptrt export module:name``: what the command line says of a user's module."""

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from adaptrt.cli.group import adaptrt

MODULE = """
import torch
from torch import nn
from adaptrt.models import Adaptive, Leave


class Tiny(Adaptive):
    axes = {"x": ("batch", 4)}
    stages = 2

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.head = nn.Linear(4, OUTPUTS)

    def example(self, batch):
        return {"x": torch.rand(batch, 4)}

    def stage(self, number, state, knobs):
        return {"x": torch.relu(self.layers[number](state["x"]))}

    def leave(self, number, state):
        given = self.head(state["x"])
        return Leave({"NAME": given}, given.amax(1))


def make():
    return Tiny()


def broken():
    return undefined


number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for number in ("first", "second", "third", "fourth", "fifth", "sixth"):
        monkeypatch.delitem(sys.modules, f"{number}_module", raising=False)  # of another test's folder
    return tmp_path


def write(folder: Path, name: str, output: str = "logits") -> None:
    (folder / f"{name}.py").write_text(MODULE.replace("OUTPUTS", "3").replace("NAME", output))


def export(*arguments: str) -> Result:
    return CliRunner().invoke(adaptrt, ["export", *arguments])


def save_data(folder: Path) -> str:
    generator = np.random.default_rng(0)
    arrays = {}
    for part in ("calibration", "test"):
        arrays[f"{part}_x"] = generator.random((40, 4), np.float32)
        arrays[f"{part}_labels"] = generator.integers(0, 3, 40)
    np.savez(folder / "data.npz", **arrays)
    return "data.npz"


def test_a_function_or_a_class(folder: Path) -> None:
    write(folder, "first_module")
    data = save_data(folder)
    for name in ("make", "Tiny"):
        done = export(f"first_module:{name}", "--data", data, "--output", "out", "--points", "3")
        assert done.exit_code == 0, done.output
        assert "exits by share" in done.output and "Bundle in out" in done.output
    calibrated = CliRunner().invoke(adaptrt, ["calibrate", "out", "--data", data, "--points", "3"])
    assert calibrated.exit_code == 0, calibrated.output


def test_without_data_it_says_that_it_knows_no_budgets(folder: Path) -> None:
    write(folder, "second_module")
    done = export("second_module:make")
    assert done.exit_code == 0, done.output
    assert "It is not calibrated and knows no budgets: give --data" in done.output
    assert "Bundle in build/second_module" in done.output


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        (
            "third_module:missing",
            "third_module has no missing, expected a function or a class of it: Tiny, make",
        ),
        ("third_module:number", "got a int, expected an adaptrt.models.Adaptive; derive from it and write example"),
        (
            "third_module:broken",
            "raised NameError: name 'undefined' is not defined at third_module.py:",
        ),
        ("nowhere_at_all:make", "got module 'nowhere_at_all', which is neither in"),
        ("fourth_module:make", "cannot import fourth_module: SyntaxError"),
        ("fifth_module:make", "module fifth_module imports not_installed_here, which is not installed, expected it"),
    ],
)
def test_mistakes_are_one_line(folder: Path, reference: str, says: str) -> None:
    write(folder, "third_module")
    (folder / "fourth_module.py").write_text("def make(:\n")
    (folder / "fifth_module.py").write_text("import not_installed_here\n")
    done = export(reference)
    assert done.exit_code == 2
    assert says in done.output and done.output.strip().count("\n") == 0


def test_labels_without_a_judge(folder: Path) -> None:
    write(folder, "sixth_module", "depth")
    done = export("sixth_module:make", "--data", save_data(folder), "--output", "out")
    assert done.exit_code == 2
    assert "got labels and no judge for the outputs depth of Tiny, expected judge, or an output logits" in done.output
    assert not (folder / "out").exists()


def test_the_help_has_an_example() -> None:
    told = export("--help").output
    assert "adaptrt export my_module:make --data mine.npz --output build/mine" in told
