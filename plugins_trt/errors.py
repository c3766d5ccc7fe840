"""Errors of the plugins_trt room."""

from __future__ import annotations

from adaptrt import AdaptrtError


class KernelError(AdaptrtError):
    """A kernel that cannot be had as asked: unknown architecture, unusable manifest, tensors that do not fit."""
