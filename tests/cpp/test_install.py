"""What is installed: another project finds it, the examples run, programs are small, all of it compiles for aarch64."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from adaptrt.runtime import Budget, load
from tests.conformance.kit import KIT
from tests.cpp.programs import CPP, REQUIRED, NotBuildableError, Programs, for_aarch64

TINY = KIT.parents[1] / "runtime" / "fixtures" / "tiny"
MOST_BYTES = 400_000

PROJECT = """cmake_minimum_required(VERSION 3.16)
project(user LANGUAGES CXX)
find_package(adaptrt 0.1 REQUIRED)
add_executable(user user.cpp)
target_link_libraries(user PRIVATE adaptrt::adaptrt)
add_executable(user_c user_c.cpp)
target_link_libraries(user_c PRIVATE adaptrt::c)
"""
USER = """#include <adaptrt/adaptrt.hpp>
#include <cstdio>
int main(int, char** words) {
  const auto model = adaptrt::load(words[1]);
  std::puts(model ? (*model)->bundle().name.c_str() : model.error().text.c_str());
  return model ? 0 : 1;
}
"""
USER_C = """#include <adaptrt.h>
#include <stdio.h>
int main() { return puts(adaptrt_version()) < 0; }
"""


def run(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_another_project_finds_it(cpp: Programs, tmp_path: Path) -> None:
    run("cmake", "--install", cpp.folder, "--prefix", tmp_path / "prefix")
    for name, content in (("CMakeLists.txt", PROJECT), ("user.cpp", USER), ("user_c.cpp", USER_C)):
        (tmp_path / name).write_text(content)
    run(
        "cmake",
        "-S",
        tmp_path,
        "-B",
        tmp_path / "build",
        f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}",
        "-DCMAKE_BUILD_TYPE=MinSizeRel",
    )
    run("cmake", "--build", tmp_path / "build")
    user = Programs(tmp_path / "build")
    assert user.run("user", TINY).stdout.strip() == load(TINY, threads=1).bundle.name
    assert user.run("user_c").stdout.strip() == "0.1.0"
    flags = (tmp_path / "build").rglob("flags.make")
    assert any("-ffp-contract=off" in path.read_text() for path in flags) or shutil.which("ninja")


def test_programs_are_small(cpp: Programs, tmp_path: Path) -> None:
    for name in ("adaptrt_camera_loop", "adaptrt_batch", "libadaptrt.so"):
        run("strip", "-o", tmp_path / name, cpp.folder / name)
        size = (tmp_path / name).stat().st_size
        assert size <= MOST_BYTES, f"{name}: {size} bytes, expected at most {MOST_BYTES}"


def test_the_batch_tool_gives_what_python_gives(cpp: Programs, tmp_path: Path) -> None:
    model = load(TINY, threads=1)
    x = np.random.RandomState(3).randint(-8, 8, (70, 4)).astype(np.float32) / 8
    (tmp_path / "x").write_bytes(x.tobytes())
    done = cpp.run("adaptrt_batch", TINY, 0.5, tmp_path / "x", tmp_path / "y", 32)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("70 samples, ")
    parts = [
        next(iter(model.run({"x": x[i : i + 32]}, budget=Budget.fraction(0.5)).outputs.values())) for i in (0, 32, 64)
    ]
    assert (tmp_path / "y").read_bytes() == np.concatenate(parts).tobytes()


def test_the_camera_loop_runs(cpp: Programs, tmp_path: Path) -> None:
    done = cpp.run("adaptrt_camera_loop", TINY, 50, 100, 0.3, environment={"ADAPTRT_CACHE": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "frames" in done.stdout and "of the dense work" in done.stdout
    assert cpp.run("adaptrt_camera_loop").returncode == 2
    assert cpp.run("adaptrt_camera_loop", tmp_path / "nowhere", 5).returncode == 1


def test_the_overhead_bench_runs(cpp: Programs) -> None:
    from tests.cpp.programs import onnxruntime_library

    done = cpp.run("adaptrt_overhead", onnxruntime_library(), TINY, 50)
    assert done.returncode == 0 and '"over_us"' in done.stdout, done.stderr


def test_it_compiles_for_aarch64(tmp_path: Path) -> None:
    try:
        options = for_aarch64()
    except NotBuildableError as reason:
        if os.environ.get(REQUIRED):
            pytest.fail(str(reason))
        pytest.skip(f"{reason}; `make cpp-test` installs it")
    folder = tmp_path / "build"
    run("cmake", "-S", CPP, "-B", folder, *options)
    run("cmake", "--build", folder, "--target", "adaptrt_c", "adaptrt_camera_loop")
    for name in ("adaptrt_camera_loop", "libadaptrt.so.0"):
        assert "AArch64" in run("readelf", "-h", folder / name)
