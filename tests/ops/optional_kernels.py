"""The Triton kernels where they can run; elsewhere a stand-in that skips its test and says what is missing."""

from importlib.util import find_spec

import pytest

from adaptrt.ops.record import Array

MISSING = next(
    (
        f"{module} is not installed: install adaptrt[{extra}]"
        for module, extra in (("triton", "kernels"), ("torch", "export"))
        if find_spec(module) is None
    ),
    None,
)
"""Why no kernel runs here; None where they do."""

if MISSING is None:
    from tests.ops.kernels import run_kernels
else:

    def run_kernels(*_: object) -> tuple[Array, ...]:
        pytest.skip(MISSING)


__all__ = ["MISSING", "run_kernels"]
