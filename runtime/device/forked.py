"""Processes that forked: what a child inherits of an engine can neither be run nor ended."""

from __future__ import annotations

import os
from collections.abc import Callable


def keep_for_ever(*inherited: object) -> None:
    """Never let these be destroyed, not even when the process ends.

    The threads of an engine do not exist in a forked child. Ending the engine would wait for them (OpenVINO) or
    end the process (ONNX Runtime 1.32 from three threads on).
    """
    import ctypes  # takes milliseconds, and most processes never fork

    for one in inherited:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))


def in_forked_children(begin: Callable[[], None]) -> None:
    """Call this at the beginning of every child that this process forks from now on."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=begin)
