"""Where in the user's own files something happened."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from torch import fx
from torch.fx.traceback import annotate
from torch.overrides import TorchFunctionMode

import adaptrt

_PLACE = "adaptrt_place"
_ROOMS = ("ops", "models", "export", "runtime", "cli")
_ROOTS = (
    *((Path(adaptrt.__file__).parent / room).resolve() for room in _ROOMS),
    Path(sysconfig.get_path("stdlib")).resolve(),
)
_UNKNOWN = "a line that torch does not tell"
_PACKAGES = frozenset({"site-packages", "dist-packages"})


def where(node: fx.Node) -> str:
    """File and line of the user's that a node of a program comes from."""
    location = (node.meta.get("custom") or {}).get(_PLACE)
    return _UNKNOWN if location is None else place(*location)


def where_raised(error: BaseException) -> str:
    """File and line of the user's below which an exception was raised."""
    return _last([(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)])


def place(file: str, line: int) -> str:
    """A file, from the current folder where it lies below that, and a line."""
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{path}:{line}"


@cache
def is_users(file: str) -> bool:
    """Whether a file belongs to no package, neither torch nor this one."""
    path = Path(file)
    if not path.is_absolute() or _PACKAGES & set(path.parts):
        return False
    return not any(path.resolve().is_relative_to(root) for root in _ROOTS)


def _last(frames: list[tuple[str, int]]) -> str:
    users = [frame for frame in frames if is_users(frame[0])]
    return place(*users[-1]) if users else _UNKNOWN


class PlacesNoted(TorchFunctionMode):
    """Notes on every operator that is traced in the block which line of the user's called for it.

    Torch itself keeps the frames of ``forward`` alone.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operator of torch."""
        del types
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not is_users(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is None:
            return func(*args, **(kwargs or {}))
        with annotate({_PLACE: (frame.f_code.co_filename, frame.f_lineno)}):
            return func(*args, **(kwargs or {}))
