"""The distributions, built once, and empty environments that one of them is installed into, once each."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = "cpu,cli"

_HERE_ONLY = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP")
"""Variables by which a process would find the checkout or this environment."""


def call(*command: object, cwd: Path, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program that finds nothing of the checkout."""
    environment = {name: value for name, value in os.environ.items() if name not in _HERE_ONLY}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environment, **(variables or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def must(*command: object, cwd: Path) -> None:
    """Run a program without which no test here can say anything: where it fails, they fail."""
    done = call(*command, cwd=cwd)
    said = (done.stdout + done.stderr).strip()[-3000:]
    assert done.returncode == 0, f"{' '.join(map(str, command))} ended with {done.returncode}:\n{said}"


@dataclass(frozen=True)
class Distributions:
    """What was built of the files of the checkout.

    Attributes:
        checkout: A copy of these files and no others.
        files: Their names.
        sdist: Built from them.
        wheel: Built from the sdist.
        folder_wheel: Built from them directly, as `pip install .` does.
    """

    checkout: Path
    files: tuple[str, ...]
    sdist: Path
    wheel: Path
    folder_wheel: Path


@dataclass(frozen=True)
class Installed:
    """An environment with one distribution, its extras ``cpu`` and ``cli``, and nothing else."""

    scripts: Path
    packages: Path
    home: Path

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in a folder that has nothing to do with the checkout."""
        elsewhere = self.home / "elsewhere"
        elsewhere.mkdir(parents=True, exist_ok=True)
        variables = {"HOME": str(self.home), "XDG_CACHE_HOME": str(self.home / "cache")}
        return call(self.scripts / str(command[0]), *command[1:], cwd=elsewhere, variables=variables)

    def python(self, code: str) -> str:
        """What the code prints; it must succeed and warn of nothing."""
        done = self.run("python", "-c", code)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout


def tracked_files(folder: Path) -> list[str]:
    """The files of a checkout that are, or would be, in version control."""
    command = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return sorted({name for name in done.stdout.split("\0") if name and os.path.lexists(folder / name)})


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Built of a copy: a build in the checkout reads, and leaves, lists of files of earlier builds."""
    folder = tmp_path_factory.mktemp("distributions")
    checkout = folder / "checkout"
    files = tracked_files(ROOT)
    for name in files:
        target = checkout / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    for arguments in (["--outdir", folder / "both"], ["--wheel", "--outdir", folder / "direct"]):
        must(sys.executable, "-m", "build", *arguments, checkout, cwd=folder)
    (sdist,) = (folder / "both").glob("*.tar.gz")
    (wheel,) = (folder / "both").glob("*.whl")
    (folder_wheel,) = (folder / "direct").glob("*.whl")
    return Distributions(checkout, tuple(files), sdist, wheel, folder_wheel)


@pytest.fixture(scope="session", params=["wheel", "sdist"])
def installed(
    request: pytest.FixtureRequest, distributions: Distributions, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    """An environment that had nothing, not even pip, and got one distribution with its extras."""
    folder = tmp_path_factory.mktemp(f"from_{request.param}")
    venv.create(folder / "environment", symlinks=True)
    base = {"base": str(folder / "environment"), "platbase": str(folder / "environment")}
    scripts = Path(sysconfig.get_path("scripts", "venv", base))
    distribution = getattr(distributions, request.param)
    requirement = f"adaptrt[{EXTRAS}] @ {distribution.as_uri()}"
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python")
    must(*pip, "install", "--quiet", "--no-warn-script-location", requirement, cwd=folder)
    return Installed(scripts, Path(sysconfig.get_path("purelib", "venv", base)), folder / "home")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that an export wrote here, where torch is: the default model, smaller and untrained."""
    import torch

    from adaptrt.models.adapters.vit import ViTConfig
    from adaptrt.models.families.acm import ACMConfig
    from adaptrt.models.folder import save_model
    from adaptrt.models.network import Network

    folder = tmp_path_factory.mktemp("exported")
    config = ViTConfig(width=32, depth=2, heads=2, ffn_width=64, acm=ACMConfig(learners=2))
    torch.manual_seed(0)
    dense = Network.from_config(dataclasses.replace(config, acm=None))
    (folder / "models").mkdir()
    save_model(folder / "models" / "small", Network.from_config(config), dense, "digits", torch.float16)
    export = (sys.executable, "-m", "adaptrt.cli", "export", folder / "models" / "small", "--points", 5)
    must(*export, "--output", folder / "small", cwd=folder)
    return folder / "small"


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    return Path(shutil.copytree(exported, tmp_path / "small"))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same five images as arrays, and one as a picture, by the ending of the file."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("inputs")
    pixels = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    files = {ending: folder / f"pixels.{ending}" for ending in ("npy", "npz", "png")}
    np.save(files["npy"], pixels)
    np.savez(files["npz"], pixels=pixels)
    Image.fromarray((pixels[0, 0] * 255).astype(np.uint8)).save(files["png"])
    return files
