"""Runs the blocks of one page after the other in the current folder: ``python -m tests.docs.page_session < STEPS``.

Steps are a JSON list: ``{"place", "python"}`` with a block's source, or ``{"place", "adaptrt"}`` with the words of a
command. Names that a block sets are there in the next. The first step that fails ends it, with its place on stderr.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any


def run_step(step: dict[str, Any], names: dict[str, Any]) -> None:
    """Run a block or a command."""
    if "python" in step:
        page, _, line = step["place"].rpartition(":")
        source = "\n" * (int(line) - 1) + step["python"]  # so that tracebacks name the page's lines
        exec(compile(source, page, "exec"), names)
        return
    from adaptrt.cli.group import adaptrt

    adaptrt.main(step["adaptrt"], prog_name="adaptrt", standalone_mode=False)


def main() -> int:
    """Run the steps."""
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = ""
    try:
        for step in json.load(sys.stdin):
            shown = " ".join([step["place"], *(["adaptrt", *step["adaptrt"]] if "adaptrt" in step else [])])
            run_step(step, names)
    except BaseException:
        traceback.print_exc()
        print(f"failed: {shown}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
