"""Errors of the command line."""

from __future__ import annotations

from adaptrt import AdaptrtError


class CommandError(AdaptrtError):
    """An argument or an input file that the command cannot use."""


def one_line(error: BaseException | str) -> str:
    """A message on one line; another library's exception without a text is named by its class."""
    return " ".join(str(error).split()) or type(error).__name__
