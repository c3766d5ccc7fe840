"""The command ``adaptrt``: finds its verbs, and turns what a user can mend into one line and exit code 2."""

from __future__ import annotations

import importlib
import os
from typing import IO, Any

import click

import adaptrt as package
from adaptrt import AdaptrtError
from adaptrt.cli.errors import one_line
from adaptrt.cli.interrupts import interrupted, interrupts_noted
from adaptrt.cli.output import warnings_noted
from adaptrt.cli.verb import kept_on_interrupt

VERBS = (
    *("train", "adapt", "estimate", "export", "calibrate", "build", "verify", "inspect", "run", "bench", "profile"),
    *("demo", "serve"),
)

INTERRUPTED = 130  # 128 + SIGINT, as shells report it

_LONGEST_NAME = 200

_EXTRAS = {
    **dict.fromkeys(("rich", "PIL", "onnx"), "cli"),
    **dict.fromkeys(("torch", "onnxscript", "safetensors", "sklearn", "matplotlib"), "export"),
    **dict.fromkeys(("transformers", "optimum", "datasets"), "pretrained"),
    "ray": "ray",
    **dict.fromkeys(("kserve", "fastapi", "uvicorn"), "serve"),
}
"""The extra that brings a module; for an engine's module its record says it."""


class Failure(click.ClickException):
    """A user's mistake: ``error: <one line>`` on stderr, exit code 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        click.echo(f"error: {one_line(self.message)}", file=file, err=True)


class VerbGroup(click.Group):
    """Imports the file of a verb only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Verbs in the order of the work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The verb of that name, from the file of that name."""
        if cmd_name not in VERBS:
            return None
        command = getattr(importlib.import_module(f"adaptrt.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what stands before the verb."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise _wrong_usage(error, ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb. Exceptions that no user can mend pass through, with their traceback."""
        with interrupts_noted(), warnings_noted():
            try:
                return self._invoke(ctx)
            except click.exceptions.Exit:
                raise
            except (Exception, KeyboardInterrupt) as error:
                if not isinstance(error, KeyboardInterrupt) and not interrupted():
                    raise
                click.echo(f"interrupted: {kept_on_interrupt(ctx)}", err=True)
                ctx.exit(INTERRUPTED)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AdaptrtError as error:
            raise Failure(str(error)) from error
        except click.UsageError as error:
            raise _wrong_usage(error, ctx) from error
        except OSError as error:
            if error.filename is None:
                raise
            raise _unusable_path(error) from error
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            extra = _extra_of(module)
            if extra is None:
                raise
            raise Failure(
                f"{module} is not installed, expected it for `adaptrt {ctx.invoked_subcommand}`; "
                f"run: pip install 'adaptrt[{extra}]'"
            ) from error


def _extra_of(module: str) -> str | None:
    """The extra that brings a module; None where none does."""
    if module in _EXTRAS:
        return _EXTRAS[module]
    from adaptrt.runtime.backends.backend_table import BACKENDS

    extras = (extra for record in BACKENDS.values() if module in record.modules for extra in record.extras)
    return next(extras, None)


def _unusable_path(error: OSError) -> Failure:
    """What no room foresaw about a path: a name too long, a folder that may not be read, a full disk."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else str(error.filename)
    shown = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
    return Failure(
        f"cannot use {shown!r}: {error.strerror or type(error).__name__}, expected a path that can be read or "
        "written as the command needs; check its name and permissions, or choose another one"
    )


def _wrong_usage(error: click.UsageError, ctx: click.Context) -> Failure:
    command = error.ctx.command_path if error.ctx else ctx.command_path
    return Failure(f"{error.format_message().rstrip('.')}; see `{command} --help`")


@click.group(cls=VerbGroup)
@click.version_option(package.__version__, message="adaptrt %(version)s")
def adaptrt() -> None:
    """Export networks whose work depends on their input, and run them under a budget.

    `adaptrt VERB --help` shows what a verb does, with examples. Exit codes: 0 done, 2 a mistake, or
    output that cannot be written, that the one line on stderr explains, 130 interrupted, 141 the reader
    of the output left, as head does.
    """
