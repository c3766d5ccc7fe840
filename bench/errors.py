"""Errors of the bench room."""

from __future__ import annotations

from adaptrt import AdaptrtError


class BenchError(AdaptrtError):
    """A measurement that cannot be made or was cut short, or a result that cannot be written."""
