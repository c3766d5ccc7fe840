"""The table of who passes the kit says what the reports say, and a failed or missing test is not a pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.kit import INDEX, KIT, read_json
from tests.conformance.passed import RUNTIMES, KitRuntime, Passed, main, merged, outcomes, passed_by, read_passed

NAMES = [entry["name"] for entry in read_json(KIT / INDEX)["cases"]]
ABOUT = {"day": "2026-01-01", "cpu": "a", "commit": None}
RUNTIME = KitRuntime("R", "engine", "near", "r", r"case (\w+)", ("refuses",), r"trace (\w+)")


def report(folder: Path, *cases: str, name: str = "r") -> Path:
    path = folder / f"{name}.xml"
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return path


def test_what_failed_or_was_skipped_is_not_passed(tmp_path: Path) -> None:
    fine = '<testcase name="case a"/><testcase name="trace x"/><testcase name="trace y"/>'
    bad = '<testcase name="case b"><failure/></testcase><testcase name="case c"><skipped/></testcase>'
    for refuses, expected in (
        ('<testcase name="refuses"/>', True),
        ('<testcase name="refuses"><error/></testcase>', False),
    ):
        row = passed_by(RUNTIME, outcomes(report(tmp_path, fine, bad, refuses)), 4, ABOUT)
        assert (row.cases, row.refused, row.traces) == (["a"], expected, 2)


@pytest.mark.parametrize("cases,missing", [('<testcase name="case a"/>', "refuses"), ("", "passed case")])
def test_a_report_that_lacks_a_test_is_refused(cases: str, missing: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=missing):
        passed_by(RUNTIME, outcomes(report(tmp_path, cases)), 4, ABOUT)


def test_a_runtime_without_a_new_report_keeps_its_row() -> None:
    rows = [
        Passed(each.name, each.over, "", [], None, None, day, "", None)
        for each, day in zip(RUNTIMES, "abcdefgh", strict=False)
    ]
    new = Passed(RUNTIMES[1].name, RUNTIMES[1].over, "", [], None, None, "new", "", None)
    assert [row.day for row in merged([new], rows)] == ["a", "new", *"cdefgh"[: len(RUNTIMES) - 2]]


def test_an_unknown_report_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(report(tmp_path, name="unknown")), "--output", str(tmp_path / "passed.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "passed.json").exists()


def test_the_kept_table_is_of_this_kit() -> None:
    """A bundle that is new in the kit must be run everywhere before the table can say anything of it."""
    rows = read_passed()
    assert [(row.runtime, row.over) for row in rows] == [(each.name, each.over) for each in RUNTIMES]
    for row in rows:
        assert row.cases == sorted(NAMES), f"{row.runtime} over {row.over}: run `make conformance`"
        assert row.refused is not False
        assert row.traces in (None, len(read_json(KIT / INDEX)["traces"]))
