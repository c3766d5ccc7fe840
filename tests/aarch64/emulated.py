"""An aarch64 Python with the packages of the tests and the C++ programs, each behind a script that starts the emulator.

The emulator and the files of the system come from Debian 13 by mmdebstrap, which unpacks and installs nothing: no root
rights, no binfmt, no chroot. Debian 12's emulator (7.2) crashes where ONNX Runtime is imported.
"""

from __future__ import annotations

import importlib.metadata
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from tests.cpp import programs

RELEASE = "trixie"
GLIBC_MINORS = range(17, 42)
"""Of the wheels that this release can load: glibc 2.17 to its own, 2.41."""
EXTRAS = ("cpu", "cli", "image", "telemetry", "text")
TEST_PACKAGES = ("pytest", "hypothesis")
"""Of the extra of developers."""
CPU = "cortex-a76"
"""The emulated one: what a Jetson Orin's cores can do (integer dot products, half precision), and like them no SVE.
Under the emulator's own choice, which has SVE, NumPy's spectra and long sums come out wrong."""


class NotPreparedError(Exception):
    """Something is missing that the preparation needs; the message says what was got, what was expected, what to do."""


@dataclass(frozen=True)
class Emulated:
    """A folder that ``prepare`` filled."""

    folder: Path

    @property
    def emulator(self) -> Path:
        """The program that runs aarch64 programs."""
        return self.folder / "emulator" / "qemu-aarch64"

    @property
    def root(self) -> Path:
        """The system's files."""
        return self.folder / "root"

    @property
    def packages(self) -> Path:
        """What pip unpacked."""
        return self.folder / "packages"

    @property
    def python(self) -> Path:
        """A script that is Python: what it starts by ``sys.executable`` is emulated, too."""
        return self.folder / "python" / "bin" / "python"

    @property
    def programs(self) -> Path:
        """The C++ programs as scripts, and the library."""
        return self.folder / "programs"

    def version(self, package: str) -> str:
        """Of a package as the emulated Python has it."""
        (distribution,) = importlib.metadata.distributions(name=package, path=[str(self.packages)])
        return distribution.version

    def emulator_version(self) -> str:
        """Without the distribution's addition."""
        done = subprocess.run([self.emulator, "--version"], capture_output=True, text=True, check=True)
        return done.stdout.split(" version ")[1].split()[0]


def prepare(folder: Path) -> Emulated:
    """Fill a folder, step by step; what an earlier call finished is kept.

    Raises:
        NotPreparedError: A program is missing, or a step failed.
    """
    emulated = Emulated(folder.resolve())
    emulated.folder.mkdir(parents=True, exist_ok=True)
    _step(emulated.emulator.parent, "fetching the emulator", _fetch_emulator)
    _step(emulated.root, "fetching Python for arm64", _fetch_root)
    _step(emulated.packages, "fetching the wheels for aarch64", lambda part: _fetch_packages(part, emulated.root))
    _write_python(emulated)
    return emulated


def build_programs(emulated: Emulated) -> None:
    """Cross-compile the C++ runtime's programs, or what changed of them.

    Raises:
        NotPreparedError: CMake, the cross compiler or nlohmann-json's headers are missing.
    """
    print("aarch64: building the C++ programs", flush=True)
    try:
        built = programs.build(emulated.folder / "cpp", *programs.for_aarch64())
    except programs.NotBuildableError as error:
        raise NotPreparedError(f"got no way to build the C++ programs: {error}") from error
    emulated.programs.mkdir(exist_ok=True)
    for path in built.glob("adaptrt_*"):
        if path.is_file():
            _write_script(emulated, emulated.programs / path.name, path)
    for path in built.glob("libadaptrt.so*"):
        link = emulated.programs / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path)


def _step(target: Path, what: str, fill: Callable[[Path], None]) -> None:
    """Fill a folder and give it its name when it is whole."""
    if target.exists():
        return
    print(f"aarch64: {what}", flush=True)
    part, start = target.with_name(target.name + ".part"), time.monotonic()
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    fill(part)
    part.rename(target)
    print(f"aarch64: {what} took {time.monotonic() - start:.0f} s", flush=True)


def _fetch_emulator(part: Path) -> None:
    _unpack(part, "./usr/bin/qemu-aarch64", "--include=qemu-user")
    (part / "usr/bin/qemu-aarch64").rename(part / "qemu-aarch64")
    shutil.rmtree(part / "usr")


def _fetch_root(part: Path) -> None:
    """Only ``usr``: whatever path is not in the root is the machine's own."""
    _unpack(part, "./usr", "--arch=arm64", "--include=python3,libstdc++6")
    (part / "lib").symlink_to("usr/lib")


def _unpack(part: Path, member: str, *options: str) -> None:
    if shutil.which("mmdebstrap") is None:
        raise NotPreparedError("got no mmdebstrap, expected it to fetch packages of Debian; apt-get install mmdebstrap")
    archive, command = part / "packages.tar", ["mmdebstrap", "--variant=extract", *options, RELEASE]
    done = subprocess.run([*command, archive], capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()
        raise NotPreparedError(
            f"got {errors[0] if errors else done.returncode!r} from {shlex.join(command)}, expected the packages of "
            "Debian 13; see that there is a network and the keys of Debian's archive (debian-archive-keyring)"
        )
    subprocess.run(["tar", "-xf", archive, "-C", part, "--no-same-owner", member], check=True)
    archive.unlink()


def _python_version(root: Path) -> str:
    """As in the program's name: 3.13."""
    return next(root.glob("usr/bin/python3.*")).name.removeprefix("python")


def _requirements() -> list[str]:
    """What this project's runtime and its tests ask for, from its own metadata."""
    kept = []
    for line in importlib.metadata.requires("adaptrt") or ():
        requirement = Requirement(line)
        wanted = requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in EXTRAS)
        if wanted or requirement.name in TEST_PACKAGES:
            kept.append(f"{requirement.name}{requirement.specifier}")
    return kept


def _fetch_packages(part: Path, root: Path) -> None:
    tags = [f"--platform=manylinux_2_{minor}_aarch64" for minor in GLIBC_MINORS]
    tags += ["--platform=manylinux2014_aarch64", f"--python-version={_python_version(root)}", "--implementation=cp"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:", *tags]
    done = subprocess.run([*command, f"--target={part}", *_requirements()], capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or ["an error"]
        raise NotPreparedError(
            f"got {errors[-1]!r} from pip, expected wheels for aarch64; see that there is a network and pip's index"
        )


def _write_python(emulated: Emulated) -> None:
    """A virtual environment by hand: Python finds its library by the file beside the script."""
    version, base = _python_version(emulated.root), emulated.python.parents[1]
    packages = base / "lib" / f"python{version}" / "site-packages"
    if not packages.exists():
        packages.parent.mkdir(parents=True, exist_ok=True)
        packages.symlink_to(emulated.packages)
    (base / "pyvenv.cfg").write_text(f"home = {emulated.root}/usr/bin\ninclude-system-site-packages = false\n")
    emulated.python.parent.mkdir(exist_ok=True)
    _write_script(emulated, emulated.python, emulated.root / "usr" / "bin" / f"python{version}")


def _write_script(emulated: Emulated, script: Path, program: Path) -> None:
    words: Sequence[Path | str] = [emulated.emulator, "-cpu", CPU, "-L", emulated.root, "-0", script, program]
    script.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
    script.chmod(0o755)
