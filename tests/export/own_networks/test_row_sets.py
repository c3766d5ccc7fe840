"""Which set of rows a call takes from, and whether what it takes replaces the set."""

import pytest

from adaptrt.export.own.row_sets import RowSet, follow_rows
from adaptrt.export.parity.reference import FOLLOWED
from adaptrt.models.tokens import TOKENS

TAKEN = ["taken_0", "taken_1", "taken_2", "taken_3"]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["n", "n"], [RowSet("n", "n", False), RowSet("n", "n", False)]),
        (["n", "taken_0"], [RowSet("n", "n", True), RowSet("n", "n", False)]),
        (["m", "n", "taken_0", "taken_1"], [RowSet(s, s, nested) for nested in (True, False) for s in "mn"]),
        # Pruned once, and all rows once more: another set, which starts anew.
        (["n", "n", "taken_0"], [RowSet("n", "n", True), RowSet("n 2", "n", False), RowSet("n", "n", False)]),
        ([64, "taken_0"], [RowSet("64 rows", 64, True), RowSet("64 rows", 64, False)]),
        (["tokens"], [RowSet("tokens rows", "tokens", False)]),
        ([None, "taken_0"], [None, None]),
        # Of what is left of a set two calls ago nobody knows any more which rows they are.
        (["n", "taken_0", "taken_1", "taken_0"], [RowSet("n", "n", True)] * 2 + [RowSet("n", "n", False), None]),
    ],
)
def test_sets(sources: list[str | int | None], expected: list[RowSet | None]) -> None:
    assert follow_rows(sources, TAKEN[: len(sources)], ["m", "n", "tokens"]) == expected


def test_own_tokens_have_the_name_that_parity_follows() -> None:
    assert FOLLOWED == TOKENS
