"""What the commands of this room share: progress, tables, and how they end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from adaptrt import AdaptrtError
from adaptrt.bench.reports.result_json import write_json

_WIDTH_IN_FILES = 140  # columns of a table that goes to a file or a pipe
_INTERRUPTED = 130  # what shells report for Ctrl-C


def existing_folder(_context: click.Context, _option: click.Parameter, file: Path | None) -> Path | None:
    """Refuse a file that could not be written before minutes are spent on what goes into it."""
    if file is not None and not file.parent.is_dir():
        raise click.BadParameter(f"{file.parent} is no folder; make it first, or name another file")
    return file


json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=existing_folder,
    help="Write the result here.",
)
"""``--json FILE`` of every command."""


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Progress bars on standard error; in a log there are no bars, and what is printed stays."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress


def show(table: RenderableType, result: object, json_file: Path | None) -> None:
    """Print a table, or several, to standard output and, if a file is named, write the result to it."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_IN_FILES)
    console.print(table)
    if json_file is not None:
        write_json(result, json_file)


def run_command(command: click.Command, *, kept: str = "nothing was written") -> None:
    """Run a command as this process: a user's mistake is one line and exit code 2, Ctrl-C is 130.

    Args:
        command: The command.
        kept: What an interrupt leaves behind.
    """
    try:
        command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except AdaptrtError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"interrupted: {kept}", err=True)
        sys.exit(_INTERRUPTED)
