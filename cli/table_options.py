"""Options whose help and choices come from the tables of records, which are read when they are used.

``adaptrt --help`` imports every verb: reading the tables there would cost it the import of the runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click


class TableOption(click.Option):
    """An option with its help, and if wanted its metavar, made when they are shown.

    Args:
        table_help: Gives the help.
        table_metavar: Gives the metavar; None leaves it to click.
    """

    def __init__(
        self,
        *args: Any,
        table_help: Callable[[], str],
        table_metavar: Callable[[], str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.table_help, self.table_metavar = table_help, table_metavar

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The option's line in the help."""
        self.help = self.table_help()
        if self.table_metavar is not None:
            self.metavar = self.table_metavar()
        return super().get_help_record(ctx)


class TableChoice(click.ParamType):  # type: ignore[type-arg] # before click 8.2 it took no arguments
    """One of the names that a table gives when the option is used.

    Args:
        names: Gives them.
    """

    name = "choice"

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        self.names = names

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002 - click's
        """The names, as a choice shows them."""
        return f"[{'|'.join(self.names())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name, if it is one of them."""
        if value not in self.names():
            self.fail(f"{value!r} is not one of {', '.join(map(repr, self.names()))}.", param, ctx)
        return value
