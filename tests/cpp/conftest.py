"""The C++ runtime, built once for all tests, or a skip that the terminal's summary repeats."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.cpp import programs

_missing: list[str] = []


@pytest.fixture(scope="session")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> programs.Programs:
    """All programs, as users build them."""
    return programs.Programs(built_or_skip(tmp_path_factory, "cpp"))


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> programs.Programs:
    """What reads altered files, with the address and undefined behaviour sanitizers."""
    targets = ("adaptrt_fuzz",)
    return programs.Programs(built_or_skip(tmp_path_factory, "sanitized", "-DADAPTRT_SANITIZE=ON", targets=targets))


def built_or_skip(factory: pytest.TempPathFactory, name: str, *options: str, targets: Sequence[str] = ("all",)) -> Path:
    """The build folder, which the processes of one run of the tests share: a build takes minutes."""
    named = os.environ.get("ADAPTRT_CPP_BUILD")
    if named and not options:
        return Path(named)  # of somebody who works on it
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, built = root / name, root / f"{name}.built"
    try:
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not built.exists():
                programs.build(folder, *options, targets=targets)
                built.touch()
            return folder
    except programs.NotBuildableError as reason:
        if os.environ.get(programs.REQUIRED):
            pytest.fail(f"the C++ runtime was not built: {reason}")
        if str(reason) not in _missing:
            _missing.append(str(reason))
        pytest.skip(f"the C++ runtime was not built: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    yield
    for reason in _missing:
        terminalreporter.write_line(f"NOTE: the C++ runtime was not built and not tested: {reason}")
