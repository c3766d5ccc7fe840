"""``optimum-cli export adaptive`` where Optimum is installed beside a wheel, or beside a checkout."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.packaging.conftest import Distributions, Installed, must

try:
    OPTIMUM = importlib.metadata.version("optimum")
except importlib.metadata.PackageNotFoundError:
    OPTIMUM = ""
pytestmark = pytest.mark.skipif(not OPTIMUM, reason="optimum is not installed: install adaptrt[pretrained]")


@pytest.fixture(scope="module", params=["wheel", "editable"])
def beside(
    request: pytest.FixtureRequest, distributions: Distributions, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    """An environment with Optimum and one of both; what they import, torch among it, is this environment's."""
    folder = tmp_path_factory.mktemp(f"beside_{request.param}")
    venv.create(folder / "environment", symlinks=True)
    base = {"base": str(folder / "environment"), "platbase": str(folder / "environment")}
    scripts, packages = (Path(sysconfig.get_path(name, "venv", base)) for name in ("scripts", "purelib"))
    what = ["--editable", distributions.checkout] if request.param == "editable" else [distributions.wheel]
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--quiet", "--no-deps")
    must(*pip, "--no-warn-script-location", f"optimum=={OPTIMUM}", *what, cwd=folder)
    # Behind the environment's own, and without the links to checkouts that may lie there.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(scripts, packages, folder / "home")


def test_the_subcommand_is_listed(beside: Installed) -> None:
    done = beside.run("optimum-cli", "export", "--help")
    assert done.returncode == 0 and "adaptive" in done.stdout, done.stderr
    done = beside.run("optimum-cli", "export", "adaptive", "--help")
    assert done.returncode == 0 and all(word in done.stdout for word in ("--model", "--data", "--hours", "output"))


def test_an_adapted_network_is_exported(beside: Installed, tmp_path: Path) -> None:
    import torch

    from adaptrt.models.adapters.vit import ViTConfig
    from adaptrt.models.families.acm import ACMConfig
    from adaptrt.models.folder import save_model
    from adaptrt.models.network import Network

    config = ViTConfig(width=32, depth=2, heads=2, ffn_width=64, acm=ACMConfig(learners=2))
    dense = Network.from_config(dataclasses.replace(config, acm=None))
    save_model(tmp_path / "small", Network.from_config(config), dense, "digits", torch.float16)
    done = beside.run("optimum-cli", "export", "adaptive", "-m", tmp_path / "small", tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "bundle" / "bundle.json").read_text())["curve"]


def test_a_mistake_is_one_line(beside: Installed, tmp_path: Path) -> None:
    done = beside.run("optimum-cli", "export", "adaptive", "-m", tmp_path, tmp_path / "bundle")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: got model")
