"""Ctrl-C that is not lost.

Python raises KeyboardInterrupt wherever it happens to be. In a callback of the garbage collector that is printed and
forgotten, and libraries turn it into errors of their own: a command would go on, or end in somebody's traceback.
So the signal is noted as well, and asked for where a command says how far it is.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_seen = threading.Event()


@contextlib.contextmanager
def interrupts_noted() -> Iterator[None]:
    """Note Ctrl-C while the block runs; where somebody else handles the signal, they go on doing so.

    Where it is ignored, as shells make it for jobs in the background and after ``trap '' INT``, it stays ignored:
    Ctrl-C is meant for what runs in the foreground. Such a command ends by itself, or by another signal.
    """
    _seen.clear()
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _seen.clear()  # nobody else's


def interrupted() -> bool:
    """Whether Ctrl-C was pressed in this block, also where the exception was lost."""
    return _seen.is_set()


def stop_if_interrupted() -> None:
    """Raise the exception that was lost.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if interrupted():
        raise KeyboardInterrupt


def _note(number: int, frame: FrameType | None) -> None:
    _seen.set()
    signal.default_int_handler(number, frame)
