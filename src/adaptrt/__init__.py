"""adaptrt: export models whose work depends on their input, and run them under a compute budget.

The rooms are sub-packages (``adaptrt.runtime``, ``adaptrt.export``, …); importing this package
imports none of them, so that ``adaptrt.runtime`` stays free of torch and onnx.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__version__ = "0.1.0"

# ONNX Runtime from 1.29 on starts a thread at import that collects and sends usage data, writes into the home
# folder, and keeps forked processes from ending. It reads this when it is imported, and nothing later stops it.
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ.get("ORT_DISABLE_TELEMETRY") or "1"


class AdaptrtError(Exception):
    """A mistake that the caller can mend.

    The message is one line that says what was got, what was expected and what to do. Every room
    derives its errors from this class, so that the command line can tell them from defects.
    """


class AdaptrtWarning(UserWarning):
    """Something that went another way than asked, while the work goes on: one line, said once."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a machine that lost power, finds the old content or the new.

    Raises:
        OSError: It cannot be written; an old file is untouched and nothing is left beside it.
    """
    import tempfile

    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    temporary = type(path)(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
