"""How much memory a training took."""

from __future__ import annotations

import sys


def peak_memory() -> int | None:
    """Bytes of memory that this process held at most since it began; None where the system does not say (Windows).

    Pages of files that are mapped into memory, as kept activations are, count while they are in it.
    """
    try:
        import resource
    except ModuleNotFoundError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
