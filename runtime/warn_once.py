"""Warnings that are given once, at the line of the caller's own code that led to them."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from adaptrt import AdaptrtWarning

_RUNTIME = str(Path(__file__).parent)


class WarnOnce:
    """Warns once of each thing; one for each model, so that each model says it."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def __call__(self, subject: str | None, text: str | None = None) -> None:
        """Warn of a subject unless that was done before.

        Args:
            subject: What it is about; None: there is nothing to say.
            text: What to say; None: the subject is the text.
        """
        if subject is not None and subject not in self._given:
            self._given.add(subject)
            warnings.warn(text or subject, AdaptrtWarning, stacklevel=_callers_level())


def _callers_level() -> int:
    """The stack level, as ``__call__`` counts it, of the first frame that is not the runtime's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_RUNTIME):
        level, frame = level + 1, frame.f_back
    return level
