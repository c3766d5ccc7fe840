"""Entry point of the ``adaptrt`` command; the only file here that imports without click."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    try:
        from adaptrt.cli.group import adaptrt
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        message = "click is not installed, expected it for the command line; run: pip install 'adaptrt[cli]'"
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    adaptrt(prog_name="adaptrt")
