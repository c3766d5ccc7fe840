"""Numbers that an exported graph knows only when it runs, while torch traces it."""

from __future__ import annotations

import torch
from torch import Tensor


def in_onnx_export(caller: str) -> bool:
    """Whether torch traces for ONNX, so that ops are to become nodes.

    Raises:
        RuntimeError: Torch traces otherwise. It does so by itself where the first of its ways to trace
            for ONNX failed, and would then hide that error behind the operators of the eager form.
    """
    if torch.onnx.is_in_onnx_export():
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
