"""Another process that takes a core and gives it back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import TracebackType

_BUSY = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {int(sys.argv[1])})
while True:
    sum(range(10_000))
"""


class Contention:
    """A process that is busy on one core while it is on; off at first, gone at the end of the ``with`` block.

    Args:
        core: Number of the core.
    """

    def __init__(self, core: int) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", _BUSY, str(core)])
        self.switch(False)

    def switch(self, on: bool) -> None:
        """Take the core, or give it back."""
        os.kill(self._process.pid, signal.SIGCONT if on else signal.SIGSTOP)

    def __enter__(self) -> Contention:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
