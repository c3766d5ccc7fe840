"""What is in the wheel and in the sdist."""

from __future__ import annotations

import email
import stat
import tarfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import adaptrt
from tests.packaging.conftest import Distributions, Installed
from tests.test_package import ROOMS

LEFT_OUT = {
    "bench/results/*": "figures that the documentation quotes",
    "runtime/cpp/*": "C++, which CMake installs from a checkout",
    "plugins_trt/csrc/.clang-format": "what `make lint` of a checkout would take",
    "runtime/js/*": "an npm package of its own",
}
"""Files of the rooms that are for those who work on the project, and why."""


OPTIMUM = "optimum/commands/register/register_adaptrt.py"
"""What registers a subcommand of ``optimum-cli``; no folder on the way has an ``__init__.py``, or it hides Optimum."""


def package_files(distributions: Distributions) -> dict[str, Path]:
    """The files of the checkout that make up the package, by their place in it."""
    names = [name for name in distributions.files if name.partition("/")[0] in ROOMS]
    rooms = [name for name in names if not any(fnmatch(name, pattern) for pattern in LEFT_OUT)]
    own = {name: distributions.checkout / "src" / "adaptrt" / name for name in ("__init__.py", "py.typed")}
    return {**own, **{name: distributions.checkout / name for name in rooms}}


def read_wheel(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}


def test_every_file_of_the_rooms_is_in_the_wheel_and_no_other(distributions: Distributions) -> None:
    wanted = {OPTIMUM, *(f"adaptrt/{name}" for name in package_files(distributions))}
    assert len(wanted) > 200
    found = {name for name in read_wheel(distributions.wheel) if ".dist-info/" not in name}
    assert found == wanted, f"missing {sorted(wanted - found)}, not expected {sorted(found - wanted)}"


def test_the_wheel_has_what_is_no_python_file(distributions: Distributions) -> None:
    names = set(read_wheel(distributions.wheel))
    assert {
        "adaptrt/py.typed",
        "adaptrt/models/weights/digits/model.safetensors",
        "adaptrt/models/weights/digits/dense.safetensors",
        "adaptrt/models/weights/digits/config.json",
        "adaptrt/plugins_trt/csrc/CMakeLists.txt",
        "adaptrt/plugins_trt/csrc/op_plugin.cpp",
        "adaptrt/plugins_trt/csrc/cuda_types/cuda_runtime_api.h",
        "adaptrt/plugins_trt/csrc/host/main.cpp",
    } <= names
    unwanted = [name for name in names if {"tests", "__pycache__"} & set(name.split("/")) or "/test_" in name]
    assert not unwanted


def test_the_wheel_has_files_not_links(distributions: Distributions) -> None:
    with zipfile.ZipFile(distributions.wheel) as archive:
        assert all(stat.S_ISREG(info.external_attr >> 16) for info in archive.infolist())
    content = read_wheel(distributions.wheel)
    for name, path in package_files(distributions).items():
        assert content[f"adaptrt/{name}"] == path.read_bytes(), name
    assert content[OPTIMUM] == (distributions.checkout / "src" / OPTIMUM).read_bytes()


def test_the_wheel_says_what_it_is(distributions: Distributions) -> None:
    content = read_wheel(distributions.wheel)
    information = f"adaptrt-{adaptrt.__version__}.dist-info"
    assert {name.partition("/")[0] for name in content} == {"adaptrt", "optimum", information}
    metadata = email.message_from_bytes(content[f"{information}/METADATA"])
    assert (metadata["Name"], metadata["Version"]) == ("adaptrt", adaptrt.__version__)
    assert distributions.wheel.name == f"adaptrt-{adaptrt.__version__}-py3-none-any.whl"
    assert content[f"{information}/licenses/LICENSE"] == (distributions.checkout / "LICENSE").read_bytes()
    assert b"adaptrt = adaptrt.cli.main:main" in content[f"{information}/entry_points.txt"]


def test_the_folder_gives_the_same_wheel_as_the_sdist(distributions: Distributions) -> None:
    assert read_wheel(distributions.folder_wheel) == read_wheel(distributions.wheel)


def test_the_sdist_has_what_the_wheel_is_built_of_and_no_tests(distributions: Distributions) -> None:
    base = f"adaptrt-{adaptrt.__version__}"
    with tarfile.open(distributions.sdist) as archive:
        members = archive.getmembers()
    assert distributions.sdist.name == f"{base}.tar.gz"
    assert all(member.isreg() or member.isdir() for member in members)
    names = {member.name.removeprefix(f"{base}/") for member in members if member.isreg()}
    assert {f"src/{OPTIMUM}", *(f"src/adaptrt/{name}" for name in package_files(distributions))} <= names
    assert {name.partition("/")[0] for name in names} == {
        *("LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg", "src"),
    }


def test_what_is_installed_is_what_the_wheel_has(distributions: Distributions, installed: Installed) -> None:
    for name, content in read_wheel(distributions.wheel).items():
        if name.startswith(("adaptrt/", "optimum/")):
            assert (installed.packages / name).read_bytes() == content, name
