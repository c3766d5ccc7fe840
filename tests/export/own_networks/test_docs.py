"""The example of docs/own_networks.md, copied from the page and run as it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parents[3] / "docs" / "own_networks.md"
_BLOCK = re.compile(r"<!-- (file: (\S+)|printed) -->\n```\w*\n(.*?)```", re.DOTALL)
_NUMBER = re.compile(r"\d+\.\d+")
TOLERANCE = 0.06
"""Of shares and accuracies: training differs a little from processor to processor."""


def blocks() -> dict[str, str]:
    return {name or "printed": text for _, name, text in _BLOCK.findall(PAGE.read_text())}


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    for name in ("my_network.py", "run_it.py"):
        (folder / name).write_text(blocks()[name])
    run(folder, sys.executable, "my_network.py")
    command = [sys.executable, "-m", "adaptrt.cli", "export", "my_network:make", "--data", "digits.npz"]
    told = run(folder, *command, "--output", "build/mine", "--points", "9")
    assert "Bundle in build/mine" in told
    return run(folder, sys.executable, "run_it.py")


def test_the_page_prints_what_it_says(printed: str) -> None:
    told, wanted = printed.splitlines(), blocks()["printed"].splitlines()
    assert [_NUMBER.sub("#", line) for line in told] == [_NUMBER.sub("#", line) for line in wanted]
    for one, other in zip(told, wanted, strict=True):
        numbers = [np.array([float(number) for number in _NUMBER.findall(line)]) for line in (one, other)]
        assert np.abs(numbers[0] - numbers[1]).max() <= TOLERANCE, (one, other)
