"""Environments that lack a package: tests of what does without it are collected and run, others say why not."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from adaptrt.ops import RECORDS

pytestmark = pytest.mark.slow("builds environments and runs pytest in them")

ROOT = Path(__file__).parent.parent
NO_TRITON = "triton is not installed: install adaptrt[kernels]"
WITH_KERNELS = sum(bool(record.parts) for record in RECORDS.values())
NO_TORCH = "torch is not installed: install adaptrt[export]"
BEYOND_THE_RUNTIME = (
    *("triton", "torch", "onnx", "onnxscript", "ml_dtypes", "openvino", "safetensors", "sklearn", "scipy"),
    *("matplotlib", "click", "rich", "PIL", "tokenizers", "prometheus_client", "pynvml"),
)


def environment_without(folder: Path, *modules: str) -> Path:
    """The Python of an environment with every package of this one but those that bring ``modules``."""
    site = Path(sysconfig.get_path("purelib"))
    brought_by = importlib.metadata.packages_distributions()
    left_out = {"pip"} | {
        file.parts[0]
        for module in modules
        for name in brought_by.get(module, ())
        for file in importlib.metadata.distribution(name).files or ()
    }
    venv.create(folder, symlinks=True)
    base = {"base": str(folder), "platbase": str(folder)}
    target = Path(sysconfig.get_path("purelib", "venv", base))
    for entry in site.iterdir():
        if entry.name not in left_out:
            (target / entry.name).symlink_to(entry)
    return Path(sysconfig.get_path("scripts", "venv", base)) / "python"


def run_pytest(python: Path, *arguments: str) -> str:
    """What pytest prints; it must succeed."""
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "-rs", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def no_triton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment_without(tmp_path_factory.mktemp("environments") / "no_triton", "triton")


def test_the_package_is_really_missing(no_triton: Path) -> None:
    code = "import importlib.util as util; print([util.find_spec(name) is None for name in ('triton', 'torch')])"
    done = subprocess.run([str(no_triton), "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[True, False]"


def test_without_triton_every_test_is_collected(no_triton: Path) -> None:
    said = run_pytest(no_triton, "--collect-only", "tests")
    assert NO_TRITON in said and "test_learner_ops" in said


def test_without_triton_the_kernels_are_skipped_and_all_else_runs(no_triton: Path) -> None:
    said = run_pytest(no_triton, "tests/ops", "-k", "test_every_case_of_the_record")
    (skipped,) = re.findall(rf"SKIPPED \[(\d+)\] .*: {re.escape(NO_TRITON)}", said)
    (counts,) = re.findall(r"(\d+) passed, (\d+) skipped", said)
    assert int(counts[0]) > 15 and skipped == counts[1] and int(skipped) == 3 * WITH_KERNELS  # in three dtypes


def test_without_torch_the_ops_their_plugins_and_the_runtime_are_tested(tmp_path: Path) -> None:
    python = environment_without(tmp_path / "no_torch", "torch", "triton", "scipy", "sklearn", "matplotlib", "openvino")
    said = run_pytest(python, "--collect-only", "tests/ops", "tests/plugins_trt", "tests/runtime")
    assert NO_TORCH in said and "test_csrc" in said


def test_the_runtime_is_tested_with_what_it_needs_alone(tmp_path: Path) -> None:
    said = run_pytest(environment_without(tmp_path / "bare", *BEYOND_THE_RUNTIME), "--collect-only", "tests/runtime")
    assert "test_model" in said
