"""The plugin library, built once for all tests, or a skip that the terminal's summary repeats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins_trt import plugin_host, standin_manifest

_missing: list[str] = []


@pytest.fixture(scope="session")
def csrc(tmp_path_factory: pytest.TempPathFactory) -> plugin_host.Build:
    """The library with the stand-in kernels, and its host program."""
    folder = tmp_path_factory.mktemp("csrc")
    manifest = standin_manifest.write_kernels(folder / "kernels")
    signatures = folder / "signatures"
    signatures.write_text(standin_manifest.signatures(folder / "kernels", manifest))
    return plugin_host.Build(built_or_skip(folder / "build", folder / "kernels"), signatures)


def built_or_skip(folder: Path, kernels: Path, *, host: bool = True) -> Path:
    try:
        return plugin_host.build(folder, kernels, host=host)
    except plugin_host.NotBuildableError as reason:
        if str(reason) not in _missing:
            _missing.append(str(reason))
        pytest.skip(f"the plugin library was not built: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    yield
    for reason in _missing:
        terminalreporter.write_line(f"NOTE: the TensorRT plugin library was not built and not tested: {reason}")
