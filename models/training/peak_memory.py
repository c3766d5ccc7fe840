"""How much memory a training took."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_memory() -> int | None:
    """Bytes of memory that this process held at most since it began; None where the system does not say (Windows).

    Pages of files that are mapped into memory, as kept activations are, count while they are in it.
    """
    if _STATUS.is_file():
        # Linux's getrusage counts what the process held that started this one, too.
        most_held = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        if most_held is not None:
            return int(most_held[1]) * 1024
    try:
        import resource
    except ModuleNotFoundError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
