"""What leaves a verb: tables or JSON on stdout, remarks on stderr, files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptrt import AdaptrtWarning
from adaptrt.cli.errors import CommandError

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDTH = 140
"""Characters per line where stdout is no terminal; a table's columns are not squeezed below that."""


def show(*renderables: RenderableType) -> None:
    """Print tables and lines on stdout."""
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(markup=False, emoji=False, highlight=False, width=_WIDTH)
    for renderable in renderables:
        if isinstance(renderable, str):
            console.print(renderable, soft_wrap=True)
        else:
            console.print(renderable, "")


def show_json(value: object) -> None:
    """Print JSON on stdout; numbers that are not finite become null."""
    click.echo(json.dumps(plain(value), indent=2, allow_nan=False))


def note(message: str) -> None:
    """Print a remark on stderr."""
    click.echo(message, err=True)


@contextlib.contextmanager
def warnings_noted() -> Iterator[None]:
    """Print what our rooms warn of as remarks, each once; other warnings go where they always go."""
    usual, seen = warnings.showwarning, set()

    def show_warning(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if not issubclass(category, AdaptrtWarning):
            usual(message, category, *rest, **more)
        elif str(message) not in seen:
            seen.add(str(message))
            note(f"note: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", AdaptrtWarning)
        warnings.showwarning = show_warning
        yield


def plain(value: object) -> Any:
    """Dataclasses, structs, arrays and numpy numbers as what JSON can hold."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):  # numpy's float64 too
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "__struct_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return str(value)


def check_output_file(path: Path, suffixes: Iterable[str], *, inputs: Iterable[Path] = ()) -> None:
    """Refuse a file that could not be written, or that must not be, before any work is done.

    Args:
        path: The file to be.
        suffixes: How its name may end.
        inputs: Files that are read and must not be replaced.

    Raises:
        CommandError: Its folder is missing or takes no files, it is a folder or an input, or ends in another suffix.
    """
    expected = " or ".join(suffixes)
    if path.suffix.lower() not in suffixes:
        raise CommandError(f"got output {str(path)!r}, expected a name that ends in {expected}; rename it")
    if path.is_dir():
        raise CommandError(f"got output {str(path)!r}, a folder, expected a file; add a name ending in {expected}")
    if not path.parent.is_dir():
        raise CommandError(
            f"got output {str(path)!r}, whose folder does not exist, expected one that does; "
            f"make it: mkdir -p {path.parent}"
        )
    if path.resolve() in {source.resolve() for source in inputs}:
        raise CommandError(f"got {str(path)!r} as input and output, expected two files; choose another output")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise CommandError(
            f"cannot write {path}: {error.strerror or type(error).__name__}, expected a folder that takes files; "
            "choose another output"
        ) from error
