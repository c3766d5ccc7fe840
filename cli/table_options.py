"""Options whose help comes from the tables of records, which are read when the help is shown.

``adaptrt --help`` imports every verb: reading the tables there would cost it the import of the runtime.
"""

from __future__ import annotations

from collections.abc import Callable
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
