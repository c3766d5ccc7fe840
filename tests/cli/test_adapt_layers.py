"""``adaptrt adapt --workers`` and ``--ray``: what is refused before any work."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--workers", 2, "--ray", "localhost:6379"), "got --workers and --ray, expected one of them"),
        (("--workers", 0), "--workers"),
        (("--ray", "auto"), "got --ray 'auto', expected HOST:PORT"),
    ],
)
def test_what_does_not_fit(
    refused: Callable[..., str], tmp_path: Path, arguments: tuple[object, ...], said: str
) -> None:
    line = refused("adapt", tmp_path, "--data", "texts.txt", "--work", tmp_path / "work", *arguments)
    assert said in line
    assert not (tmp_path / "work").exists()


def test_without_ray_its_extra_is_named(
    python: Callable[..., subprocess.CompletedProcess[str]], main_code: Callable[..., str], tmp_path: Path
) -> None:
    arguments = ("adapt", tmp_path, "--data", "texts.txt", "--work", tmp_path / "work", "--ray", "localhost:6379")
    done = python(main_code(*arguments), without=("ray",))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ray is not installed") and "adaptrt[ray]" in done.stderr
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--device", "cuda"), "got device cuda, but this torch is built without CUDA"),
        (("--device", "gpu"), "got device 'gpu', expected cpu, cuda, or cuda:1"),
        (("--device", "cuda", "--workers", 2), "got --device cuda and several processes"),
        (("--device", "cuda", "--processes", 2), "got --device cuda and several processes"),
        (("--device", "cuda", "--ray", "localhost:6379"), "got --device cuda and several processes"),
    ],
)
def test_devices_that_cannot_be_used(
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[object, ...],
    said: str,
) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refused("adapt", tmp_path, "--data", "texts.txt", "--work", tmp_path / "work", *arguments)
    assert said in line and ("or use cpu" in line) == ("built" in line)
    assert not (tmp_path / "work").exists()
