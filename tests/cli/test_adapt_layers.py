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
