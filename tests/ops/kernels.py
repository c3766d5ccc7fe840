"""The Triton kernels as one more implementation, in memory that was poisoned before."""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch
import triton.language as tl
import triton.runtime.interpreter as interpreter

from adaptrt.ops import OpRecord
from adaptrt.ops.record import Array
from adaptrt.plugins_trt import launch

DEVICE = "cpu" if launch.is_interpreted() else "cuda"


def _create_dot(
    self: Any, a: Any, b: Any, *others: Any, _original: Any = interpreter.InterpreterBuilder.create_dot
) -> Any:
    """Triton's interpreter multiplies the bit patterns of bfloat16 as if they were whole numbers."""

    def as_float(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    return _original(self, as_float(a), as_float(b), *others)


def _create_si_to_fp(self: Any, source: Any, kind: Any) -> Any:
    """It also makes whole numbers bit patterns of bfloat16; by way of float32 it does not."""
    if kind.scalar == tl.bfloat16:
        return self.cast_impl(self.cast_impl(source, tl.float32), kind)
    return self.cast_impl(source, kind)


interpreter.InterpreterBuilder.create_dot = _create_dot
interpreter.InterpreterBuilder.create_si_to_fp = _create_si_to_fp


def to_device(array: Array) -> torch.Tensor:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).to(DEVICE)
    return torch.from_numpy(np.array(array)).to(DEVICE)


def to_numpy(tensor: torch.Tensor) -> Array:
    if tensor.dtype == torch.bfloat16:
        return tensor.cpu().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.cpu().numpy()


def poisoned(like: torch.Tensor, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    """Memory full of what must not be left in a result: NaN, or a number that no token and no count has."""
    kind = getattr(torch, dtype)
    return like.new_full(shape, float("nan") if kind.is_floating_point else -1, dtype=kind)


def run_kernels(record: OpRecord, inputs: dict[str, Array], attributes: Mapping[str, Any]) -> tuple[Array, ...]:
    tensors = {name: to_device(array) for name, array in inputs.items()}
    outputs = launch.compute(record, tensors, attributes, allocate=poisoned)
    if record.name != "SelectTokens":
        return tuple(to_numpy(outputs[spec.name]) for spec in record.outputs)
    y, index, count = (to_numpy(outputs[spec.name]) for spec in record.outputs)
    # The kernel's output is as long as its input; what is longer than the op's own output must be empty.
    largest = int(count.max(initial=0))
    assert y.shape == inputs["x"].shape and not y[:, largest:].any() and not index[:, largest:].any()
    return y[:, :largest], index[:, :largest], count


run_kernels.__name__ = "run_kernels_interpreted" if launch.is_interpreted() else "run_kernels_on_cuda"
