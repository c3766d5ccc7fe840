"""Builds the C++ runtime's programs, and puts requests to the one that loads and runs bundles."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.conformance.kit import Array, ArrayReader, ArrayWriter

CPP = Path(__file__).resolve().parents[2] / "runtime" / "cpp"
LIBRARY = "ADAPTRT_CPP_ONNXRUNTIME"
"""Path of another libonnxruntime for the C++ programs; `make cpp-test-versions` sets it."""
REQUIRED = "ADAPTRT_CPP_REQUIRED"
"""Where it is set, what cannot be built is an error and not left out; `make cpp-test` sets it."""


class NotBuildableError(Exception):
    """Something that the build needs is not on this machine; the message says what."""


def onnxruntime_library() -> Path:
    """The library that the Python package brings, unless ``ADAPTRT_CPP_ONNXRUNTIME`` names another one."""
    return Path(os.environ.get(LIBRARY) or packaged_library())


def packaged_library() -> Path:
    """The library that the Python package brings."""
    import onnxruntime

    return next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))


def for_aarch64() -> list[str]:
    """CMake's options of a cross-compilation.

    Raises:
        NotBuildableError: The compiler is missing.
    """
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None:
        raise NotBuildableError("aarch64-linux-gnu-g++ is missing; install g++-aarch64-linux-gnu")
    system = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={compiler}"]
    # Debian's cross compilers look for headers below their own folder only; nlohmann-json's are the same everywhere.
    return [*system, "-DADAPTRT_JSON=/usr/include"]


def build(folder: Path, *options: str, targets: Sequence[str] = ("all",)) -> Path:
    """Configure and build what is named.

    Raises:
        NotBuildableError: CMake, the compiler or nlohmann-json's headers are missing.
    """
    if shutil.which("cmake") is None:
        raise NotBuildableError("cmake is missing; install it and a C++17 compiler")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = ["cmake", "-S", str(CPP), "-B", str(folder), "-DADAPTRT_TESTS=ON", *generator, *options]
    done = subprocess.run(configure, capture_output=True, text=True, timeout=120)
    if "got no nlohmann/json.hpp" in done.stderr:
        raise NotBuildableError("nlohmann-json's headers are missing; install nlohmann-json3-dev")
    if "No CMAKE_CXX_COMPILER" in done.stderr:
        raise NotBuildableError("a C++17 compiler is missing; install g++")
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        ["cmake", "--build", str(folder), "-j1", "--target", *targets], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@dataclass(frozen=True)
class Answered:
    """What the runner replied, one entry for each request, and the arrays that they name."""

    replies: list[dict[str, Any]]
    arrays: ArrayReader

    def outputs(self, reply: Mapping[str, Any]) -> dict[str, Array]:
        """Of a run, ``macs_fraction`` among them."""
        outputs = {entry["name"]: self.arrays.get(entry) for entry in reply["outputs"]}
        return {**outputs, "macs_fraction": self.arrays.get(reply["macs_fraction"])}


@dataclass(frozen=True)
class Programs:
    """A build folder."""

    folder: Path

    def run(
        self,
        name: str,
        *words: object,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program; sanitizers of whatever it was built with must have nothing to say."""
        settings = {"ADAPTRT_ONNXRUNTIME": str(onnxruntime_library()), "ASAN_OPTIONS": "detect_leaks=1"}
        done = subprocess.run(
            [str(self.folder / name), *map(str, words)],
            capture_output=True,
            text=True,
            timeout=600,
            cwd=folder,
            env={**os.environ, **settings, **(environment or {})},
        )
        assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
        assert done.returncode >= 0, f"signal {-done.returncode}: {done.stderr}"
        return done

    def ask(
        self, requests: Sequence[Mapping[str, Any]], scratch: Path, environment: Mapping[str, str] | None = None
    ) -> Answered:
        """Put requests to the runner, in one process."""
        scratch.mkdir(parents=True, exist_ok=True)
        (scratch / "requests.json").write_text(json.dumps(requests))
        replies = scratch / "replies"
        done = self.run("adaptrt_conformance", scratch / "requests.json", replies, environment=environment)
        assert done.returncode == 0, done.stderr
        content = json.loads(replies.with_suffix(".json").read_text())
        return Answered(content, ArrayReader(replies.with_suffix(".bin").read_bytes()))


class Fed:
    """Inputs as requests name them, in one file of arrays."""

    def __init__(self, path: Path) -> None:
        self._path, self._writer = path, ArrayWriter()

    def inputs(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """The keys of a request with these inputs; call ``write`` before it is put."""
        return {"arrays": str(self._path), "inputs": self._writer.add_all(inputs)}

    def write(self) -> None:
        """Write the file."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(self._writer.content())


def same(one: Array, other: Array) -> bool:
    """Whether two arrays are the same to the bit, NaN included."""
    return (
        one.dtype == other.dtype and one.shape == other.shape and np.ascontiguousarray(one).tobytes() == other.tobytes()
    )
