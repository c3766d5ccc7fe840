"""Where in the user's own files something happened."""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path

from torch import fx

import adaptrt

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_ROOMS = ("ops", "models", "export", "runtime", "cli")
_ROOTS = (
    *((Path(adaptrt.__file__).parent / room).resolve() for room in _ROOMS),
    Path(sysconfig.get_path("stdlib")).resolve(),
)
_PACKAGES = frozenset({"site-packages", "dist-packages"})


def where(node: fx.Node) -> str:
    """File and line of the user's that a node of a program comes from."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    return _last([(file, int(line)) for file, line in frames])


def where_raised(error: BaseException) -> str:
    """File and line of the user's below which an exception was raised."""
    return _last([(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)])


def place(file: str, line: int) -> str:
    """A file, from the current folder where it lies below that, and a line."""
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{path}:{line}"


def is_users(file: str) -> bool:
    """Whether a file belongs to no package, neither torch nor this one."""
    path = Path(file)
    if not path.is_absolute() or _PACKAGES & set(path.parts):
        return False
    return not any(path.resolve().is_relative_to(root) for root in _ROOTS)


def _last(frames: list[tuple[str, int]]) -> str:
    users = [frame for frame in frames if is_users(frame[0])]
    return place(*users[-1]) if users else "a line that torch does not tell"
