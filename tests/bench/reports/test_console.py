from __future__ import annotations

from pathlib import Path

import click
import pytest
from rich.table import Table

from adaptrt.bench.errors import BenchError
from adaptrt.bench.reports.console import run_command, show


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (BenchError("got 0, expected 1; add one"), 2, "error: got 0, expected 1; add one\n"),
        (KeyboardInterrupt(), 130, "interrupted: nothing was written\n"),
        (click.UsageError("no such option"), 2, "Error: no such option\n"),
    ],
)
def test_a_command_ends_with_one_line_and_its_code(
    raised: BaseException,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @click.command()
    def failing() -> None:
        raise raised

    monkeypatch.setattr("sys.argv", ["failing"])
    with pytest.raises(SystemExit) as ended:
        run_command(failing)
    captured = capsys.readouterr()
    assert (ended.value.code, captured.out) == (code, "")
    assert captured.err.endswith(said) and "Traceback" not in captured.err


def test_a_table_in_a_file_is_not_cut_at_eighty_columns(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = Table("a heading of a column " * 4)
    table.add_row("1234567890" * 10)
    show(table, {"a": 1}, tmp_path / "result.json")
    assert "1234567890" * 10 in capsys.readouterr().out
    assert (tmp_path / "result.json").read_text() == '{\n  "a": 1\n}\n'
