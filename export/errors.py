"""Errors of the export room."""

from __future__ import annotations

from adaptrt import AdaptrtError


class ExportError(AdaptrtError):
    """A model or a folder that cannot be exported, or an export that could not be written."""


class ParityError(AdaptrtError):
    """The exported graph does not compute what the torch model does."""


class CalibrationError(AdaptrtError):
    """Data that a bundle cannot be calibrated with."""
