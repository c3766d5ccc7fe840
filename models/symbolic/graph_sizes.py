"""Numbers that an exported graph knows only when it runs, while torch traces it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

_nodes: ContextVar[bool] = ContextVar("adaptrt_symbolic_nodes", default=False)


@contextlib.contextmanager
def symbolic_nodes() -> Iterator[None]:
    """Let ops become nodes in what ``torch.export`` itself traces in the block, as they do for ONNX."""
    token = _nodes.set(True)
    try:
        yield
    finally:
        _nodes.reset(token)


def in_onnx_export(caller: str) -> bool:
    """Whether torch traces so that ops are to become nodes: for ONNX, or in ``symbolic_nodes``.

    Raises:
        RuntimeError: Torch traces otherwise. It does so by itself where the first of its ways to trace
            for ONNX failed, and would then hide that error behind the operators of the eager form.
    """
    if torch.onnx.is_in_onnx_export() or (_nodes.get() and torch.compiler.is_exporting()):
        return True
    if torch.compiler.is_exporting():
        raise RuntimeError(
            f"{caller} is traced outside of torch.onnx.export's first, non-strict way, expected that one; look for the "
            "error that made torch try another"
        )
    return False


def scalar(number: Tensor | int) -> Tensor:
    """A number as int64 ``[]``; while tracing also a size that stays dynamic."""
    if isinstance(number, Tensor):
        return number.to(torch.int64).reshape(())
    return torch.full((), number, dtype=torch.int64)
