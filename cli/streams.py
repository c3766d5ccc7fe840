"""Standard output and error that are full, closed, or read by nobody any more. Imports without click.

Results go to stdout: a command that cannot deliver them has failed, whatever it did before. Remarks and progress go to
stderr: one that nobody can see is dropped, the work goes on and its result and exit code are what they would have been.
Losing an hour's work over a line that only said how far it is would help nobody; an error whose line cannot be shown
still has its exit code.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any, TextIO

READER_LEFT = 141  # 128 + SIGPIPE, as shells report it


class OutputError(Exception):
    """Standard output took less than was written to it; the message is for the user.

    No OSError, which click and rich would handle in ways of their own.
    """


class ReaderLeftError(Exception):
    """Whoever read standard output has enough of it, as ``head`` does: nobody's mistake."""


def guard_streams() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr`` for the rest of the process by streams that fail as this file says.

    Writing to stdout, or flushing it, then raises OutputError or ReaderLeftError, once: what comes after that, up to
    the flush with which the interpreter ends, goes nowhere. Writing to stderr raises nothing.
    """
    _hold_descriptors()
    sys.stdout = _guarded(sys.stdout, _Results)
    sys.stderr = _guarded(sys.stderr, _Remarks)


class _Stream(io.RawIOBase):
    """What is below a standard stream of the process; nothing, if that was closed when it started."""

    def __init__(self, stream: io.TextIOWrapper | None) -> None:
        self._stream = stream  # whose end would close what is below it
        self._raw: Any = None
        self.name = "closed"
        if stream is not None:
            self._raw = getattr(stream.buffer, "raw", stream.buffer)  # unbuffered, it is that itself
            self.name = stream.name

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._raw is not None and bool(self._raw.isatty())

    def fileno(self) -> int:
        return super().fileno() if self._raw is None else int(self._raw.fileno())

    def _write(self, data: Any) -> int:
        if self._raw is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        while (written := self._raw.write(data)) is None:  # set to not block by a process that shares it, and full
            select.select([], [self._raw], [])
        return int(written)


class _Results(_Stream):
    """Standard output."""

    _lost = False

    def write(self, data: Any, /) -> int:
        if self._lost:
            return memoryview(data).nbytes
        try:
            return self._write(data)
        except BrokenPipeError:
            self._lost = True
            raise ReaderLeftError from None
        except OSError as error:
            self._lost = True
            reason = "stdout is closed" if error.errno == errno.EBADF else error.strerror or error
            raise OutputError(
                f"cannot write the output: {reason}; send it to a terminal, a pipe or a file with space left, "
                "what the command wrote to other files is kept"
            ) from None


class _Remarks(_Stream):
    """Standard error."""

    def write(self, data: Any, /) -> int:
        try:
            return self._write(data)
        except OSError:
            return memoryview(data).nbytes


def _guarded(stream: TextIO | None, kind: type[_Stream]) -> TextIO:
    if stream is None:
        buffer = io.BufferedWriter(kind(None))
        return io.TextIOWrapper(buffer, "utf-8", "backslashreplace", line_buffering=True)
    if not isinstance(stream, io.TextIOWrapper):
        return stream  # somebody put it there who wants to see what is written
    buffer = io.BufferedWriter(kind(stream))
    at_once = stream.line_buffering or stream.write_through
    return io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=at_once)


def _hold_descriptors() -> None:
    """Open what is closed of the descriptors 0 to 2: otherwise the next file gets one, and what is printed, too."""
    for number in range(3):
        if not _is_open(number):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
