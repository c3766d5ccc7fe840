"""Builds the plugin library with its host program, and plays scenarios with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

CSRC = Path(__file__).resolve().parents[2] / "plugins_trt" / "csrc"
DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


class NotBuildableError(Exception):
    """Something that the build needs is not on this machine; the message says what."""


@dataclass(frozen=True)
class Input:
    """One input of a plugin's node: its dtype, its axes as symbols or numbers, and the most of a profile."""

    dtype: str
    axes: Sequence[str | int]
    most: Sequence[int]


@dataclass(frozen=True)
class Scenario:
    """What to do with one plugin; ``runs`` are lists of inputs with how to run them."""

    plugin: str
    inputs: Sequence[Input]
    fields: Sequence[tuple[str, str, object]] = ()
    runs: Sequence[Sequence[Array]] = ()
    outputs: int = 1
    how: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Played:
    """What the host said: its report, and each run's outputs."""

    report: dict[str, Any]
    results: list[list[Array]]
    status: int

    @property
    def launches(self) -> list[dict[str, Any]]:
        return [record for record in self.report["driver"] if "launch" in record]

    @property
    def modules(self) -> list[dict[str, Any]]:
        return [record for record in self.report["driver"] if "module" in record]

    @property
    def errors(self) -> list[str]:
        return [line["message"] for line in self.report["log"] if line["severity"] == "error"]


@dataclass(frozen=True)
class Build:
    """A build folder and the kernels in the library."""

    folder: Path
    signatures: Path

    @property
    def library(self) -> Path:
        return self.folder / "libadaptrt_trt.so"

    @property
    def tensorrt(self) -> Path:
        return next((self.folder / "host" / "tensorrt").glob("libnvinfer.so.*"))

    @property
    def other_tensorrt(self) -> Path:
        return next((self.folder / "host" / "other").glob("libnvinfer.so.*"))

    def host(self, *options: object) -> tuple[dict[str, Any], int]:
        """Run the host program; gives its report and exit status."""
        words = [self.folder / "host" / "adaptrt_plugin_host", "--library", self.library, *options]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120)
        assert done.returncode in (0, 1) and "Sanitizer" not in done.stderr, f"{done.stdout}{done.stderr}"
        return json.loads(done.stdout) | {"stderr": done.stderr}, done.returncode

    def play(self, scenario: Scenario, folder: Path, *options: object, cuda: Path | None = None) -> Played:
        """Write a scenario's files, play it on the stand-in driver or the one given, read what it gave."""
        lines = [f"plugin {scenario.plugin}"]
        lines += [f"field {name} {kind} {value}" for name, kind, value in scenario.fields]
        lines += [f"input {i.dtype} {_axes(i.axes)} {_axes(i.most)}" for i in scenario.inputs]
        folder.mkdir(exist_ok=True)
        for number, arrays in enumerate(scenario.runs):
            lines.append(f"run {scenario.how.get(number, '-')}")
            for place, array in enumerate(arrays):
                path = folder / f"run{number}_input{place}"
                path.write_bytes(np.ascontiguousarray(array).tobytes())
                lines.append(f"feed {_axes(array.shape)} {path}")
            lines += [f"result {folder / f'run{number}_output{place}'}" for place in range(scenario.outputs)]
        (folder / "scenario").write_text("\n".join(lines) + "\n")
        cuda = cuda or self.folder / "host" / "cuda" / "libcuda.so.1"
        report, status = self.host(
            *("--tensorrt", self.tensorrt, "--cuda", cuda, "--kernels", self.signatures),
            *("--scenario", folder / "scenario", *options),
        )
        results = []
        shapes = iter(report.get("result_shapes", []))
        for number in range(len(scenario.runs) if "result_shapes" in report else 0):
            row = []
            for place, dtype in enumerate(report["output_types"]):
                content = (folder / f"run{number}_output{place}").read_bytes()
                row.append(np.frombuffer(content, DTYPES.get(dtype, dtype)).reshape(next(shapes)))
            results.append(row)
        return Played(report, results, status)


def _axes(axes: Sequence[object]) -> str:
    return ",".join(map(str, axes)) or "-"


def build(folder: Path, kernels: Path, *, host: bool = True, settings: Sequence[str] = ()) -> Path:
    """Configure and build; gives the build folder.

    The headers' place is taken from TENSORRT_INCLUDE_DIR, TENSORRT_ROOT or where packages put them, that of
    cuda.h, which may be missing, from CUDA_INCLUDE_DIR; ADAPTRT_SANITIZE=1 builds with the sanitizers.

    Raises:
        NotBuildableError: CMake, a compiler or NvInfer's headers are not on this machine.
    """
    for tool in ("cmake", os.environ.get("CXX", "c++")):
        if shutil.which(tool) is None:
            raise NotBuildableError(f"there is no {tool}")
    options = [f"-DADAPTRT_KERNELS={kernels}", f"-DADAPTRT_HOST={'ON' if host else 'OFF'}", "-DCMAKE_BUILD_TYPE=Debug"]
    # cuda.h, where it is, is what our declarations of the driver are compared with; nothing is compiled with it.
    places = {"TENSORRT_INCLUDE_DIR": "TENSORRT_INCLUDE_DIR", "CUDA_INCLUDE_DIR": "ADAPTRT_CUDA_H"}
    options += [f"-D{option}={os.environ[name]}" for name, option in places.items() if name in os.environ]
    options += ["-DADAPTRT_SANITIZE=ON"] if os.environ.get("ADAPTRT_SANITIZE") else []
    options += ["-GNinja"] if shutil.which("ninja") else []
    done = subprocess.run(
        ["cmake", "-S", CSRC, "-B", folder, *options, *settings], capture_output=True, text=True, timeout=300
    )
    if "got no NvInferRuntime.h" in done.stderr:
        raise NotBuildableError("TensorRT's headers are missing: NvInferRuntime.h; set TENSORRT_INCLUDE_DIR")
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(["cmake", "--build", folder], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
