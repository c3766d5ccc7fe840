"""The GPU of this machine, asked of its driver."""

from __future__ import annotations

import ctypes

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


def device_architecture() -> int | None:
    """Compute capability of the first GPU, as 87; None where there is no GPU or no driver."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        device, numbers = ctypes.c_int(), [ctypes.c_int(), ctypes.c_int()]
        if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
            return None
        for number, attribute in zip(numbers, (_MAJOR, _MINOR), strict=True):
            if driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device):
                return None
        return 10 * numbers[0].value + numbers[1].value
    return None
