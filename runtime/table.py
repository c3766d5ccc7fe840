"""Records by name: what lists, messages, choices and documents are derived from."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing import Protocol

    class Named(Protocol):
        """A record that has a name."""

        @property
        def name(self) -> str:
            """As users write it."""


Row = TypeVar("Row", bound="Named")


class Table(dict[str, Row]):
    """Records by their names, in the order in which they are listed.

    Args:
        what: the records are, for messages.
        rows: the records.

    Raises:
        ValueError: two rows have one name.
    """

    def __init__(self, what: str, rows: Iterable[Row]) -> None:
        super().__init__()
        self.what = what
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Add a record, which everything that is derived from the table has from now on.

        Raises:
            ValueError: there is one of that name.
        """
        if row.name in self:
            raise ValueError(f"got a second {self.what} {row.name!r}, expected another name; choose one")
        self[row.name] = row


def imported(place: str) -> Any:
    """What ``module:name`` names; rows name code so, which is then imported only where it is used."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def either(names: Iterable[str]) -> str:
    """Names as a sentence lists them: ``a``, ``a or b``, ``a, b or c``."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
