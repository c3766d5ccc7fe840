"""Entry point of the ``adaptrt`` command; imports without click."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from adaptrt.cli.streams import READER_LEFT, OutputError, ReaderLeftError, guard_streams


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    run_commands([None])


def run_commands(commands: Sequence[Sequence[str] | None]) -> None:
    """Run command lines one after the other; the first that fails ends the process with its exit code.

    Args:
        commands: What follows ``adaptrt`` in each; None: what this process was started with.
    """
    guard_streams()
    try:
        try:
            for arguments in commands:
                _run(arguments)
        finally:
            sys.stdout.flush()  # while an error can still be reported
    except OutputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ReaderLeftError:
        sys.exit(READER_LEFT)


def _run(arguments: Sequence[str] | None) -> None:
    try:
        from adaptrt.cli.group import adaptrt
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        message = "click is not installed, expected it for the command line; run: pip install 'adaptrt[cli]'"
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    try:
        adaptrt(None if arguments is None else [*arguments], prog_name="adaptrt")
    except SystemExit as ended:
        if ended.code:
            raise
