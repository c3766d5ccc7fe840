"""Python interpreters that a training starts beside itself, and ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO


def start_interpreter(
    command: Sequence[str],
    variables: Mapping[str, str] | None = None,
    *,
    pass_fds: Sequence[int] = (),
    stderr: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start an interpreter that imports what this one does.

    A plain one, as those of multiprocessing would run the caller's script first. In a session of its own, where a
    terminal's Ctrl-C does not reach it: who started it ends it.

    Args:
        command: What stands behind the interpreter.
        variables: Of its environment, beside this process's.
        pass_fds: Files that stay open in it.
        stderr: Where its errors go; None: where this process's go.
    """
    return subprocess.Popen(
        [sys.executable, *command],
        pass_fds=pass_fds,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(variables or {})},
        start_new_session=True,
    )


def end_interpreter(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for the end of a process, and kill it if it takes longer."""
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
