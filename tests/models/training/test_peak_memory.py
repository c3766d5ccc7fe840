"""Whether the memory that a training took is what it held."""

from __future__ import annotations

import subprocess
import sys

import pytest

from adaptrt.models.training.peak_memory import peak_memory

_HOLD = """
from adaptrt.models.training.peak_memory import peak_memory
before = peak_memory()
held = bytearray(b"x") * {size}
print(peak_memory() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such count")
def test_what_was_held_is_counted() -> None:
    size = 200 * 2**20
    run = subprocess.run(
        [sys.executable, "-c", _HOLD.format(size=size)], capture_output=True, text=True, check=True, timeout=60
    )
    assert 0.8 * size < int(run.stdout) < 1.5 * size


def test_it_never_falls() -> None:
    first = peak_memory()
    second = peak_memory()
    assert (first is None) == (second is None) and (first or 0) <= (second or 0)
