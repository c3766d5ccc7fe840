"""Entry point of the ``adaptrt`` command; imports without click."""

from __future__ import annotations

import sys

from adaptrt.cli.streams import READER_LEFT, OutputError, ReaderLeftError, guard_streams


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    guard_streams()
    try:
        try:
            _run()
        finally:
            sys.stdout.flush()  # while an error can still be reported
    except OutputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ReaderLeftError:
        sys.exit(READER_LEFT)


def _run() -> None:
    try:
        from adaptrt.cli.group import adaptrt
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        message = "click is not installed, expected it for the command line; run: pip install 'adaptrt[cli]'"
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    adaptrt(prog_name="adaptrt")
