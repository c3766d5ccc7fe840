"""The C++ runtime, built once for all tests, or a skip that the terminal's summary repeats."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.cpp import programs

_missing: list[str] = []


@pytest.fixture(scope="session")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> programs.Programs:
    """All programs, as users build them."""
    return programs.Programs(built_or_skip(tmp_path_factory.mktemp("cpp")))


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> programs.Programs:
    """What meets bundles of others, with the address and undefined behaviour sanitizers."""
    targets = ("adaptrt_conformance", "adaptrt_fuzz", "adaptrt_c")
    folder = tmp_path_factory.mktemp("sanitized")
    return programs.Programs(built_or_skip(folder, "-DADAPTRT_SANITIZE=ON", targets=targets))


def built_or_skip(folder: Path, *options: str, targets: Sequence[str] = ("all",)) -> Path:
    named = os.environ.get("ADAPTRT_CPP_BUILD")
    if named and not options:
        return Path(named)  # built by `make cpp`, or by whoever works on it
    try:
        return programs.build(folder, *options, targets=targets)
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
