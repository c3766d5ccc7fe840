"""``optimum-cli export adaptive``: what it runs, and what it refuses in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adaptrt.cli import optimum_export
from adaptrt.cli.optimum_export import commands_for, export_adaptive


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder as transformers writes it, as far as the command looks."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertModel"], "model_type": "bert"}))
    return folder


def test_an_adapted_folder_is_exported(model_folder: Path, tmp_path: Path) -> None:
    wanted = ["export", str(model_folder.resolve()), "--output", str(tmp_path / "bundle")]
    assert commands_for(model_folder, tmp_path / "bundle", {}) == [wanted]


def test_a_checkpoint_is_adapted_first(checkpoint: Path, tmp_path: Path) -> None:
    output, work = tmp_path / "bundle", tmp_path / "bundle.adapt"
    adapt, export = commands_for(checkpoint, output, {"data": Path("texts.txt"), "hours": "2", "families": "acm"})
    given = ["--data", "texts.txt", "--hours", "2", "--families", "acm"]
    adapted = str(work / "network" / "checkpoint")
    assert adapt == ["adapt", str(checkpoint), *given, "--work", str(work), "--output", adapted]
    assert export == ["export", adapted, "--output", str(output)]
    adapt, export = commands_for(checkpoint, output, {"data": "x.txt", "work": tmp_path / "work"})
    assert export[1] == adapt[-1] == str(tmp_path / "work" / "network" / "checkpoint")


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("none", {}, "expected a folder with config.json"),
        ("checkpoint", {}, "and no --data"),
        ("adapted", {"data": "texts.txt", "steps": "3"}, "got --data, --steps with a network that is adapted already"),
        ("broken", {}, "cannot read"),
        ("checkpoint", {"data": "texts.txt", "occupied": True}, "choose another output"),
    ],
)
def test_refusals_are_one_line(
    model_folder: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    options: dict[str, Any],
    said: str,
) -> None:
    model = {"none": tmp_path / "none", "adapted": model_folder}.get(kind, checkpoint)
    if kind == "broken":
        (checkpoint / "config.json").write_text("[1]")
    if options.pop("occupied", False):
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle" / "letter.txt").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        export_adaptive(model, tmp_path / "bundle", options)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line


def test_the_class_that_optimum_finds(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optimum.commands.base")
    from optimum.commands.register.register_adaptrt import REGISTER_COMMANDS, AdaptiveExport

    assert REGISTER_COMMANDS[0][0] is AdaptiveExport
    parser = ArgumentParser()
    AdaptiveExport.parse_args(parser)
    args = parser.parse_args(["-m", str(model_folder), "bundle"])
    ran: list[object] = []
    monkeypatch.setattr(optimum_export, "run_commands", ran.extend)
    AdaptiveExport(None, args, from_defaults_factory=True, parser=parser).run()
    assert ran == [["export", str(model_folder.resolve()), "--output", "bundle"]]


def test_a_verb_that_fails_ends_it(python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    code = f"""
from adaptrt.cli.main import run_commands
run_commands([["--version"], ["inspect", {str(tmp_path / "none")!r}], ["--version"]])
"""
    done = python(code)
    assert done.returncode == 2 and done.stdout.count("adaptrt ") == 1
    assert len(done.stderr.splitlines()) == 1


def test_nothing_of_optimum_is_needed_to_read_the_command() -> None:
    code = "import sys, adaptrt.cli.optimum_export; print('optimum' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
