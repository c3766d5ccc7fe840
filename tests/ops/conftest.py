"""Triton's interpreter takes seconds for a kernel: tests of the kernels are slow, those of all else are not."""

import pytest

from tests.ops.optional_kernels import run_kernels


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if parameters.get("implementation") is run_kernels:
            item.add_marker(pytest.mark.slow("runs kernels in Triton's interpreter"))
