"""A tiny model of random weights, exported once through the command line, and ways to call it."""

from __future__ import annotations

import copy
import dataclasses
import errno
import fcntl
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from adaptrt.cli.group import adaptrt
from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.folder import save_model
from adaptrt.models.network import Network
from adaptrt.models.training.recipe import Recipe
from tests.staged_bundle import write_staged

TINY = ViTConfig(width=32, depth=2, heads=2, ffn_width=64, acm=ACMConfig(learners=2))


def invoke(*args: object) -> Result:
    """Run the command in this process; what is no user's mistake is raised."""
    result = CliRunner().invoke(adaptrt, [str(arg) for arg in args], prog_name="adaptrt")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a pipe: processes that run tests side by side are told the width of a terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def no_full_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that a test forgot to shrink fails at once, instead of running for hours."""
    module = importlib.import_module("adaptrt.models.training.train")
    train = module.train

    def short(recipe: Recipe, *args: Any) -> Any:
        epochs = recipe.dense_epochs + recipe.distil_epochs + recipe.gate_epochs + recipe.joint_epochs
        assert epochs <= 6, f"a training of {epochs} epochs in a test"
        return train(recipe, *args)

    monkeypatch.setattr(module, "train", short)


@pytest.fixture(scope="session")
def cli() -> Callable[..., Result]:
    return invoke


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """Run the command, which must refuse with one line and exit code 2; gives the line."""

    def run(*args: object) -> str:
        result = invoke(*args)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        errors = [line for line in result.stderr.splitlines() if not line.endswith(" ...")]  # progress
        assert len(errors) == 1 and errors[0].startswith("error: "), result.stderr
        return errors[0]

    return run


@pytest.fixture(scope="session")
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python code in another process, in which some modules cannot be imported."""

    def run(code: str, *, without: tuple[str, ...] = (), cwd: Path | None = None) -> Any:
        blocked = f"import sys; sys.modules.update(dict.fromkeys({without!r}))\n"
        source = str(Path(__file__).parents[2] / "src")
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        return subprocess.run(
            [sys.executable, "-c", blocked + code],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path},
            timeout=120,
        )

    return run


@pytest.fixture(scope="session")
def main_code() -> Callable[..., str]:
    """Code that runs the command as its entry point does."""

    def code(*args: object) -> str:
        argv = ["adaptrt", *map(str, args)]
        return f"import sys; sys.argv = {argv!r}\nfrom adaptrt.cli.main import main\nmain()"

    return code


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    dense = Network.from_config(dataclasses.replace(TINY, acm=None))
    save_model(folder, Network.from_config(TINY), dense, "digits", torch.float16)
    return folder


@pytest.fixture(scope="session")
def exported(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The bundle, and the JSON that its export printed; made by one of the processes that run tests side by side."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, said = shared / "exported" / "tiny", shared / "exported.json"
    with (shared / "exported.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            result = invoke("export", model_folder, "--output", folder, "--points", 5, "--json")
            assert result.exit_code == 0, result.output
            said.write_text(result.stdout)
    return folder, json.loads(said.read_text())


@pytest.fixture(scope="session")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two stages, gates and token selections; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("bundles") / "staged"
    write_staged(folder)
    return folder


@pytest.fixture
def bundle(exported: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of the bundle for one test."""
    return Path(shutil.copytree(exported[0], tmp_path / "bundle"))


@pytest.fixture(scope="session")
def edit() -> Callable[..., None]:
    """Change ``bundle.json`` through a function that alters its content in place."""

    def change(folder: Path, alter: Callable[[dict[str, Any]], object]) -> None:
        content = json.loads((folder / "bundle.json").read_text())
        before = copy.deepcopy(content)
        alter(content)
        if any(content.get(key) != before.get(key) for key in ("curve", "knobs")):
            content.pop("budget_table", None)  # it was of another curve
        (folder / "bundle.json").write_text(json.dumps(content))

    return change


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder with its bytes, to see that nothing was written."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

    return read


@pytest.fixture
def pixels(tmp_path: Path) -> Path:
    """Five samples in a ``.npy`` file."""
    path = tmp_path / "pixels.npy"
    np.save(path, np.random.default_rng(1).random((5, 1, 8, 8), dtype=np.float32))
    return path


@pytest.fixture
def no_space(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, no file can be brought to disk."""

    def fill() -> None:
        def fsync(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", fsync)

    return fill
