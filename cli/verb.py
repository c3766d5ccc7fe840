"""What all verbs share: help with examples, ``--json``, and what to say when they are interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_KEPT = "adaptrt.kept"


class Verb(click.Command):
    """A command whose help ends in an Examples section.

    Args:
        examples: One example per line, printed as they are; or what gives them, where they come from a table.
        details: Gives a paragraph of the help that comes from a table; None: there is none.
    """

    def __init__(
        self,
        *args: Any,
        examples: str | Callable[[], str],
        details: Callable[[], str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self._examples, self._details = examples, details

    @property
    def examples(self) -> list[str]:
        """One per line."""
        text = self._examples if isinstance(self._examples, str) else self._examples()
        return text.strip().splitlines()

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the command does."""
        super().format_help_text(ctx, formatter)
        if self._details is not None:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(self._details())

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the examples."""
        formatter.write_paragraph()
        formatter.write("Examples:\n")
        for line in self.examples:
            formatter.write(f"  {line.strip()}\n")


class _Words(click.types.StringParamType):
    """A file's name or a text, but not the empty one, which an unset shell variable gives."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("got '', expected a path or a text", param, ctx)
        return value


class _NamedPath(click.Path):
    """Any path but the empty one, which an unset shell variable gives and which would mean this folder."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("got '', expected a path", param, ctx)
        return super().convert(value, param, ctx)


PATH = _NamedPath(path_type=Path)
"""A file or folder; whether it is what is needed is for the room that reads it to say."""

PATH_OR_TEXT = _Words()
"""As it was written; a path loses what means nothing to it, such as a slash at the end."""


def _names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """The names of a list, each once; None where none was given."""
    del ctx, param
    if value is None:
        return None
    names = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
    if not names:
        raise click.UsageError("got --families without a name, expected some of acm,exits,tokens,routes")
    return names


families_option = click.option(
    "--families",
    metavar="LIST",
    callback=_names,
    help="Of acm,exits,tokens,routes; default: the first three, as far as the network can have them.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout instead of tables.")


def keep_on_interrupt(what: str) -> None:
    """Say what an interrupted verb leaves behind; printed after ``interrupted:``."""
    click.get_current_context().meta[_KEPT] = what


def kept_on_interrupt(ctx: click.Context) -> str:
    """What the running verb said it leaves behind."""
    return str(ctx.meta.get(_KEPT, "nothing was written"))
