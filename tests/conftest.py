"""Where Triton's kernels run in tests, which tests are slow, and which of them start first.

Kernels run compiled where there is a CUDA device, else in Triton's interpreter.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
SLOW_FOLDERS = {
    "bench": "exports networks and times them",
    "cpp": "compiles the C++ runtime",
    "docs": "exports a network and starts interpreters",
    "export/graph": "traces networks of many kinds",
    "export/own_networks": "traces the users' networks",
    "export/parity": "traces all families",
    "export/targets": "traces all families and builds engines",
    "packaging": "builds and installs the distributions",
    "plugins_trt": "compiles kernels and the plugin library",
}
"""Folders whose tests are all slow, and why. In other folders a file or a test says it by ``pytest.mark.slow``."""
LONGEST_FIRST = (
    "export/parity/test_families.py",
    "test_default_model.py",
    "bench/test_gpu_check.py",
    "export/targets/",
    "export/test_exporter.py",
    "export/calibration/test_text_calibration.py",
    "export/",
    "test_missing_packages.py",
    "plugins_trt/",
    "cpp/",
    "docs/",
    "bench/",
    "ops/",
    "models/",
    "cli/",
)
"""Files and folders that take the longest: begun last, they would leave one process at work and the others idle."""


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
_BESIDE = (path for path in TESTS.iterdir() if path.is_dir() or path.suffix == ".py")
pytest.register_assert_rewrite(*(f"tests.{path.stem}" for path in _BESIDE if path.stem not in ("__init__", "conftest")))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Folders that are left out as a whole are not imported either, which takes seconds."""
    left_out = config.option.markexpr.startswith("not slow") and collection_path in [
        TESTS / folder for folder in SLOW_FOLDERS
    ]
    return left_out or None


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem() -> Generator[None, Any, Any]:
    """Raised here, an error is one of the test's file, which every process of several reports."""
    collected = yield
    items = collected if isinstance(collected, list) else [collected]
    require_reasons(item for item in items if isinstance(item, pytest.Item))
    return collected


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    for item in items:
        folders = [folder for folder in SLOW_FOLDERS if item.path.is_relative_to(TESTS / folder)]
        if folders:
            item.add_marker(pytest.mark.slow(SLOW_FOLDERS[folders[0]]))
    yield
    if hasattr(config, "workerinput"):  # one of several processes
        items.sort(key=lambda item: rank(item.path))


def require_reasons(items: Iterable[pytest.Item]) -> None:
    """Check that every ``slow`` says why.

    Raises:
        pytest.UsageError: One does not.
    """
    for item in items:
        for mark in item.iter_markers("slow"):
            reasons = [reason for reason in mark.args if isinstance(reason, str) and reason.strip()]
            if len(reasons) != 1 or len(mark.args) != 1 or mark.kwargs:
                raise pytest.UsageError(
                    f'{item.nodeid}: got the marker slow{mark.args}, expected its reason, as in slow("trains")'
                )


def rank(path: Path) -> int:
    """The place of a test's file in ``LONGEST_FIRST``, or behind them all."""
    name = path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else ""
    places = (place for place, beginning in enumerate(LONGEST_FIRST) if name.startswith(beginning))
    return next(places, len(LONGEST_FIRST))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    launch = sys.modules.get("adaptrt.plugins_trt.launch")
    if launch is not None:
        where = "in Triton's interpreter" if launch.is_interpreted() else "compiled, on the CUDA device"
        terminalreporter.write_line(f"kernels ran {where}")
