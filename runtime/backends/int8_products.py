"""Whether this CPU's products of uint8 with int8 are exact in ONNX Runtime: found by computing one, not by its name."""

from __future__ import annotations

from types import ModuleType

import numpy as np

INT8 = "int8"
"""The precision."""
NARROW_BITS, WIDE_BITS = 7, 8
"""Of weights: those whose products are exact on every CPU, and those that need one with VNNI, AMX or Arm's kind."""

_LARGEST = 2 ** (WIDE_BITS - 1) - 1
_DEPTH = 64
# The node y = MatMulInteger(a, b) of uint8 and int8, opset 20: the runtime has no package to write it with.
_PRODUCT = (
    b'\x08\n:b\n\x18\n\x01a\n\x01b\x12\x01y"\rMatMulInteger\x12\x01gZ\x15\n\x01a\x12\x10\n\x0e\x08\x02\x12\n\n\x03\x12'
    b"\x01m\n\x03\x12\x01kZ\x15\n\x01b\x12\x10\n\x0e\x08\x03\x12\n\n\x03\x12\x01k\n\x03\x12\x01nb\x15\n\x01y\x12\x10\n"
    b"\x0e\x08\x06\x12\n\n\x03\x12\x01m\n\x03\x12\x01nB\x04\n\x00\x10\x14"
)


def products_saturate(runtime: ModuleType) -> bool:
    """Whether pairs of products are added in 16 bits, as by x86 without VNNI: the largest bytes and weights tell.

    Args:
        runtime: The module ``onnxruntime``.
    """
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(_PRODUCT, options, providers=["CPUExecutionProvider"])
    feeds = {"a": np.full((4, _DEPTH), 255, np.uint8), "b": np.full((_DEPTH, 32), _LARGEST, np.int8)}
    (product,) = session.run(None, feeds)
    return bool((product != 255 * _LARGEST * _DEPTH).any())
