"""Where Triton's kernels run in tests: compiled where there is a CUDA device, else in Triton's interpreter."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import pytest


def _cuda_devices() -> int:
    """How many the driver has; torch, which could tell, is not there in every environment of the tests."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    number = ctypes.c_int(0)
    return number.value if not driver.cuInit(0) and not driver.cuDeviceGetCount(ctypes.byref(number)) else 0


# Triton reads this when it is first imported, and torch imports it on the way to its exporter.
if not _cuda_devices():
    os.environ.setdefault("TRITON_INTERPRET", "1")


# What stands beside the tests asserts as well, and is to fail under `python -O`, too.
_BESIDE = (path for path in Path(__file__).parent.iterdir() if path.is_dir() or path.suffix == ".py")
pytest.register_assert_rewrite(*(f"tests.{path.stem}" for path in _BESIDE if path.stem not in ("__init__", "conftest")))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    launch = sys.modules.get("adaptrt.plugins_trt.launch")
    if launch is not None:
        where = "in Triton's interpreter" if launch.is_interpreted() else "compiled, on the CUDA device"
        terminalreporter.write_line(f"kernels ran {where}")
